"""Messages, events and promises inside a workflow: what is said and what is heard are records of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from dbdurable._core.control import Duplicate, Fenced
from dbdurable._core.journal import Record
from dbdurable._protocol.call import DurableCall, deliver_cancel, goes_on, read_record, recall, replayed, written
from dbdurable._protocol.effects import Flow, Row
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.ownership import steadfast
from dbdurable._protocol.start import FINAL
from dbdurable._protocol.wait import Look, await_, ended, new_here
from dbdurable._sql import message as sql
from dbdurable._sql.statement import Statement
from dbdurable.errors import (
    BadArgument,
    DurableError,
    PromiseRejected,
    UnknownWorkflow,
    WaitTimeout,
    WorkflowFinished,
)

NOTHING: Any = object()
"""No default: the end of the time is an error."""


def say(this: DurableCall, statement: Statement, *params: Any) -> Flow[Record]:
    """A statement that tells others something and records that it did, fenced; sent again it finds itself."""
    frame = this.frame
    place = (frame.id, this.path, frame.next_seq(this), this.kind, this.name)
    owner = (frame.lease.executor_id, this.epoch)
    try:
        rows = yield from steadfast(statement, *place, *owner, *params, frame=frame)
    except Fenced:
        if (yield from goes_on(this)):
            return (yield from say(this, statement, *params))
        return (yield from deliver_cancel(this))
    except Duplicate:
        return (yield from written(this))
    except DurableError as error:  # nobody is there to read it, say: an outcome like any other
        return (yield from ended(this, error=error))
    return new_here(this, place[2], rows[0][0], None)


def send(this: DurableCall, to: Flow[UUID], text: str, key: str | None) -> Flow[None]:
    """A message of the body to another workflow, on the topic that the call is named after."""
    record = yield from recall(this)
    if record is None:
        id = yield from to
        record = yield from say(this, sql.SEND_RECORDED, id, this.name, text, key)
    if record.error is not None:
        replayed(this, record)


def complete(this: DurableCall, token: str, text: str | None, reason: str | None) -> Flow[None]:
    """Completes a promise of another workflow."""
    record = yield from recall(this)
    if record is None:
        record = yield from say(this, sql.COMPLETE_RECORDED, token, text, reason)
    if record.error is not None:
        replayed(this, record)


def set_event(this: DurableCall, text: str) -> Flow[None]:
    """Tells whoever asks; who waits for it is woken after the commit."""
    record = yield from recall(this)
    if record is None:
        record = yield from say(this, sql.SET_EVENT, this.name, text)
        yield from announce(this.frame, [this.name])
    if record.error is not None:
        replayed(this, record)


def announce(frame: WorkflowFrame, names: Iterable[str]) -> Flow[None]:
    """Wakes whoever waits for these events; recovery does it for an executor that dies before."""
    subjects = [f"{frame.id}:{name}" for name in names]
    woken = yield from steadfast(sql.WAKE_WAITERS, "event", subjects, frame=frame)
    if woken:
        frame.tell(*{queue for (queue,) in woken})


def receive(this: DurableCall, timeout_s: float | None, default: Any) -> Flow[Any]:
    """The next message on the topic that the call is named after."""
    frame = this.frame

    def look() -> Flow[Record | None]:
        rows = yield from steadfast(sql.HAS_MESSAGE, frame.id, this.name, frame=frame)
        if not rows[0][0]:
            return None
        place = (frame.id, this.path, frame.next_seq(this), this.kind, this.name)
        owner = (frame.lease.executor_id, this.epoch)
        try:
            rows = yield from steadfast(sql.RECEIVE, *place, *owner, this.name, frame=frame)
        except Fenced:
            return None if (yield from goes_on(this)) else (yield from deliver_cancel(this))
        if rows:
            return new_here(this, place[2], *rows[0])
        # Another branch was first; or it was this very statement, and its answer was lost.
        if (yield from read_record(this)) is None:
            this.give_up_seq()
            return None
        return (yield from written(this))

    late = f"no message on topic {this.name!r} came to workflow {frame.name} in time"
    record = yield from recall(this)
    if record is None:
        record = yield from _heard(this, "message", this.name, look, timeout_s, late)
    return _outcome(this, record, default)


def get_event(this: DurableCall, of: Flow[UUID], timeout_s: float | None, default: Any) -> Flow[Any]:
    """The value of another workflow's event, once it is set; the call is named after the event."""
    record = yield from recall(this)
    if record is None:
        id = yield from of

        def look() -> Flow[Record | None]:
            rows = yield from steadfast(sql.READ_EVENT, id, this.name, frame=this.frame)
            try:
                found, text = event_in(rows, id, this.name)
            except DurableError as error:
                return (yield from ended(this, error=error))
            return (yield from ended(this, text=text)) if found else None

        late = f"event {this.name!r} of workflow {id} was not set in time"
        record = yield from _heard(this, "event", f"{id}:{this.name}", look, timeout_s, late)
    return _outcome(this, record, default)


def event_in(rows: list[Row], id: UUID, name: str) -> tuple[bool, str | None]:
    """Whether it is set, and its value. Raises where it never will be."""
    if not rows:
        raise UnknownWorkflow(f"there is no workflow {id} in this schema")
    workflow, status, found, text = rows[0]
    if not found and status in FINAL:
        raise WorkflowFinished(f"workflow {workflow} {id} has ended ({status}) and never set event {name!r}")
    return found, text


def promise(this: DurableCall) -> Flow[str]:
    """Makes a token that cannot be guessed; it is in the database before anybody hears of it."""
    record = yield from recall(this)
    if record is None:
        token = f"{this.frame.id.hex}-{this.path}-{secrets.token_hex(16)}"
        record = yield from ended(this, text=f'"{token}"')
    return str(replayed(this, record))


def promised(this: DurableCall, token: str, timeout_s: float | None) -> Flow[Any]:
    """What the promise was completed with; it may be asked for any number of times."""
    topic = f"!promise {token.split('-')[1]}"

    def look() -> Flow[Record | None]:
        rows = yield from steadfast(sql.READ_PROMISE, this.frame.id, topic, frame=this.frame)
        if not rows:
            return None
        reason, text = rows[0]
        if reason is not None:
            return (yield from ended(this, error=PromiseRejected(reason)))
        return (yield from ended(this, text=text))

    late = f"promise {this.name!r} of workflow {this.frame.name} was not completed in time"
    record = yield from recall(this)
    if record is None:
        record = yield from _heard(this, "message", topic, look, timeout_s, late)
    return _outcome(this, record, NOTHING)


def _heard(this: DurableCall, kind: str, subject: str, look: Look, timeout_s: float | None, late: str) -> Flow[Record]:
    """The record of what came; of a WaitTimeout when the time is over."""
    began = this.frame.lease.now()
    record = yield from await_(this, kind, subject, timeout_s, look)
    if record is None:
        record = yield from ended(this, this.frame.lease.now() - began, error=WaitTimeout(late))
    return record


def _outcome(this: DurableCall, record: Record, default: Any) -> Any:
    """What the body gets for it; `default` for what did not come in time, or cannot come any more."""
    try:
        return replayed(this, record)
    except (WaitTimeout, WorkflowFinished):
        if default is NOTHING:
            raise
        return default
    except BadArgument as error:
        if record.error is not None:
            raise
        raise BadArgument(f"{this.kind} {this.name!r}: {error}") from None
