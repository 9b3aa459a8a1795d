"""Who waits in this process for the end of which workflow: an executor that ends it here wakes them at once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID


class Waiter:
    """One wait for one workflow, in either colour. A hint: who wakes has to look."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._rouse: Callable[[], object] | None = None

    def wake(self) -> None:
        """Ends the wait that is under way, or else the next one."""
        self._set.set()
        rouse = self._rouse
        if rouse is not None:
            with suppress(RuntimeError):  # its loop has ended, and the wait with it
                rouse()

    def wait(self, timeout_s: float) -> None:
        """Waits on this thread."""
        self._set.wait(timeout_s)
        self._set.clear()

    async def await_(self, timeout_s: float) -> None:
        """Waits on the running loop."""
        loop, roused = asyncio.get_running_loop(), asyncio.Event()
        self._rouse = lambda: loop.call_soon_threadsafe(roused.set)
        try:
            if not self._set.is_set():  # looked at after `_rouse` was put there: whoever wakes is noticed
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await roused.wait()
        finally:
            self._rouse = None
        self._set.clear()


class Waiters:
    """All waits of one application in this process. Thread-safe; a forked child starts with none."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: dict[UUID, list[Waiter]] = {}

    def _own(self) -> None:
        if self._pid != os.getpid():
            self._reset()  # the lock may be held by a thread that only the parent has

    def begin(self, id: UUID) -> Waiter:
        """Somebody is about to wait for a workflow: looks at it first, then waits."""
        self._own()
        waiter = Waiter()
        with self._lock:
            self._waiting.setdefault(id, []).append(waiter)
        return waiter

    def leave(self, id: UUID, waiter: Waiter) -> None:
        """The wait is over."""
        self._own()
        with self._lock:
            left = self._waiting.get(id, [])
            if waiter in left:
                left.remove(waiter)
            if not left:
                self._waiting.pop(id, None)

    def wake(self, id: UUID) -> None:
        """What became of a workflow is in the database."""
        self._own()
        if id not in self._waiting:
            return
        with self._lock:
            waiting = list(self._waiting.get(id, ()))
        for waiter in waiting:
            waiter.wake()
