"""A call whose writes and whose record commit together: exactly once."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, Interrupted, Lost, Torn, Transient
from dbdurable._core.journal import Record
from dbdurable._core.retry import is_transient
from dbdurable._protocol.call import (
    PROGRESS,
    UNNEEDED,
    DurableCall,
    adopt,
    deliver_cancel,
    goes_on,
    placed,
    read_record,
    recall,
    record_failure,
    replayed,
    time_out,
)
from dbdurable._protocol.effects import Begin, Call, Commit, Flow, Note, Query, rollback
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.limit import call_timeout_s, first_over
from dbdurable._protocol.message import announce
from dbdurable._protocol.ownership import persist
from dbdurable._protocol.retry import again_after, attempts_before, next_attempt, wait_for_next, wait_for_rerun
from dbdurable._sql import step as sql
from dbdurable._sql.message import PUT_EVENT
from dbdurable.errors import StepTimeout

RERUNS_MAX = 50
"""How often a body is run again for reasons that are not its own, before they count as its error."""


def transaction(this: DurableCall) -> Flow[Any]:
    """A call whose writes and whose record commit together: exactly once."""
    known = yield from recall(this)
    frame, attempts, reruns, begun = this.frame, 0, 0, monotonic()
    if known is None and frame.kept:
        attempts, known = yield from attempts_before(this)
    while known is None:
        attempt, again = next_attempt(attempts), None
        try:
            note = Note(this.path, frame.lease.mark)
            handle = yield Begin(this.source, this.isolation, this.row_factory, note, this.name)
            run = partial(this.run, attempt, handle)
            value = yield Call(run, call_timeout_s(this), this.name, this.in_flight)
            text, value = this.codec.settle(value, this.what)
            if this.left:
                raise Lost(UNNEEDED)
            said, record = frame.progress, _record(this, frame.next_seq(this), attempt, text)
            alone = frame.pending is None and said is None
            this.written_us = yield Commit((record,) if alone else (*_rides_along(frame), record))
            frame.pending = None
            if frame.progress is said:
                frame.progress = None
            if frame.announced:
                yield from _announce(this)
            return value
        except (Fenced, Interrupted):
            yield from rollback()
            if not (yield from goes_on(this)):
                return replayed(this, (yield from deliver_cancel(this)))
        except Duplicate:
            yield from rollback()
            return (yield from adopt(this))
        except ConnectionLost as lost:
            yield from rollback()
            found = yield from _after_lost_commit(this, lost)
            if found is not None:
                yield from _announce(this)
                return replayed(this, found)
        except Transient:
            yield from rollback()
        except Torn as torn:
            yield from rollback()
            raise frame.unwind(Diverged(_torn_text(this))) from torn
        except Exception as error:
            alive = yield from rollback()
            limit = first_over(this) if isinstance(error, StepTimeout) else None
            if limit is not None:
                return replayed(this, (yield from time_out(this, limit)))
            if isinstance(error, StepTimeout) or (alive and not is_transient(error)) or reruns >= RERUNS_MAX:
                again = again_after(this, attempt, error)
                if again is None:
                    seq = frame.next_seq(this)
                    return (yield from record_failure(this, seq, attempt, monotonic() - begun, error))
        this.give_up_seq()
        if again is not None:
            attempts = again.attempts
            known = yield from wait_for_next(this, again)
        else:  # nothing was committed and nothing is the step's fault
            reruns += 1
            known = yield from wait_for_rerun(this, reruns)
    return replayed(this, known)


def _rides_along(frame: WorkflowFrame) -> list[Query]:
    """What is written in the same commit, ahead of the record."""
    before = [] if frame.pending is None else [frame.pending]
    if frame.progress is not None:
        before.append(Query(PUT_EVENT, (frame.id, PROGRESS, frame.progress)))
    return before


def _announce(this: DurableCall) -> Flow[None]:
    """Wakes whoever waits for the events that the body has set."""
    names = this.frame.announced.pop(this.path, None)
    if names:
        yield from announce(this.frame, names)


def _record(this: DurableCall, seq: int, attempt: int, text: str) -> Query:
    frame = this.frame
    owner = (frame.lease.executor_id, this.epoch)
    return Query(sql.RECORD_IN_TRANSACTION, (frame.id, this.path, seq, this.kind, this.name, attempt, *owner, text))


def _after_lost_commit(this: DurableCall, lost: ConnectionLost) -> Flow[Record | None]:
    """The record, if the COMMIT whose answer was lost took effect. If not, it never will: run again.

    The old session is ended first, as it may hold the fence; should it commit all the same, the primary
    key decides between it and the next run.
    """
    if lost.backend is not None:
        yield from persist(this.frame, sql.END_BACKEND, *lost.backend)
    record = yield from read_record(this)
    return None if record is None else (yield from placed(this, record))


def _torn_text(this: DurableCall) -> str:
    return (
        f"transaction {this.name} (path {this.path}) ended its own transaction with SQL (COMMIT or ROLLBACK): "
        "what it wrote until then may have committed without a record. Remove that statement; look at what it "
        f"wrote; then `dbdurable resume {this.frame.id}`."
    )
