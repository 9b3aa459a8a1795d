"""The notifier: says that work is there. To this process's executor from memory, to others by NOTIFY.

NOTIFY is off the write path: after the commit of a start, on a thread and a connection of its own, never in a
transaction of the user's. What comes in quick succession goes out as one. A lost one costs a poll's delay.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final
from uuid import UUID

from dbdurable._io.drive import SyncDriver
from dbdurable._io.listen import channel_of
from dbdurable._protocol.effects import query
from dbdurable._sql.wake import COMMITTED, NOTIFY

if TYPE_CHECKING:
    from dbdurable._executor.runtime import Runtime

logger = logging.getLogger("dbdurable")

INTERVAL_S: Final = 0.05
"""The least time between two notifications of a process: each wakes every listener of the database."""

LOOKS_S: Final = (0.005, 0.025, 0.125)
"""When to look whether a start in somebody's transaction has committed; later ones wait for a poll."""

FAILED_S: Final = 1.0
"""How long to say nothing after a notification could not be sent."""

IDLE_S: Final = 60.0
"""Thread and connection end after so long without work."""

CLOSE_S: Final = 2.0

ANY_QUEUE: Final = "*"
"""In a payload: all queues. No queue can be named so."""

PAYLOAD_BYTES_MAX: Final = 7_000
"""PostgreSQL takes less than 8,000."""


def payload_of(queues: set[str]) -> str:
    """The names of queues that have work, for `queues_of`."""
    payload = ANY_QUEUE if ANY_QUEUE in queues else "\n".join(sorted(queues))
    return payload if len(payload.encode()) <= PAYLOAD_BYTES_MAX else ANY_QUEUE


def queues_of(payload: str) -> list[str]:
    """The queues that a notification names. Anybody may send one: whatever it says, it is a hint."""
    return payload.split("\n")


@dataclass(frozen=True, slots=True)
class _Uncommitted:
    """A start in a transaction of the user's."""

    id: UUID
    name: str
    begun: float
    looks: int = 0

    @property
    def due(self) -> float:
        return self.begun + LOOKS_S[self.looks]


class Notifier:
    """One application's notifier in this process. Thread-safe; a forked child starts with one that knows nothing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._reset()
        _notifiers.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._queues: set[str] = set()
        self._uncommitted: list[_Uncommitted] = []
        self._send_at = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def _own(self) -> None:
        if self._pid != os.getpid():
            self._reset()  # the thread, and maybe who holds the lock, are the parent's

    # -- what there is to say --------------------------------------------------------------------------

    def queued(self, name: str, queue: str | None) -> None:
        """A workflow has been queued; None: in the queue that its definition names."""
        executor = self._runtime.executor
        if executor is None or not executor.offer(name, queue):
            self._tell(queue or ANY_QUEUE)

    def queued_in_transaction(self, name: str, id: UUID) -> None:
        """The same, once the transaction around it has committed; if it rolls back, nobody hears of it."""
        runtime = self._runtime
        if runtime.executor is None and (self._polling_only or not runtime.has_url):
            return
        self._own()
        with self._changed:
            self._uncommitted.append(_Uncommitted(id, name, monotonic()))
            self._work()

    def requeued(self, *queues: str) -> None:
        """Workflows went back to these queues; none given: to one that is not known here."""
        executor = self._runtime.executor
        if executor is not None:
            executor.hint()
        self._tell(*(queues or (ANY_QUEUE,)))

    def close(self) -> None:
        """Says what is left to say, and closes the connection; the next use opens another."""
        self._own()
        with self._changed:
            thread, self._closing = self._thread, True
            self._changed.notify()
        if thread is not None:
            thread.join(CLOSE_S)
        self._closing = False

    @property
    def _polling_only(self) -> bool:
        return self._runtime.settings.listen_url_for("") is None

    def _tell(self, *queues: str) -> None:
        if self._polling_only:
            return
        self._own()
        with self._changed:
            if not (self._queues.issuperset(queues) and self._works):  # else it is about to be said
                self._queues.update(queues)
                self._work()

    @property
    def _works(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _work(self) -> None:
        if self._works:
            self._changed.notify()
            return
        thread = threading.Thread(target=self._run, name="dbdurable-notifier", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends
            self._queues.clear()
            self._uncommitted.clear()
        else:
            self._thread = thread

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        database, failing = self._runtime.database, False
        channel, connection = channel_of(database.schema), database.own_connection()
        driver = SyncDriver(database, pool=connection)
        while (work := self._next()) is not None:
            queues, uncommitted = work
            try:
                if uncommitted:
                    self._look(driver, uncommitted)
                if queues:
                    driver.run(query(NOTIFY, channel, payload_of(queues)))
                failing = False
            except Exception as error:
                if not failing:
                    logger.warning("cannot notify executors of new work, they find it by polling: %s", error)
                failing, self._send_at = True, monotonic() + FAILED_S
        connection.close()

    def _next(self) -> tuple[set[str], list[_Uncommitted]] | None:
        """What to do now: queues to tell of, starts to look for. Waits for it; None when there is nothing more."""
        with self._changed:
            while True:
                now = monotonic()
                due = [start for start in self._uncommitted if self._closing or start.due <= now]
                queues = set(self._queues) if self._closing or self._send_at <= now else set[str]()
                if due or queues:
                    self._uncommitted = [start for start in self._uncommitted if start not in due]
                    if queues:
                        self._queues.clear()
                        self._send_at = now + INTERVAL_S
                    return queues, due
                ahead = [start.due for start in self._uncommitted] + [self._send_at] * bool(self._queues)
                if self._closing or not (self._changed.wait(min(ahead, default=now + IDLE_S) - now) or ahead):
                    if self._queues or self._uncommitted:  # said at the very moment when the time was over
                        continue
                    self._thread = None
                    return None

    def _look(self, driver: SyncDriver, uncommitted: list[_Uncommitted]) -> None:
        found = {id: (queue, waits) for id, queue, waits in driver.run(query(COMMITTED, [s.id for s in uncommitted]))}
        again = []
        for start in uncommitted:
            queue, is_queued = found.get(start.id, (None, False))
            if is_queued:
                self.queued(start.name, queue)
            elif queue is None and start.looks + 1 < len(LOOKS_S) and not self._closing:
                again.append(_Uncommitted(start.id, start.name, start.begun, start.looks + 1))
        with self._changed:
            self._uncommitted += again


_notifiers: weakref.WeakSet[Notifier] = weakref.WeakSet()


@atexit.register
def _say_the_rest() -> None:
    """A script that starts a workflow and ends."""
    for notifier in list(_notifiers):
        notifier.close()
