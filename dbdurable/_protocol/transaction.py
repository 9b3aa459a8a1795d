"""A call whose writes and whose record commit together: exactly once."""

from __future__ import annotations

from time import monotonic
from typing import Any

from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, Torn, Transient
from dbdurable._core.failure import settle_failure
from dbdurable._core.journal import Record
from dbdurable._core.retry import is_transient
from dbdurable._protocol.call import DurableCall, adopt, fenced, read_record, recall, replayed, retry_delay_s
from dbdurable._protocol.effects import Flow, begin, call, commit, pause, rollback
from dbdurable._protocol.ownership import rerun_delay_s, steadfast
from dbdurable._sql import step as sql
from dbdurable.errors import StepTimeout

RERUNS_MAX = 50
"""How often a body is run again for reasons that are not its own, before they count as its error."""


def transaction(this: DurableCall) -> Flow[Any]:
    """A call whose writes and whose record commit together: exactly once."""
    record = yield from recall(this)
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
            return (yield from adopt(this))
        except ConnectionLost as lost:
            yield from rollback()
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
                delay_s = retry_delay_s(this, attempt, error)
                if delay_s is None:
                    return (yield from _record_failure(this, seq, attempt, monotonic() - begun, error))
                attempt += 1
                yield from pause(delay_s)
                continue
        # Nothing was committed and nothing is the step's fault: run the body again, no attempt charged.
        reruns += 1
        yield from pause(rerun_delay_s(reruns))


def _record_failure(this: DurableCall, seq: int, attempts: int, elapsed_s: float, error: Exception) -> Flow[Any]:
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
        return (yield from adopt(this))  # it had committed after all
    raise seen


def _after_lost_commit(this: DurableCall, lost: ConnectionLost) -> Flow[Record | None]:
    """The record, if the COMMIT whose answer was lost took effect. If not, it never will: run again.

    The old session is ended first, as it may hold the fence; should it commit all the same, the primary
    key decides between it and the next run.
    """
    if lost.backend is not None:
        yield from steadfast(sql.END_BACKEND, *lost.backend, frame=this.frame)
    return (yield from read_record(this))


def _torn_text(this: DurableCall) -> str:
    return (
        f"transaction {this.name} (path {this.path}) ended its own transaction with SQL (COMMIT or ROLLBACK): "
        "what it wrote until then may have committed without a record. Remove that statement; look at what it "
        f"wrote; then `dbdurable resume {this.frame.id}`."
    )
