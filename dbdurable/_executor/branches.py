"""Branches of an `async def` body: while an executor is open, its loop numbers a body's tasks at creation.

A task takes the next path of the line that creates it, in program order, and counts on its own below it;
so `asyncio.gather`, `TaskGroup` and friends give the same paths whatever finishes first.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from dbdurable._core.control import HandBack, Suspend
from dbdurable._core.path import Line
from dbdurable._executor.task_turns import TaskTurns, hear
from dbdurable._protocol.frame import WorkflowFrame, branch, current, current_line
from dbdurable.errors import BadArgument

logger = logging.getLogger("dbdurable")

BRANCH_GRACE_S = 2.0
"""How long the branches of an attempt that is over may take to end."""

_WAIT_FOR = asyncio.wait_for.__code__
_ITERATOR = getattr(asyncio.tasks, "_AsCompletedIterator", None)  # from Python 3.13 on
_AS_COMPLETED: Any = asyncio.as_completed if _ITERATOR is None else _ITERATOR.__init__


def number_tasks(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Chains the loop's task factory; the answer undoes it."""
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        frame = current.get()
        make = before if before is not None else _plain_task
        if not (isinstance(frame, WorkflowFrame) and frame.is_async):
            return make(loop, coro, **kwargs)
        if frame.turns is None:
            frame.turns = TaskTurns(frame, loop)
        maker = current_line(frame)
        hear(frame, maker)
        line = _line_of(frame, coro)
        context = kwargs.get("context") or contextvars.copy_context()
        context.run(branch.set, (frame, line))
        task = make(loop, coro, **{**kwargs, "context": context})
        frame.branches.add(task)
        shared = line is maker

        def ended(task: asyncio.Future[Any]) -> None:
            frame.branches.discard(task)
            if task.cancelled() and not shared:
                frame.journal.leave(line.prefix)
            if frame.told:  # the first callback: before anybody who awaits it goes on
                if task in frame.told and task.cancelled():
                    maker.heard = True
                frame.turns.pass_cancel_on()

        task.add_done_callback(ended)
        return task

    loop.call_soon_threadsafe(loop.set_task_factory, factory)

    def undo() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.set_task_factory, before)

    return undo


def _plain_task(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
    return asyncio.Task(coro, loop=loop, **kwargs)


def _line_of(frame: WorkflowFrame, coro: Any) -> Line:
    """The next path of the line that makes the task, but for two functions of asyncio.

    `wait_for` makes a task on Python 3.11 only: there it stays on the line of its caller, who waits for it.
    `as_completed` makes its tasks in the order of a set, that is, of addresses in memory: there a task takes
    the place that its coroutine has in the list.
    """
    line, caller = current_line(frame), _asyncio_caller()
    if caller is None:
        return line.branch()
    if caller.f_code is _WAIT_FOR:
        return line
    waiting = next((caller.f_locals[name] for name in ("fs", "aws") if name in caller.f_locals), None)
    if not isinstance(waiting, list | tuple):
        raise BadArgument(
            "asyncio.as_completed in a workflow takes a list or tuple: the place of a call in it is its place in "
            "the journal"
        )
    group = _group(frame, line, waiting)
    return group.at(1 + next(n for n, each in enumerate(waiting) if each is coro))


def _group(frame: WorkflowFrame, line: Line, waiting: Any) -> Line:
    """The line of one `as_completed`: taken when the first of its tasks is made, and kept for the others."""
    found = frame.as_completed
    if found is None or found[0] is not waiting:
        found = (waiting, line.branch(), len({id(each) for each in waiting if not asyncio.isfuture(each)}))
    _, group, left = found
    frame.as_completed = (waiting, group, left - 1) if left > 1 else None
    return group


def _asyncio_caller() -> FrameType | None:
    """The call of `wait_for` or `as_completed` that makes a task just now."""
    at: FrameType | None = sys._getframe(3)
    for _ in range(5):
        if at is None or not at.f_globals.get("__name__", "").startswith("asyncio."):
            return None
        if at.f_code is _WAIT_FOR or at.f_code is _AS_COMPLETED.__code__:
            return at
        at = at.f_back
    return None


async def end_branches(frame: WorkflowFrame) -> None:
    """Branches must not outlive their attempt: those of one that is handed back would run beside the next one.

    When the workflow is handed back, a step that is under way in one may end and be recorded first.
    """
    frame.ended = True
    left = frame.branches - {asyncio.current_task()}
    if left and isinstance(frame.unwinding, HandBack):
        left = (await asyncio.wait(left, timeout=BRANCH_GRACE_S))[1]
    for task in left:
        task.cancel()
    if left:
        left = (await asyncio.wait(left, timeout=BRANCH_GRACE_S))[1]
    while left and isinstance(frame.unwinding, Suspend):  # parked only once nothing of it runs any more
        logger.warning("workflow %s %s waits, but %d of its tasks do not end", frame.name, frame.id, len(left))
        for task in left:
            task.cancel()
        left = (await asyncio.wait(left, timeout=BRANCH_GRACE_S))[1]
