"""Branches of an `async def` body, each a task: all of them, the first of them, or many of one kind."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dbdurable._core.control import Unwind
from dbdurable._core.path import Line
from dbdurable._core.tally import Tally
from dbdurable._protocol.frame import WorkflowFrame, branch, current_line
from dbdurable.errors import Cancelled

Made = Awaitable[Any] | Callable[[], Awaitable[Any]]
Task = asyncio.Task[Any]


async def gather(frame: WorkflowFrame, calls: Sequence[Made]) -> list[Any]:
    """What all of them return; raises the first failure by position when all have ended."""
    group = current_line(frame).branch()
    tasks = [_spawn(frame, group, _await(call)) for call in calls]
    await _join(frame, tasks)
    with _outcomes(frame, group):
        return [task.result() for task in tasks]


async def race(frame: WorkflowFrame, calls: Sequence[Made]) -> tuple[int, Any]:
    """The first that ends; the others are cancelled, and have ended when this returns.

    A cancel of the workflow does not win: all of them see it.
    """
    group = current_line(frame).branch()
    ended: list[Task] = []
    tasks = [_spawn(frame, group, _await(call)) for call in calls]
    for task in tasks:
        task.add_done_callback(ended.append)

    def won() -> Task | None:
        return next((task for task in ended if not (task.cancelled() and group.heard)), None)

    await _join(frame, tasks, lambda: won() is not None)
    await _cancel(tasks)
    with _outcomes(frame, group):
        first = won() or ended[0]
        return tasks.index(first), first.result()


async def fan_out(
    frame: WorkflowFrame,
    function: Callable[[Any], Awaitable[Any]],
    items: Sequence[Any],
    tally: Tally[Any],
    width: int,
) -> None:
    """Calls it for every item, at most `width` at a time, until the tally is decided."""
    group = current_line(frame).branch()
    positions = iter(range(len(items)))

    async def work() -> None:
        for position in positions:
            line = group.at(position + 1)
            branch.set((frame, line))
            try:
                value = await function(items[position])
            except Exception as error:
                tally.failed(position, error)
            except asyncio.CancelledError:
                frame.journal.leave(line.prefix)
                raise
            else:
                tally.succeeded(position, value)
            if tally.decided:
                return

    nowhere = Line("-")  # those who work on the items take no place in the journal
    tasks = [_spawn(frame, nowhere, work()) for _ in range(min(width, len(items)))]
    await _join(frame, tasks, lambda: tally.enough)
    await _cancel(tasks)
    if not tally.enough:
        with _outcomes(frame, nowhere):
            for task in tasks:
                task.result()


def _spawn(frame: WorkflowFrame, line: Line, coroutine: Any) -> Task:
    """A task that takes the next path of that line; the executor's task factory does the rest."""
    context = contextvars.copy_context()
    context.run(branch.set, (frame, line))
    task: Task = context.run(asyncio.get_running_loop().create_task, coroutine)
    return task


async def _await(made: Made) -> Any:
    return await (made if isinstance(made, Awaitable) else made())


@contextmanager
def _outcomes(frame: WorkflowFrame, group: Line) -> Iterator[None]:
    """Around what raises the errors of branches: who gets the cancel of the workflow from one of them has seen it."""
    line = current_line(frame)
    try:
        yield
    except Cancelled:
        line.heard = line.heard or group.heard
        raise
    finally:
        if group.heard and not line.heard:
            frame.told.discard(asyncio.current_task())
            frame.turns.pass_cancel_on()


async def _join(frame: WorkflowFrame, tasks: list[Task], enough: Callable[[], bool] = lambda: False) -> None:
    """Waits until all have ended, or it is enough; one that was left with its attempt ends it for all."""
    pending, me = set(tasks), asyncio.current_task()
    frame.joining[me] = tasks
    try:
        while pending and not enough():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and isinstance(task.exception(), Unwind):
                    task.result()
    except asyncio.CancelledError:
        await _cancel(tasks)
        raise
    finally:
        del frame.joining[me]


async def _cancel(tasks: list[Task]) -> None:
    """Cancels what has not ended, and waits until it has."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    for task in left:
        if not task.cancelled():
            task.exception()  # seen: the loop need not report it
