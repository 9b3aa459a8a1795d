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

IDLE_S = 30.0
"""How long a thread waits for something to do."""


class DaemonThreads(FutureExecutor):
    """A pool of daemon threads, made on demand up to `threads_max`; those that have nothing to do for a while end.

    The threads of `concurrent.futures` are joined at exit.
    """

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting = 0
        """Threads that wait for something to do."""
        self._begun = 0
        """Work that no thread has taken yet."""

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
            self._begun += 1
            if self._begun > self._waiting and self._threads < self._threads_max:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._work.put(work)

    def _run(self) -> None:
        while (work := self._take()) is not None:
            try:
                work()
            except BaseException:  # whatever it is: the pool would go on to count a thread that is gone
                logger.exception("%s: a thread failed", self._name)
            del work

    def _take(self) -> Callable[[], None] | None:
        """What is to be done next; None: this thread ends."""
        with self._lock:
            self._waiting += 1
        while True:
            try:
                work, in_vain = self._work.get(timeout=IDLE_S), False
            except queue.Empty:
                work, in_vain = None, True
            with self._lock:
                if in_vain and self._begun > 0:
                    continue  # something is on its way
                self._waiting -= 1
                if work is None:
                    self._threads -= 1
                else:
                    self._begun -= 1
                return work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets idle threads end; running ones end with their work."""
        with self._lock:
            threads, self._threads_max = self._threads, 0
        for _ in range(threads):
            self._work.put(None)
