"""Paths of parallel branches: while an executor is open, its loop numbers a body's tasks at creation.

A task takes the next path of the line that creates it, in program order, and counts on its own below it;
so `asyncio.gather`, `TaskGroup` and friends give the same paths whatever finishes first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from dbdurable._protocol.frame import WorkflowFrame, branch, current, current_line


def number_tasks(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Chains the loop's task factory; the answer undoes it."""
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        frame = current.get()
        if isinstance(frame, WorkflowFrame) and frame.is_async:
            context = kwargs.get("context") or contextvars.copy_context()
            context.run(branch.set, (frame, current_line(frame).branch()))
            kwargs["context"] = context
        if before is not None:
            return before(loop, coro, **kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.call_soon_threadsafe(loop.set_task_factory, factory)

    def undo() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(loop.set_task_factory, before)

    return undo
