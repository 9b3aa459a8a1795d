"""Paths of parallel branches: while an executor is open, its loop numbers a body's tasks at creation.

A task takes the next path of the line that creates it, in program order, and counts on its own below it;
so `asyncio.gather`, `TaskGroup` and friends give the same paths whatever finishes first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from dbdurable._core.control import HandBack
from dbdurable._protocol.frame import WorkflowFrame, branch, current, current_line

BRANCH_GRACE_S = 2.0
"""How long the branches of an attempt that is over may take to end."""


def number_tasks(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Chains the loop's task factory; the answer undoes it."""
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        frame = current.get()
        make = before if before is not None else _plain_task
        if not (isinstance(frame, WorkflowFrame) and frame.is_async):
            return make(loop, coro, **kwargs)
        context = kwargs.get("context") or contextvars.copy_context()
        context.run(branch.set, (frame, current_line(frame).branch()))
        task = make(loop, coro, **{**kwargs, "context": context})
        frame.branches.add(task)
        task.add_done_callback(frame.branches.discard)
        return task

    loop.call_soon_threadsafe(loop.set_task_factory, factory)

    def undo() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.set_task_factory, before)

    return undo


def _plain_task(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
    return asyncio.Task(coro, loop=loop, **kwargs)


async def end_branches(frame: WorkflowFrame) -> None:
    """Branches must not outlive an attempt that is over for its body: they would run beside the next one.

    When the workflow is handed back, a step that is under way in one may end and be recorded first.
    """
    if frame.unwinding is None:
        return
    left = frame.branches - {asyncio.current_task()}
    if left and isinstance(frame.unwinding, HandBack):
        left = (await asyncio.wait(left, timeout=BRANCH_GRACE_S))[1]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=BRANCH_GRACE_S)
