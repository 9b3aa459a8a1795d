"""Branches of a `def` body, each on a thread of the executor: all of them, the first of them, or many of one kind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from dbdurable._core.control import LeaseLost, Lost, Suspend, Unwind
from dbdurable._core.tally import Tally
from dbdurable._executor.thread_turns import Branch, ThreadTurns
from dbdurable._io.threads import DaemonThreads
from dbdurable._protocol.call import WAITS
from dbdurable._protocol.frame import WorkflowFrame, branch, current_line
from dbdurable._protocol.wait import forget_waits, left_waiting
from dbdurable.errors import Cancelled

Function = Callable[[], Any]


def gather(frame: WorkflowFrame, calls: Sequence[Function]) -> list[Any]:
    """What all of them return; raises the first failure by position when all have ended."""
    turns, pool = _open(frame)
    group = current_line(frame).branch()
    made = [turns.spawn(pool, group.branch(), call) for call in calls]
    _join(turns, made)
    _raise_first(frame, made)
    return [each.value for each in made]


def race(frame: WorkflowFrame, calls: Sequence[Function]) -> tuple[int, Any]:
    """The first that ends; the others are left to end by themselves at their next durable call.

    A cancel of the workflow does not win: all of them see it.
    """
    turns, pool = _open(frame)
    group = current_line(frame).branch()
    made = [turns.spawn(pool, group.branch(), call) for call in calls]
    _join(turns, made, lambda: any(_has_outcome(each) for each in made))
    won = min(filter(_has_outcome, made), key=lambda each: each.ended_as, default=None)
    if won is None:
        _raise_first(frame, made)
    assert won is not None
    turns.leave_behind(made)
    forget_waits(frame, group)
    if won.error is not None:
        raise won.error
    return made.index(won), won.value


def fan_out(
    frame: WorkflowFrame, function: Callable[[Any], Any], items: Sequence[Any], tally: Tally[Any], width: int
) -> None:
    """Calls it for every item, at most `width` at a time, until the tally is decided."""
    turns, pool = _open(frame)
    group = current_line(frame).branch()
    positions = iter(range(len(items)))

    def work() -> None:
        for position in positions:
            line = group.at(position + 1)
            line.thread = threading.get_ident()
            branch.set((frame, line))
            try:
                value = function(items[position])
                if line.suspended:  # it swallowed that
                    raise Suspend(WAITS)
            except Exception as error:
                tally.failed(position, error)
            except Lost:
                frame.journal.leave(line.prefix)
                raise
            else:
                tally.succeeded(position, value)
            if tally.decided:
                return

    made = [turns.spawn(pool, None, work) for _ in range(min(width, len(items)))]
    _join(turns, made, lambda: tally.enough)
    if not tally.enough:
        _raise_first(frame, made)
    turns.leave_behind(made)
    forget_waits(frame, group)


def _open(frame: WorkflowFrame) -> tuple[ThreadTurns, DaemonThreads]:
    executor = frame.runtime.executor
    if executor is None:
        raise frame.unwind(LeaseLost("the executor is closed"))
    if frame.turns is None:
        frame.turns = ThreadTurns(frame)
    return cast(ThreadTurns, frame.turns), executor.branch_threads


def _has_outcome(made: Branch) -> bool:
    """Whether it ended by itself; one that was left with its attempt, was cancelled or waits for long, did not."""
    return made.ended and not isinstance(made.error, Unwind | Cancelled)


def _join(turns: ThreadTurns, made: list[Branch], enough: Callable[[], bool] = lambda: False) -> None:
    """Waits until all have ended, or it is enough."""
    try:
        turns.join(lambda: enough() or all(each.ended for each in made))
    except Lost:
        turns.leave_behind(made)
        raise


def _raise_first(frame: WorkflowFrame, made: list[Branch]) -> None:
    """What ends the attempt first, then a cancel, then the first failure by position."""
    errors = [each.error for each in made if each.error is not None]
    for kind in (Unwind, Cancelled, BaseException):
        for error in errors:
            if isinstance(error, Suspend):
                raise left_waiting(frame, current_line(frame))
            if isinstance(error, kind) and not isinstance(error, Lost):
                if isinstance(error, Cancelled):
                    current_line(frame).heard = True
                raise error
