"""Threads for user code that never keep the interpreter from ending."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor as FutureExecutor
from concurrent.futures import Future
from typing import Any

logger = logging.getLogger("dbdurable")


class DaemonThreads(FutureExecutor):
    """A pool of daemon threads, made on demand up to `threads_max`; `concurrent.futures` joins its own at exit."""

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs `fn(*args, **kwargs)` on a thread of the pool."""
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                value = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(value)

        self.begin(work)
        return future

    def begin(self, work: Callable[[], None]) -> None:
        """Runs it on a thread of the pool; nobody asks what becomes of it."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._threads_max:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._work.put(work)

    def _run(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            try:
                work()
            except Exception:
                logger.exception("%s: a thread failed", self._name)
            del work
            with self._lock:
                self._idle += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets idle threads end; running ones end with their work."""
        with self._lock:
            threads, self._threads_max = self._threads, 0
        for _ in range(threads):
            self._work.put(None)
