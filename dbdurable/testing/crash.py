"""Faults at numbered points: a process is killed, frozen or cut off exactly where a test says.

Give a `Faults` to an application before its first use. It writes down every point that is reached, so that
a first run without a plan lists them; a second run with the plan of one of them fails there. A point's number
says how often its role has come to a point of that name: other threads and other waits do not shift it.

Example:
    >>> faults = Faults()
    >>> faults.reached("before commit", None)
    >>> faults.reached("before commit", None)
    >>> [str(point) for point in faults.points]
    ['caller: before commit (1)', 'caller: before commit (2)']
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dbdurable.durable import Durable

__all__ = ["Action", "Faults", "Point", "cut", "freeze", "kill", "role_here"]

POLLS = frozenset({"outcome", "idle", "clock"})
"""Statements whose number depends on time: waiting for a result is no point of its own."""


FLUSH = "ride_together"
"""Part of the names of points of a commit that several workflows share: they have a role of their own, "flush",
since whose thread it is that writes for the others is left to chance, and what rides with it as well."""


class Point(NamedTuple):
    """One place in one run: who reached it, what it is, and the how manieth of that role and name it is."""

    role: str
    name: str
    number: int = 1

    def __str__(self) -> str:
        return f"{self.role}: {self.name} ({self.number})"


Action = Callable[[Point, Any], None]
"""What happens at the point: it gets the connection in use, if there is one."""


def role_here() -> str:
    """Who runs on this thread: a service ('control', ...), 'workflow' (an executor's threads) or 'caller'."""
    name = threading.current_thread().name
    if not name.startswith("dbdurable"):
        return "caller"
    service = name.removeprefix("dbdurable-")
    return service if service in ("control", "heartbeat", "listener", "notifier") else "workflow"


class Faults:
    """A seam that numbers points, and does `action` at the point `at`.

    `connection` of the action is the one in use, or the last one that the thread has used.
    """

    def __init__(self, at: Point | None = None, action: Action = lambda point, connection: None) -> None:
        self.points: list[Point] = []
        self.fired: Point | None = None
        self._at = at
        self._action = action
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last = threading.local()

    def install(self, durable: Durable) -> None:
        """Puts the seam into an application's database; do it before the first connection."""
        durable._runtime.database.seam = self

    def reached(self, point: str, connection: Any) -> None:
        """Called by the drivers; `dbdurable._io.seam.Seam`."""
        if point.partition(" ")[2] in POLLS:
            return
        role = role_here()
        if FLUSH in point:
            role, point = "flush", f"{point.partition(' ')[0]} flush"
        if connection is not None:
            self._last.connection = connection
        with self._lock:
            self._counts[role, point] += 1
            here = Point(role, point, self._counts[role, point])
            self.points.append(here)
            if here == self._at:
                self.fired = here
        if here == self._at:
            self._action(here, getattr(self._last, "connection", None))


def kill(point: Point, connection: Any) -> None:
    """Ends this process as `kill -9` does: no clean-up, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)


def freeze(point: Point, connection: Any) -> None:
    """Stops this process, all of its threads, until somebody sends SIGCONT."""
    # To this very thread: sent to the process, another one may take it, and this one runs on for a while.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def cut(point: Point, connection: Any) -> None:
    """Breaks the connection under the library: the server sees it end, the client its next answer."""
    if connection is None or connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
