"""Waiting: short waits stay in memory; for a long one the attempt ends, and begins anew when it is over.

A `def` body is left by `Suspend`. In an `async def` body the wait stays a pending future while anything else of
the attempt can move; then the body is cancelled. Either way its frame is gone before the park is committed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from dbdurable._core.control import Fenced, Lost, Suspend
from dbdurable._core.failure import settle_failure
from dbdurable._core.journal import Record
from dbdurable._core.path import Line
from dbdurable._protocol.call import (
    UNNEEDED,
    WAITS,
    DurableCall,
    deliver_cancel,
    goes_on,
    may_begin,
    recall,
    replayed,
    show_progress,
    written,
)
from dbdurable._protocol.effects import Flow, pause, rest
from dbdurable._protocol.frame import Wait, WorkflowFrame
from dbdurable._protocol.limit import drop_limits
from dbdurable._protocol.ownership import steadfast
from dbdurable._sql import wait as sql
from dbdurable._sql.workflow import OWNERSHIP
from dbdurable.types import Status

LOOK_S_FIRST, LOOK_S_MAX = 0.01, 1.0
"""The first and the longest pause between two looks at what a wait is for, while it is in memory."""

PATIENT_LOOK_S_MAX = 0.25
"""The longest pause between two looks at what usually comes soon."""

_COLUMNS = ("path", "kind", "subject", "left_s", "due", "attempts")

Look = Callable[[], Flow[Record | None]]
"""Looks whether what is waited for is there, and records it."""


def sleep(this: DurableCall, duration_s: float | None, until: datetime | None = None) -> Flow[Any]:
    """Sleeps for so long, or until then; the end of it is a record."""
    record = yield from recall(this)
    if record is None and duration_s is None and this.path not in this.frame.kept:
        rows = yield from steadfast(sql.SECONDS_UNTIL, until, frame=this.frame)
        duration_s = rows[0][0]
    if record is None:
        began = this.frame.lease.now()
        record = yield from await_(this, "sleep", "", duration_s, due=until)
        if record is None:
            record = yield from ended(this, this.frame.lease.now() - began)
    return replayed(this, record)


def await_(
    this: DurableCall,
    kind: str,
    subject: str,
    timeout_s: float | None,
    look: Look | None = None,
    *,
    due: datetime | None = None,
    attempts: int = 0,
    patience_s: float = 0.0,
) -> Flow[Record | None]:
    """Waits for what `look` finds: the record of it. None: the time is over.

    `patience_s`: so long it stays in memory before it may park, for what usually comes soon.
    """
    frame, clock, delay_s = this.frame, this.frame.lease.now, LOOK_S_FIRST
    kept = frame.kept.pop(this.path, None)
    until = None if timeout_s is None else clock() + timeout_s
    if kept is not None and kept.until is not None:
        until = kept.until
    wait = Wait(kind, subject, until, due, attempts, this.shielded or this.cleans_up)
    patient_until = clock() + patience_s
    is_kept = kept is not None
    while True:
        record = yield from may_begin(this)
        if record is None and look is not None:
            record = yield from look()
        left_s = None if until is None else until - clock()
        if record is not None or (left_s is not None and left_s <= 0):
            return record
        if left_s is not None and left_s <= frame.park_after_s:
            yield from pause(min(left_s, delay_s if look is not None else LOOK_S_MAX))
        elif clock() < patient_until:
            yield from pause(min(delay_s, PATIENT_LOOK_S_MAX))
        elif frame.watch is None:
            raise suspend(this, wait)
        else:
            if delay_s >= LOOK_S_MAX and not is_kept:
                yield from _keep(this, wait)
                is_kept = True
            frame.waits[this.path] = wait
            try:
                yield from rest(frame.watch, delay_s if left_s is None else min(left_s, delay_s))
            finally:
                if frame.unwinding is None:
                    del frame.waits[this.path]
        delay_s = min(LOOK_S_MAX, delay_s * 2)


def suspend(this: DurableCall, wait: Wait) -> Suspend:
    """Notes what the line waits for, and returns what to raise; the body's own line ends its attempt with it.

    A branch of a `def` body ends alone: whoever made it raises the same on its own line once all have ended.
    """
    if this.left:
        raise Lost(UNNEEDED)
    this.frame.waits[this.path] = wait
    return left_waiting(this.frame, this.line)


def forget_waits(frame: WorkflowFrame, line: Line) -> None:
    """Nobody needs this branch any more: what it waits for is not waited for."""
    for path in [path for path in frame.waits if path.startswith(line.prefix)]:
        del frame.waits[path]


def left_waiting(frame: WorkflowFrame, line: Line) -> Suspend:
    """The line ends because it waits, or because all that it waits for do: what to raise on it."""
    line.suspended = True
    reason = Suspend(WAITS)
    if line is frame.line:
        frame.unwind(reason)
    return reason


def _keep(this: DurableCall, wait: Wait) -> Flow[None]:
    frame = this.frame
    left_s = None if wait.until is None else wait.until - frame.lease.now()
    owner = (frame.id, frame.lease.executor_id, frame.epoch)
    row = (this.path, wait.kind, wait.subject, left_s, wait.due, wait.attempts)
    yield from steadfast(sql.KEEP_WAIT, *owner, *row, frame=frame)


def ended(
    this: DurableCall, elapsed_s: float = 0.0, *, text: str | None = None, error: Exception | None = None
) -> Flow[Record]:
    """Records what a call that waits or speaks ended with; the record, ours or the one that was there."""
    frame, failure = this.frame, None if error is None else settle_failure(error)[0]
    place = (frame.id, this.path, frame.next_seq(this), this.kind, this.name)
    owner = (frame.lease.executor_id, frame.epoch)
    try:
        rows = yield from steadfast(sql.END_WAIT, *place, *owner, elapsed_s, text, failure, frame=frame)
    except Fenced:
        if (yield from goes_on(this)):
            return (yield from ended(this, elapsed_s, text=text, error=error))
        return (yield from deliver_cancel(this))
    return new_here(this, place[2], rows[0][0], text, failure) if rows else (yield from written(this))


def new_here(this: DurableCall, seq: int, written_us: int, text: str | None, failure: str | None = None) -> Record:
    """A record that was written just now."""
    this.written_us = written_us
    return Record(this.path, seq, this.kind, this.name, text, failure, 1, written_us)


def park(frame: WorkflowFrame) -> Flow[bool]:
    """Commits that the workflow waits, then looks once whether it still has to. False: it is not ours any more."""
    now = frame.lease.now()
    paths = list(frame.waits)
    waits = list(frame.waits.values())
    owner = (frame.id, frame.lease.executor_id, frame.epoch)
    yield from show_progress(frame)
    yield from drop_limits(frame)
    rows = yield from steadfast(
        sql.PARK,
        *owner,
        frame.queue,
        frame.slots,
        paths,
        [wait.kind for wait in waits],
        [wait.subject for wait in waits],
        [None if wait.until is None else wait.until - now for wait in waits],
        [wait.due for wait in waits],
        [wait.attempts for wait in waits],
        frame=frame,
    )
    if not rows and not (yield from _parked_before(frame)):
        return False
    frame.woken = bool((yield from steadfast(sql.LOOK, frame.id, frame=frame)))
    return True


def waits_json(waits: Sequence[Sequence[Any]]) -> str:
    """What one workflow waits for, from PARK's columns, as PARK_MANY takes it."""
    rows = (dict(zip(_COLUMNS, wait, strict=True)) for wait in zip(*waits, strict=True))
    return json.dumps(list(rows), default=str)


def _parked_before(frame: WorkflowFrame) -> Flow[bool]:
    """Whether this very park was committed, and only its answer lost."""
    rows = yield from steadfast(OWNERSHIP, frame.id, frame=frame)
    mine = (Status.WAITING.value, frame.lease.executor_id, frame.epoch)
    return bool(rows) and tuple(rows[0][:3]) == mine
