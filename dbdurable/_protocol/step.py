"""One durable call: replay it, or run it and record what came out, before the body sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any, NoReturn
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, LeaseLost, Torn, Transient
from dbdurable._core.failure import decode_failure, settle_failure
from dbdurable._core.journal import Record
from dbdurable._core.retry import is_transient, next_delay_s
from dbdurable._protocol.effects import (
    Flow,
    Row,
    StepRecord,
    append,
    begin,
    call,
    commit,
    pause,
    query,
    rollback,
)
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.start import Start
from dbdurable._sql import step as sql
from dbdurable._sql import workflow as workflow_sql
from dbdurable._sql.workflow import START_CHILD
from dbdurable._sql.statement import Statement
from dbdurable.errors import BadArgument, Cancelled, NotInTransaction, NotInWorkflow, StepTimeout, WrongColour
from dbdurable.types import Retry

RERUN_DELAY_S_MAX = 2.0
"""Longest wait before a body is run again after a serialization failure or a lost connection."""

RERUNS_MAX = 50
"""How often a body is run again for such reasons before they count as its own error."""

_jitter = Random()  # noqa: S311  (spreads retries, guards nothing)
_MISTAKES = (BadArgument, NotInTransaction, NotInWorkflow, WrongColour)
_CANCELLED = '{"type": "Cancelled", "module": "dbdurable.errors", "message": '


@dataclass(slots=True, eq=False)
class DurableCall:
    """One call of a step or transaction, at its place in its workflow."""

    frame: WorkflowFrame
    path: str
    kind: str
    name: str
    run: Callable[..., Any]
    """A step: the attempt's number. A transaction: the attempt's number and the handle."""
    codec: ValueCodec
    retry: Retry
    timeout_s: float | None = None
    source: Any = None
    isolation: str | None = None
    row_factory: Any = None

    @property
    def what(self) -> str:
        """How errors name the value that the call returns."""
        return f"the result of {self.kind} {self.name}"


def step(this: DurableCall) -> Flow[Any]:
    """A call with outside effects: at least once, then its outcome is a row."""
    record = yield from _recall(this)
    if record is not None:
        return replayed(this, record)
    attempt, begun = 0, monotonic()
    while True:
        attempt += 1
        this.frame.check()
        try:
            value = yield from call(lambda n=attempt: this.run(n), this.timeout_s, this.name)  # type: ignore[misc]
            text, value = this.codec.settle(value, this.what)
        except Exception as error:
            delay_s = _retry_delay_s(this, attempt, error)
            if delay_s is not None:
                yield from pause(delay_s)
                continue
            return (yield from _append(this, attempt, monotonic() - begun, error=error))
        return (yield from _append(this, attempt, monotonic() - begun, text=text, value=value))


def transaction(this: DurableCall) -> Flow[Any]:
    """A call whose writes and whose record commit together: exactly once."""
    record = yield from _recall(this)
    if record is not None:
        return replayed(this, record)
    frame = this.frame
    seq = frame.journal.next_seq()
    attempt, reruns, begun = 1, 0, monotonic()
    while True:
        frame.check()
        try:
            handle = yield from begin(this.source, this.isolation, this.row_factory, this.path, this.name)
            value = yield from call(
                lambda n=attempt, h=handle: this.run(n, h),  # type: ignore[misc]
                this.timeout_s,
                this.name,
            )
            text, value = this.codec.settle(value, this.what)
            yield from commit(
                sql.RECORD_IN_TRANSACTION,
                frame.id,
                this.path,
                seq,
                this.kind,
                this.name,
                attempt,
                frame.lease.executor_id,
                frame.epoch,
                text,
            )
            return value
        except Fenced:
            yield from rollback()
            yield from fenced(this)
        except Duplicate:
            yield from rollback()
            return (yield from _adopt(this))
        except ConnectionLost as lost:
            found = yield from _after_lost_commit(this, lost)
            if found is not None:
                return replayed(this, found)
        except Transient:
            yield from rollback()
        except Torn as torn:
            yield from rollback()
            raise frame.unwind(Diverged(_torn_text(this))) from torn
        except Exception as error:
            alive = yield from rollback()
            if isinstance(error, StepTimeout) or (alive and not is_transient(error)) or reruns >= RERUNS_MAX:
                delay_s = _retry_delay_s(this, attempt, error)
                if delay_s is None:
                    return (yield from _record_failure(this, seq, attempt, monotonic() - begun, error))
                attempt += 1
                yield from pause(delay_s)
                continue
        # Nothing was committed and nothing is the step's fault: run the body again, no attempt charged.
        reruns += 1
        yield from pause(_rerun_delay_s(reruns))


def start_child(this: DurableCall, start: Start) -> Flow[UUID]:
    """A workflow started inside a workflow: its id is the output of the parent's record, written with it."""
    record = yield from _recall(this)
    frame = this.frame
    if record is None:
        seq = frame.journal.next_seq()
        owner = (frame.id, this.path, seq, frame.lease.executor_id, frame.epoch)
        try:
            rows = yield from steadfast(START_CHILD, *start.params, *owner, frame=frame)
            return UUID(rows[0][0])
        except Fenced:
            yield from fenced(this)
        except Duplicate:
            return UUID((yield from _adopt(this)))
    assert record is not None
    return UUID(replayed(this, record))


