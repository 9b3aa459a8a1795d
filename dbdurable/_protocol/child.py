"""A workflow started inside a workflow: its start is a record of the parent, and so is what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from dbdurable._core.control import Duplicate, Fenced
from dbdurable._core.journal import Record
from dbdurable._protocol.call import (
    DurableCall,
    adopt,
    deliver_cancel,
    goes_on,
    may_begin,
    recall,
    record_failure,
    replayed,
)
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.ownership import resync, steadfast
from dbdurable._protocol.start import FINAL, Start, outcome_of
from dbdurable._protocol.wait import await_, ended
from dbdurable._sql.start import START_CHILD, START_CHILD_AND_SEND
from dbdurable._sql.workflow import OUTCOME, OWNERSHIP
from dbdurable.errors import DurableError, UnknownWorkflow, WaitTimeout, WorkflowCancelled
from dbdurable.types import Status

RunChild = Callable[[UUID], Flow[bool]]
"""Runs a child here if nobody runs it yet; whether it did."""


def start_child(this: DurableCall, start: Start, message: tuple[Any, ...] = ()) -> Flow[UUID]:
    """Starts it: its id is the output of the parent's record, written in the same statement as the child.

    With a message (topic, text, key) that is sent to it in the same statement, or to the holder of its key.
    """
    id, _ = yield from _start(this, start, message)
    return id


def _start(this: DurableCall, start: Start, message: tuple[Any, ...] = ()) -> Flow[tuple[UUID, bool]]:
    """Its id, and whether it was started just now."""
    record = yield from recall(this)
    frame = this.frame
    while record is None:
        seq = frame.next_seq(this)
        owner = (frame.id, this.path, seq, frame.lease.executor_id, this.epoch, this.kind, start.parent_close)
        try:
            statement = START_CHILD_AND_SEND if message else START_CHILD
            rows = yield from steadfast(statement, *start.params, *owner, *message, frame=frame)
            id, this.written_us = rows[0]
            return _begun(this, start, UUID(id)), True
        except Fenced:
            if not (yield from goes_on(this)):
                return UUID(replayed(this, (yield from deliver_cancel(this)))), False
        except Duplicate:
            return _begun(this, start, UUID((yield from adopt(this)))), False
        except DurableError as refused:  # its key is taken, say: an outcome like any other
            return UUID((yield from record_failure(this, seq, 1, 0.0, refused))), False
    return _begun(this, start, UUID(replayed(this, record))), False


def _begun(this: DurableCall, start: Start, id: UUID) -> UUID:
    if start.parent_close == "cancel":
        this.frame.closing.add(id)
    return id


def call_child(this: DurableCall, join: DurableCall, start: Start, run_child: RunChild) -> Flow[Any]:
    """Starts it and waits for what comes of it: two records, the start and the outcome."""
    id, is_new = yield from _start(this, start)
    return (yield from await_child(join, id, run_child, is_new))


def await_child(join: DurableCall, id: UUID, run_child: RunChild, is_new: bool = False) -> Flow[Any]:
    """Waits for a workflow inside another; the outcome is a record of the one that waits.

    A child that nobody runs yet is run here. What takes longer is left: the parent parks, and the child's end
    wakes it. It stays in memory while children keep ending, so that many of them do not replay it once each.
    `is_new`: it was started just now, and need not be looked at first.
    """
    record = yield from recall(join)
    if record is None:
        clock = join.frame.lease.now
        begun, patience_s = clock(), join.frame.park_after_s

        def look() -> Flow[Record | None]:
            nonlocal is_new
            first, is_new = is_new, False
            return _look(join, id, run_child, begun, first)

        record = yield from await_(join, "result", str(id), join.timeout_s, look, patience_s=patience_s)
        if record is None:
            late = WaitTimeout(f"workflow {id} has not finished within {join.timeout_s:g} s")
            record = yield from ended(join, clock() - begun, error=late)
    return replayed(join, record)


def _look(join: DurableCall, id: UUID, run_child: RunChild, begun: float, is_new: bool) -> Flow[Record | None]:
    """The record of what came of it, if something has; runs it where nobody does."""
    frame = join.frame
    rows = [] if is_new else (yield from steadfast(OUTCOME, id, frame=frame))
    while is_new or (rows and rows[0][1] == Status.QUEUED):
        ran = yield from run_child(id)
        record = (yield from may_begin(join)) if ran else None  # it may have given itself back: this executor closes
        if record is not None:
            return record
        if not (ran or is_new):
            break
        is_new = False
        rows = yield from steadfast(OUTCOME, id, frame=frame)
    try:
        if not rows:
            raise UnknownWorkflow(f"there is no workflow {id} in this schema")
        name, status, output, error, reason = rows[0]
        if status not in FINAL:
            return None
        frame.closing.discard(id)
        value = outcome_of(id, name, status, output, error, reason, join.codec)
        text, _ = join.codec.settle(value, join.what)
    except Exception as failure:
        if isinstance(failure, WorkflowCancelled) and not join.shielded and (yield from _was_cancelled(join)):
            yield from resync(frame)  # the parent's own cancel has reached the child first
            return (yield from deliver_cancel(join))
        return (yield from ended(join, frame.lease.now() - begun, error=failure))
    return (yield from ended(join, frame.lease.now() - begun, text=text))


def _was_cancelled(join: DurableCall) -> Flow[bool]:
    """Whether who waits is about to see a cancel of its own workflow."""
    rows = yield from steadfast(OWNERSHIP, join.frame.id, frame=join.frame)
    return bool(rows) and rows[0][3] is not None and not join.line.heard
