"""One attempt of a workflow: run its body, then write what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import Diverged, HandBack, LeaseLost, Suspend, Unwind
from dbdurable._core.failure import encode_failure, settle_failure
from dbdurable._protocol.call import show_progress
from dbdurable._protocol.effects import Flow, call
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.ownership import resync, steadfast
from dbdurable._protocol.undo import is_failure
from dbdurable._protocol.wait import park
from dbdurable._sql import workflow as sql
from dbdurable.errors import BadArgument, Cancelled
from dbdurable.types import Status


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `status` is None where this process has no say in it any more."""

    status: Status | None
    value: Any = None
    error: BaseException | None = None


LATE_CANCEL = Outcome(None)
"""Cancelled before its outcome could be written, with something left to be undone."""

ELSEWHERE = Outcome(None)
"""Taken over, handed back or paused: the workflow goes on, or ends, without this attempt."""


Undo = Callable[[BaseException], Any]
"""Runs the compensations that are left, after what has ended the body; raises where one of them gives up."""


def attempt(
    frame: WorkflowFrame, body: Callable[[], Any], codec: ValueCodec, version: str, undo: Undo | None = None
) -> Flow[Outcome]:
    """Runs the body to its end and records the outcome; nothing that the body raises leaves here."""
    try:
        outcome = yield from _attempt(frame, lambda: _run(frame, body, codec, undo), version)
        while outcome is LATE_CANCEL:
            late = Cancelled(frame.interrupt or "")
            outcome = yield from _attempt(frame, lambda late=late: _undo(late, undo), version)  # type: ignore[misc]
        return outcome
    except Unwind:
        return ELSEWHERE  # the lease went while the outcome was being written: recovery decides


def _run(
    frame: WorkflowFrame, body: Callable[[], Any], codec: ValueCodec, undo: Undo | None
) -> Flow[tuple[Any, str | None]]:
    """What the body returns; what it leaves to be undone is undone when it fails or was cancelled."""
    try:
        value = yield from call(body)
        if frame.unwinding is not None:
            return None, None
        if frame.undos and frame.interrupt is not None and not frame.line.heard:
            raise Cancelled(frame.interrupt)
        _check_end(frame)
        text, value = codec.settle(value, f"the result of workflow {frame.name}")
        return value, text
    except BaseException as error:
        if not frame.undos or not is_failure(frame, error, whole_body=True):
            raise
        ended = error
    yield from _undo(ended, undo)
    raise AssertionError("raises what has ended the body, or that some of it was not undone")


def _undo(ended: BaseException, undo: Undo | None) -> Flow[Any]:
    assert undo is not None
    yield from call(lambda: undo(ended))
    raise ended


def _attempt(frame: WorkflowFrame, body: Callable[[], Flow[tuple[Any, str | None]]], version: str) -> Flow[Outcome]:
    try:
        value, text = yield from body()
    except Unwind as reason:
        return (yield from _leave(frame, frame.unwinding or reason, version))
    except Cancelled as cancelled:
        if frame.unwinding is None:
            return (yield from _finish(frame, Outcome(Status.CANCELLED, error=cancelled), None, None))
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        if frame.unwinding is None and frame.root_cancelled and isinstance(stop, asyncio.CancelledError):
            # A branch has seen the cancel of the workflow, and passed it on to the body.
            passed_on = Outcome(Status.CANCELLED, error=Cancelled(frame.interrupt or ""))
            return (yield from _finish(frame, passed_on, None, None))
        # The caller's program ends, or no longer waits: the workflow goes on without it, if it ever began.
        if frame.pending is not None:
            return Outcome(None, error=stop)
        try:
            yield from _leave(frame, frame.unwind(HandBack("its caller was interrupted")), version)
        except Unwind as lost:
            frame.unwind(lost)  # the lease went meanwhile: recovery hands it on
        return Outcome(None, error=stop)
    except GeneratorExit:
        raise
    except BaseException as error:
        if frame.unwinding is None:
            failure, seen = _failure(error)
            return (yield from _finish(frame, Outcome(Status.FAILED, error=seen), None, failure))
    else:
        if frame.unwinding is None:
            return (yield from _finish(frame, Outcome(Status.SUCCEEDED, value), text, None))
    return (yield from _leave(frame, frame.unwinding, version))