def replayed(this: DurableCall, record: Record) -> Any:
    """What the body saw when the call was recorded: its value, or its error raised again."""
    if record.error is None:
        return this.codec.decode(record.output)
    if record.error.startswith(_CANCELLED):
        this.frame.interrupted = True
        raise Cancelled(json.loads(record.error)["message"])
    raise decode_failure(record.error)


def steadfast(statement: Statement, *params: Any, frame: WorkflowFrame) -> Flow[list[Row]]:
    """An idempotent statement, sent again while the database is away and the lease is good."""
    tries = 0
    while True:
        try:
            return (yield from query(statement, *params))
        except (ConnectionLost, Transient):
            if frame.lease.lost:
                raise frame.unwind(LeaseLost("the database was away for longer than the lease")) from None
            tries += 1
            yield from pause(_rerun_delay_s(tries))


def fenced(this: DurableCall) -> Flow[NoReturn]:
    """The row is not ours under this epoch any more: cancelled under us, or taken over."""
    yield from resync(this.frame)
    yield from _deliver_cancel(this)
    raise AssertionError("resync raises or leaves a cancel to deliver")


def resync(frame: WorkflowFrame) -> Flow[None]:
    """After a refusal: adopts the new epoch when the workflow was cancelled under this executor.

    Raises `LeaseLost` when somebody else decides by now (taken over, paused, finished).
    """
    rows = yield from steadfast(workflow_sql.OWNERSHIP, frame.id, frame=frame)
    if rows:
        status, executor_id, epoch, interrupt = rows[0]
        if status == "running" and executor_id == frame.lease.executor_id and interrupt is not None:
            frame.epoch, frame.interrupt = epoch, interrupt
            return
    raise frame.unwind(LeaseLost(f"workflow {frame.id} was taken over, paused or ended elsewhere"))


def _recall(this: DurableCall) -> Flow[Record | None]:
    """The record of this call, if there is one; else checks that the attempt may go on."""
    frame = this.frame
    if frame.unwinding is not None:
        raise frame.unwinding
    try:
        record = frame.journal.match(this.path, this.kind, this.name)
    except Diverged as diverged:
        raise frame.unwind(Diverged(str(diverged).replace("{id}", str(frame.id)))) from None
    if record is None:
        frame.check()
        if frame.interrupt is not None and not frame.interrupted:
            yield from _deliver_cancel(this)
    return record


def _deliver_cancel(this: DurableCall) -> Flow[NoReturn]:
    """Records that this call ended by the cancel, so that a replay sees the same, and raises it."""
    frame = this.frame
    if frame.interrupted:       # cancelled twice over: the clean-up itself was refused by another epoch
        raise frame.unwind(LeaseLost(f"workflow {frame.id} was refused while it cleaned up"))
    frame.interrupted = True
    reason = frame.interrupt or ""
    text = f"{_CANCELLED}{json.dumps(reason)}}}"
    record = _record(this, 1, 0.0, None, text)
    answer = yield from _appended(this, record)
    if not answer.mine:
        yield from resync(frame)
        yield from _appended(this, _record(this, 1, 0.0, None, text))
    raise Cancelled(reason)


