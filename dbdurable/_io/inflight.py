"""What of an attempt can be interrupted just now: asynchronous code, and the statement of a transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable

Interrupt = Callable[[], None]


class InFlight:
    """The calls of one attempt that are under way, each with what ends it. Thread-safe.

    An interrupt holds the lock, and so does whoever leaves: a connection cannot go on to other work while
    its statement is being cancelled.
    """

    __slots__ = ("_calls", "_lock", "closed")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[object, Interrupt] = {}
        self.closed = False
        """Whether the attempt was interrupted: what begins now ends at once, unless it is shielded."""

    def enter(self, call: object, interrupt: Interrupt) -> None:
        """User code of this call begins."""
        with self._lock:
            self._calls[call] = interrupt
            if self.closed:
                interrupt()

    def leave(self, call: object) -> None:
        """It has come to its end."""
        with self._lock:
            self._calls.pop(call, None)

    def interrupt(self) -> None:
        """Ends what can be ended. May take as long as a server takes to answer."""
        with self._lock:
            self.closed = True
            for interrupt in self._calls.values():
                interrupt()