def _check_end(frame: WorkflowFrame) -> None:
    """What must hold when a body has returned."""
    if frame.unawaited:
        names = list(frame.unawaited.values())
        write = "`await` before it" if frame.is_async else f"`{names[0]}.sync(...)`: `def` code cannot await"
        raise BadArgument(f"workflow {frame.name} returned, but never awaited {', '.join(names)}: write {write}")
    try:
        frame.journal.check_complete()
    except Diverged as diverged:
        raise frame.diverge(diverged) from None


def _failure(error: BaseException) -> tuple[str, BaseException]:
    if isinstance(error, Exception):
        return settle_failure(error)
    return encode_failure(error), error


def _finish(frame: WorkflowFrame, outcome: Outcome, output: str | None, failure: str | None) -> Flow[Outcome]:
    """Writes the final status, guarded by owner and epoch."""
    yield from show_progress(frame)
    while True:
        if frame.interrupt is not None and not frame.line.heard:
            # Cancelled after its last durable call: nothing of the outcome was committed, so the cancel wins.
            if frame.undos:
                return LATE_CANCEL
            outcome, output, failure = Outcome(Status.CANCELLED, error=Cancelled(frame.interrupt)), None, None
        status = outcome.status
        assert status is not None
        rows = yield from steadfast(
            sql.FINISH_CLOSING if frame.closing else sql.FINISH,
            frame.id,
            frame.lease.executor_id,
            frame.epoch,
            status.value,
            output,
            failure,
            f"{type(outcome.error).__name__}: {outcome.error}"[:1000] if failure else None,
            frame.queue,
            frame.slots,
            frame=frame,
        )
        if rows:
            return outcome
        if (yield from _finished_before(frame, status)):
            return outcome
        try:
            yield from resync(frame)
        except LeaseLost:
            return ELSEWHERE


def _finished_before(frame: WorkflowFrame, status: Status) -> Flow[bool]:
    """Whether this very finish was committed, and only its answer lost."""
    rows = yield from steadfast(sql.OWNERSHIP, frame.id, frame=frame)
    return bool(rows) and tuple(rows[0][:3]) == (status.value, frame.lease.executor_id, frame.epoch)


def _hand_back(frame: WorkflowFrame) -> Flow[bool]:
    owner = (frame.lease.executor_id, frame.epoch)
    rows = yield from steadfast(sql.HAND_BACK, frame.id, *owner, frame.queue, frame.slots, frame=frame)
    return bool(rows)


def _blocked_before(frame: WorkflowFrame) -> Flow[bool]:
    """Whether this very block was committed, and only its answer lost."""
    rows = yield from steadfast(sql.OWNERSHIP, frame.id, frame=frame)
    return bool(rows) and (rows[0][0], rows[0][2]) == (Status.BLOCKED.value, frame.epoch + 1)


def _leave(frame: WorkflowFrame, reason: Unwind | None, version: str) -> Flow[Outcome]:
    """The attempt ends without an outcome of its own."""
    if isinstance(reason, Diverged):
        owner = (frame.lease.executor_id, frame.epoch)
        held = (frame.queue, frame.slots)
        rows = yield from steadfast(sql.BLOCK, frame.id, *owner, str(reason), version, *held, frame=frame)
        if rows or (yield from _blocked_before(frame)):
            return Outcome(Status.BLOCKED, error=reason)
    if isinstance(reason, Suspend) and (frame.waits_in_vain or not (yield from park(frame))):
        yield from resync(frame)  # cancelled: its body begins anew and sees that where it waits
        reason = HandBack(str(reason))
    if isinstance(reason, HandBack) and not frame.lease.lost and not (yield from _hand_back(frame)):
        yield from resync(frame)  # cancelled meanwhile: the new owner cleans up
        yield from _hand_back(frame)
    return ELSEWHERE