def _append(
    this: DurableCall,
    attempts: int,
    elapsed_s: float,
    *,
    text: str | None = None,
    value: Any = None,
    error: Exception | None = None,
) -> Flow[Any]:
    """Records an outside step, and lets the body go on only when the workflow is still ours."""
    failure = None
    if error is not None:
        failure, error = settle_failure(error)
    record = _record(this, attempts, elapsed_s, text, failure)
    answer = yield from _appended(this, record)
    if not answer.mine:
        yield from resync(this.frame)
        if not answer.wrote and failure is not None:
            # The error of an epoch that is over is no fact; under the new one it is.
            answer = yield from _appended(this, _record(this, attempts, elapsed_s, text, failure))
    if not answer.wrote:
        return (yield from _adopt(this))
    if error is not None:
        raise error
    return value


def _appended(this: DurableCall, record: StepRecord) -> Flow[Any]:
    """Sends the record until there is an answer; sent twice it finds itself and is adopted."""
    tries = 0
    while True:
        try:
            return (yield from append(this.frame.lease.executor_id, record))
        except (ConnectionLost, Transient):
            if this.frame.lease.lost:
                raise this.frame.unwind(LeaseLost("the database was away for longer than the lease")) from None
            tries += 1
            yield from pause(_rerun_delay_s(tries))


def _record(
    this: DurableCall, attempts: int, elapsed_s: float, output: str | None, error: str | None
) -> StepRecord:
    frame = this.frame
    return StepRecord(
        workflow_id=frame.id,
        path=this.path,
        seq=frame.journal.next_seq(),
        kind=this.kind,
        name=this.name,
        attempts=attempts,
        epoch=frame.epoch,
        elapsed_s=elapsed_s,
        output=output,
        error=error,
    )


def _record_failure(
    this: DurableCall, seq: int, attempts: int, elapsed_s: float, error: Exception
) -> Flow[NoReturn]:
    """The error of a transaction whose writes were rolled back: fenced, in a transaction of its own."""
    text, seen = settle_failure(error)
    frame = this.frame
    try:
        yield from steadfast(
            sql.RECORD_FENCED,
            frame.id,
            this.path,
            seq,
            this.kind,
            this.name,
            attempts,
            frame.lease.executor_id,
            frame.epoch,
            None,
            text,
            elapsed_s,
            frame=frame,
        )
    except Fenced:
        yield from fenced(this)
    except Duplicate:
        yield from _adopt(this)
    raise seen


def _adopt(this: DurableCall) -> Flow[Any]:
    """Somebody recorded this call already: take that outcome if it is the same call."""
    record = yield from _read(this)
    if record is None:
        raise this.frame.unwind(LeaseLost(f"the workflow {this.frame.id} ended elsewhere"))
    if record.kind != this.kind or record.name != this.name:
        raise this.frame.unwind(
            Diverged(
                f"path {this.path} was recorded as {record.kind} {record.name} by another attempt, "
                f"while this one called {this.kind} {this.name}"
            )
        )
    return replayed(this, record)


def _read(this: DurableCall) -> Flow[Record | None]:
    rows = yield from steadfast(sql.READ_STEP, this.frame.id, this.path, frame=this.frame)
    return Record(*rows[0]) if rows else None


def _after_lost_commit(this: DurableCall, lost: ConnectionLost) -> Flow[Record | None]:
    """The record, if the COMMIT whose answer was lost took effect. If not, it never will: run again.

    The old session is ended first, as it may hold the fence; should it commit all the same, the primary
    key decides between it and the next run.
    """
    if lost.backend is not None:
        yield from steadfast(sql.END_BACKEND, *lost.backend, frame=this.frame)
    return (yield from _read(this))


def _retry_delay_s(this: DurableCall, attempt: int, error: Exception) -> float | None:
    """When to call the function again; never for errors that only another text of the program mends."""
    if isinstance(error, _MISTAKES):
        return None
    return next_delay_s(this.retry, attempt, error, _jitter)


def _rerun_delay_s(tries: int) -> float:
    return min(RERUN_DELAY_S_MAX, 0.01 * 2.0 ** min(tries, 10)) * _jitter.uniform(0.5, 1.0)


def _torn_text(this: DurableCall) -> str:
    return (
        f"transaction {this.name} (path {this.path}) ended its own transaction with SQL (COMMIT or ROLLBACK): "
        "what it wrote until then may have committed without a record. Remove that statement; look at what it "
        f"wrote; then `dbdurable resume {this.frame.id}`."
    )


