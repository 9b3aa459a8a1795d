"""What every durable call shares: its place, replay, the cancel, and a record that somebody else wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, LeaseLost, Lost, Suspend, Transient
from dbdurable._core.failure import decode_failure, settle_failure
from dbdurable._core.journal import LATE, Record
from dbdurable._core.path import Line
from dbdurable._protocol.effects import Appended, Flow, StepRecord, append, pause
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.limit import TIMED_OUT, Limit, first_over, mark_told, note_limits, told
from dbdurable._protocol.ownership import check_lease, ensure_started, rerun_delay_s, resync, steadfast
from dbdurable._sql.message import PUT_EVENT
from dbdurable._sql.step import PLACE_RECORD, READ_STEP, RECORD_FENCED
from dbdurable.errors import Cancelled, WaitTimeout
from dbdurable.types import Retry

WAITS = "the workflow waits: this attempt of its body is over"
UNNEEDED = "the workflow goes on without this branch"
PROGRESS = "!progress"
"""The event that progress() sets; names of users never begin like that."""

_LEFT = '{"type": "CancelledError", "module": "asyncio.exceptions", "message": "cancelled by the workflow itself"}'
_CANCELLED = '{"type": "Cancelled", "module": "dbdurable.errors", "message": '


class DurableCall:
    """One call of a step or transaction, at its place in its workflow.

    What most calls do not change stands in the class: a dataclass would write all of it into each.
    """

    seq: int | None = None
    """The position of its outcome; noted where `turns` is set."""
    turns: Any = None
    """What brings the outcomes of parallel calls in order; None for a call that has no others beside it."""
    source: Any = None
    isolation: str | None = None
    row_factory: Any = None

    written_us: int | None = None
    """When its record was written, once it is there; microseconds since 1970."""
    cleans_up: bool = False
    """Whether it began after the code around it had seen a cancel."""
    undoes: str | None = None
    """What it undoes, in words; such a call is tried until it works."""
    epoch: int = 0
    """The epoch under which it began: a cancel in the meantime fences it, whatever others do."""
    left: bool = False
    """Whether its branch is not needed any more: nothing of it should commit from here on."""

    def __init__(
        self,
        frame: WorkflowFrame,
        line: Line,
        path: str,
        kind: str,
        name: str,
        run: Callable[..., Any],
        codec: ValueCodec,
        retry: Retry,
        timeout_s: float | None = None,
        shielded: bool = False,
        limits: tuple[Limit, ...] = (),
    ) -> None:
        self.frame = frame
        self.line = line
        self.path = path
        self.kind = kind
        self.name = name
        self.run = run
        """A step: the attempt's number. A transaction: the attempt's number and the handle."""
        self.codec = codec
        self.retry = retry
        self.timeout_s = timeout_s
        self.shielded = shielded
        """Whether it runs although the workflow was cancelled."""
        self.limits = limits
        """The `timeout()` blocks around it."""

    def seen(self) -> None:
        """The body sees what came of it: its time moves on."""
        self.frame.saw(self.written_us)

    @property
    def in_flight(self) -> Any:
        """Where its code says how to interrupt it; None where a cancel does not: shielded, or clean-up."""
        return None if self.shielded or self.cleans_up else self.frame.in_flight

    def give_up_seq(self) -> None:
        """What was sent has come to nothing and something long is ahead: others need not wait for it."""
        if self.turns is not None:
            self.turns.give_up(self)

    @property
    def what(self) -> str:
        """How errors name the value that the call returns."""
        return f"the result of {self.kind} {self.name}"


def recall(this: DurableCall) -> Flow[Record | None]:
    """The record of this call, if there is one; else checks that the attempt may go on."""
    frame = this.frame
    if frame.unwinding is not None:
        raise frame.unwinding
    if this.line.suspended:
        raise Suspend(WAITS)
    this.cleans_up = this.line.heard
    try:
        record = frame.journal.match(this.path, this.kind, this.name)
    except Diverged as diverged:
        raise frame.diverge(diverged) from None
    if record is not None:
        return (yield from placed(this, record))
    return (yield from may_begin(this))


def may_begin(this: DurableCall) -> Flow[Record | None]:
    """Raises where the call must not begin, or begin again: the attempt is over, or was cancelled.

    The answer is a record that somebody else wrote just before the cancel could be recorded.
    """
    frame = this.frame
    frame.check()
    if this.left:
        raise Lost(UNNEEDED)
    if frame.interrupt is not None and not this.line.heard:
        if not this.shielded:
            return (yield from deliver_cancel(this))
        if not frame.adopted:
            yield from resync(frame)
    this.epoch = frame.epoch
    if this.limits or frame.left_limits:
        yield from note_limits(this)
        limit = first_over(this)
        if limit is not None:
            return (yield from time_out(this, limit))
    return None


def time_out(this: DurableCall, limit: Limit) -> Flow[Record]:
    """Records that the call ended by the time of a block around it, and raises that; or finds its record."""
    record = new_record(this, 1, 0.0, None, told(limit))
    answer = yield from appended(this, record)
    if not answer.mine:
        yield from resync(this.frame)
        return (yield from deliver_cancel(this))
    if not answer.wrote:
        return (yield from written(this))
    mark_told(this, limit.path)
    raise WaitTimeout(json.loads(record.error or "")["message"])


def replayed(this: DurableCall, record: Record) -> Any:
    """What the body saw when the call was recorded: its value, or its error raised again."""
    this.written_us = record.finished_us
    if record.error is None:
        return this.codec.decode(record.output)
    if record.error.startswith(_CANCELLED):
        this.line.heard = True
        raise Cancelled(json.loads(record.error)["message"])
    if record.error.startswith(TIMED_OUT):
        data = json.loads(record.error)
        mark_told(this, data["limit"])
        raise WaitTimeout(data["message"])
    raise decode_failure(record.error)


def fenced(this: DurableCall) -> Flow[Any]:
    """The row is not ours under this epoch any more: cancelled under us, or taken over."""
    yield from resync(this.frame)
    return replayed(this, (yield from deliver_cancel(this)))


def goes_on(this: DurableCall) -> Flow[bool]:
    """After a refusal: whether a shielded call is to be made again, under the epoch of the cancel."""
    frame, refused = this.frame, this.epoch
    yield from resync(frame)
    if not this.shielded:
        return False
    if frame.epoch == refused:
        raise frame.unwind(LeaseLost(f"workflow {frame.id} was refused under its own epoch"))
    this.epoch = frame.epoch
    return True


def deliver_cancel(this: DurableCall) -> Flow[Record]:
    """Records that this call ended by the cancel, so that a replay sees the same, and raises it.

    Where a record is there already it has won, and is the answer; the next call gets the cancel.
    """
    frame = this.frame
    if this.cleans_up:  # cancelled twice over: the clean-up itself was refused by another epoch
        raise frame.unwind(LeaseLost(f"workflow {frame.id} was refused while it cleaned up"))
    reason = frame.interrupt or ""
    text = f"{_CANCELLED}{json.dumps(reason)}}}"
    answer = yield from appended(this, new_record(this, 1, 0.0, None, text))
    if not answer.mine:
        yield from resync(frame)
        answer = yield from appended(this, new_record(this, 1, 0.0, None, text))
    if not answer.wrote:
        return (yield from written(this))
    this.line.heard = True
    raise Cancelled(reason)


def appended(this: DurableCall, record: StepRecord) -> Flow[Appended]:
    """Sends the record until there is an answer; sent twice it finds itself and is adopted."""
    yield from show_progress(this.frame)
    yield from ensure_started(this.frame)
    tries = 0
    while True:
        try:
            answer = yield from append(this.frame.lease.executor_id, record)
        except (ConnectionLost, Transient):
            check_lease(this.frame)
            tries += 1
            yield from pause(rerun_delay_s(tries))
        else:
            this.written_us = answer.written_us
            return answer


def show_progress(frame: WorkflowFrame) -> Flow[None]:
    """Writes what progress() has said, ahead of a record."""
    if frame.progress is not None:
        text, frame.progress = frame.progress, None
        yield from steadfast(PUT_EVENT, frame.id, PROGRESS, text, frame=frame)


def new_record(this: DurableCall, attempts: int, elapsed_s: float, output: str | None, error: str | None) -> StepRecord:
    """What the journal gets: takes the next position in durable order."""
    frame = this.frame
    return StepRecord(
        workflow_id=frame.id,
        path=this.path,
        seq=frame.next_seq(this),
        kind=this.kind,
        name=this.name,
        attempts=attempts,
        epoch=frame.epoch,
        elapsed_s=elapsed_s,
        output=output,
        error=error,
    )


def adopt(this: DurableCall) -> Flow[Any]:
    """Somebody recorded this call already: take that outcome if it is the same call."""
    return replayed(this, (yield from written(this)))


def placed(this: DurableCall, record: Record) -> Flow[Record]:
    """A record that somebody else wrote beside parallel calls of this body: what the body has seen meanwhile
    came before it, so it gets a position after that."""
    frame = this.frame
    known = frame.journal.peek(this.path) is record and record.seq != LATE
    if known or record.seq == this.seq or (this.turns is None and record.seq != LATE):
        return record
    place = (frame.id, this.path, frame.next_seq(this), frame.lease.executor_id)
    if not (yield from steadfast(PLACE_RECORD, *place, frame.epoch, frame=frame)):
        yield from resync(frame)
        yield from steadfast(PLACE_RECORD, *place, frame.epoch, frame=frame)
    return record


def leave(this: DurableCall) -> Flow[None]:
    """Records that the body itself cancelled this call, so that a replay neither repeats nor awaits it.

    What the call was about may still be recorded before; then that stays.
    """
    yield from appended(this, new_record(this, 1, 0.0, None, _LEFT))


def was_left(record: Record) -> bool:
    """Whether the body itself cancelled this call."""
    return record.error == _LEFT


def written(this: DurableCall) -> Flow[Record]:
    """The record that somebody else wrote of this call."""
    record = yield from read_record(this)
    if record is None:
        raise this.frame.unwind(LeaseLost(f"the workflow {this.frame.id} ended elsewhere"))
    if record.kind != this.kind or record.name != this.name:
        raise this.frame.unwind(
            Diverged(
                f"path {this.path} was recorded as {record.kind} {record.name} by another attempt, "
                f"while this one called {this.kind} {this.name}"
            )
        )
    return (yield from placed(this, record))


def record_failure(this: DurableCall, seq: int, attempts: int, elapsed_s: float, error: Exception) -> Flow[Any]:
    """The error of a call whose statements were rolled back: fenced, in a transaction of its own. Raises it."""
    text, seen = settle_failure(error)
    frame = this.frame
    call = (frame.id, this.path, seq, this.kind, this.name, attempts, frame.lease.executor_id)
    try:
        rows = yield from steadfast(RECORD_FENCED, *call, this.epoch, None, text, elapsed_s, frame=frame)
    except Fenced:
        if not (yield from goes_on(this)):
            return replayed(this, (yield from deliver_cancel(this)))
        return (yield from record_failure(this, seq, attempts, elapsed_s, error))
    except Duplicate:
        return (yield from adopt(this))  # it had committed after all
    this.written_us = rows[0][0]
    raise seen


def read_record(this: DurableCall) -> Flow[Record | None]:
    """The record at this call's path, as the database has it now."""
    rows = yield from steadfast(READ_STEP, this.frame.id, this.path, frame=this.frame)
    return Record(*rows[0]) if rows else None
