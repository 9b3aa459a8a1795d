"""Notices when nothing of an asynchronous attempt can move any more, and then ends the attempt.

What moves it are its durable calls. While all that are under way wait for something that takes long, and the
loop has gone round often enough for everything that they had set off, the attempt is at rest. A task that
awaits something else (an HTTP call that is no step, a TaskGroup) is given `park_after_s` since the last change:
what is not durable begins anew after the wait, as it would after a crash.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dbdurable._core.control import Suspend
from dbdurable._protocol.call import WAITS
from dbdurable._protocol.frame import WorkflowFrame

TURNS = 25
"""Turns of the loop until what a durable call has set off has certainly begun."""

LOOK_S = 0.05
"""How often an attempt is looked at that awaits something else, too."""


class Watch:
    """Of one attempt; made in the task that runs its body."""

    def __init__(self, frame: WorkflowFrame) -> None:
        main = asyncio.current_task()
        assert main is not None
        self._frame = frame
        self._main: asyncio.Task[Any] = main
        self._cancelling = main.cancelling()
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._changes = 0
        self._changed_at = 0.0
        self._resting: set[asyncio.Future[None]] = set()
        self._looking = False
        self._ended = False

    def begin(self) -> None:
        """A durable call of the body is under way."""
        self._calls += 1
        self._change()

    def end(self) -> None:
        """It is over."""
        self._calls -= 1
        self._change()

    async def rest(self, delay_s: float) -> None:
        """Waits for so long; the attempt may be ended meanwhile."""
        future = self._loop.create_future()
        timer = self._loop.call_later(delay_s, _wake, future)
        self._resting.add(future)
        self._look()
        try:
            await future
        finally:
            timer.cancel()
            self._resting.discard(future)

    def was_cancelled_by_others(self) -> bool:
        """Takes back the cancel with which the attempt was ended; whether there was another one."""
        if not self._ended:
            return True
        self._ended = False
        return self._main.uncancel() > self._cancelling

    def _change(self) -> None:
        self._changes += 1
        self._changed_at = self._loop.time()
        self._look()

    def _at_rest(self) -> bool:
        return self._frame.unwinding is None and 0 < self._calls == len(self._resting)

    def _look(self) -> None:
        if not self._looking and self._at_rest():
            self._looking = True
            # Without branches nobody is left whom something could set off, once the body itself awaits its wait.
            self._loop.call_soon(self._turn, self._changes, TURNS if self._frame.branches else 0)

    def _turn(self, changes: int, left: int) -> None:
        self._looking = False
        if not self._at_rest():
            return
        if self._changes != changes:
            self._look()
            return
        self._looking = True
        if left > 0:
            self._loop.call_soon(self._turn, changes, left - 1)
        elif self._only_waits() or self._loop.time() - self._changed_at >= self._frame.park_after_s:
            self._end()
        else:
            self._loop.call_later(LOOK_S, self._turn, changes, TURNS)

    def _only_waits(self) -> bool:
        """Whether each task of the attempt awaits a wait, or tasks that do."""
        tasks = self._tasks()
        return all(
            task in self._frame.joining or self._is_wait(getattr(task, "_fut_waiter", None), tasks) for task in tasks
        )

    def _is_wait(self, awaited: Any, tasks: set[Any]) -> bool:
        if awaited in self._resting or awaited in tasks:
            return True
        gathered = getattr(awaited, "_children", ())  # asyncio.gather
        return bool(gathered) and all(child in tasks or child.done() for child in gathered)

    def _tasks(self) -> set[Any]:
        return {task for task in (self._main, *self._frame.branches) if not task.done()}

    def _end(self) -> None:
        self._frame.unwind(Suspend(WAITS))
        self._ended = True
        for task in self._tasks():
            task.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
