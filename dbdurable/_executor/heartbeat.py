"""The heartbeat: renews the lease, learns of cancels, and hands back what this process does not know.

It has a thread and a connection of its own, so that neither user code nor a busy pool can starve it.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._executor.runtime import boottime
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, flight, query
from dbdurable._sql import executor as sql
from dbdurable._sql.message import WAKE_ENDED
from dbdurable._sql.workflow import HAND_BACK
from dbdurable.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor
    from dbdurable._protocol.frame import WorkflowFrame

logger = logging.getLogger("dbdurable")

LOOK_S = 0.25
"""How often it looks between two beats whether its session has ended: peers take that for the process's end."""


def _interrupt(frames: list[WorkflowFrame]) -> None:
    for frame in frames:
        frame.in_flight.interrupt()


class Heartbeat:
    """Beats every `beat_interval_s` seconds."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._settings = executor.runtime.settings
        self._stop = threading.Event()
        self._wake = threading.Event()
        # A silent line has to be given up while there is time left to beat over another one.
        patience_s = max(2, round(executor.lease.ttl_s / 5))
        self._connection = executor.runtime.database.own_connection(
            connect_timeout=patience_s, tcp_user_timeout=patience_s * 1000
        )
        self._driver = SyncDriver(executor.runtime.database, pool=self._connection)
        self._session_of = (UUID(int=0), -1)
        self._unknown: set[UUID] = set()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="dbdurable-heartbeat", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the beat and this life of the process: what it still holds may be taken over at once."""
        self._stop.set()
        self._wake.set()
        self._thread.join(self._settings.beat_interval_s + 5)

    def hint(self) -> None:
        """Beats at once: something that runs here was cancelled."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._failures += 1
            self._wake.clear()
            try:
                self.beat()
                self._failures = 0
            except (ConnectionLost, Transient, DatabaseUnavailable) as error:
                logger.warning("heartbeat: the database is away: %s", error)
            except Exception:
                logger.exception("heartbeat failed")
            if self._rest():
                break
        try:
            if not self._executor.lease.lost:
                self.beat()  # settles what was handed back
            self._say_goodbye()
        except Exception as error:
            logger.warning("could not unregister: %s; the lease will run out by itself", error)
        self._connection.close()

    def _rest(self) -> bool:
        """Until the next beat is due, which is soon when the session has ended; whether the life is over."""
        left_s = self._settings.beat_interval_s
        while left_s > 0 and not self._wake.is_set():
            if self._connection.lost:  # others may have lost theirs at the same moment: not all back at once
                soon_s = LOOK_S * 2 ** min(self._failures, 10)
                return self._stop.wait(min(left_s, soon_s) * random.random())  # noqa: S311  (spreads, guards nothing)
            self._wake.wait(min(left_s, LOOK_S))
            left_s -= LOOK_S
        return self._stop.is_set()

    def beat(self) -> None:
        """One beat. A refused one means that this identity is over."""
        executor, lease = self._executor, self._executor.lease
        sent_at = boottime()
        done, ended = executor.attempts.take_done()
        doubts = executor.attempts.doubts()
        try:
            renewed, held, *_ = self._driver.run(
                flight(
                    Query(sql.BEAT, (lease.executor_id, lease.ttl_s)),
                    Query(sql.HELD, (lease.executor_id,)),
                    Query(WAKE_ENDED, (ended,)),
                    Query(sql.RELEASE_BATCHES, (lease.executor_id, done)),
                )
            )
        except BaseException:
            executor.attempts.put_back(done, ended)
            raise
        if not renewed:
            self._new_life()
            return
        lease.renewed(sent_at)
        executor.attempts.settle(doubts, {row[0] for row in held})
        executor.runtime.database.learn_clock(renewed[0][0])
        self._note_session()
        self._reconcile(held)

    def _note_session(self) -> None:
        """Says which session the beat comes over, so that peers see at once when it ends."""
        lease = self._executor.lease
        session = (lease.executor_id, self._connection.generation)
        if session != self._session_of:
            if (backend := self._connection.getconn().backend) is not None:  # behind a pooler it would be a stranger
                self._driver.run(query(sql.SESSION, lease.executor_id, backend[0]))
            self._session_of = session

    def _reconcile(self, held: list[tuple[Any, ...]]) -> None:
        """Cancels come with the answer; ids that are unknown here for two beats are handed back."""
        executor, unknown = self._executor, set()
        cancelled: list[WorkflowFrame] = []
        for id, epoch, interrupt, queue, slots in held:
            frame = executor.attempts.find(id)
            if frame is None:
                unknown.add(id)
                if id in self._unknown:
                    logger.warning("workflow %s is held by this process and unknown to it: handed back", id)
                    owner = (executor.lease.executor_id, epoch)
                    self._driver.run(query(HAND_BACK, id, *owner, queue, slots))
            elif interrupt is not None and frame.interrupt is None:
                # Only the reason: the epoch is adopted where nothing of the old one is in flight, else the
                # cancel would open the fence for the very transaction that it has to stop.
                frame.interrupt = interrupt
                cancelled.append(frame)
        self._unknown = unknown
        if cancelled:  # on a thread of its own: servers that do not answer must not hold up the beat
            threading.Thread(target=_interrupt, args=(cancelled,), name="dbdurable-interrupt", daemon=True).start()

    def _new_life(self) -> None:
        executor = self._executor
        logger.error(
            "this executor was declared dead (it did not beat for %g s): its workflows go on elsewhere; "
            "it goes on under a new identity",
            executor.lease.ttl_s,
        )
        executor.lease.lose()
        executor.lease = executor.register()

    def _say_goodbye(self) -> None:
        executor_id = self._executor.lease.executor_id
        done, ended = self._executor.attempts.take_done()
        self._driver.run(
            flight(
                Query(WAKE_ENDED, (ended,)),
                Query(sql.RELEASE_BATCHES, (executor_id, done)),
                Query(sql.UNREGISTER, (executor_id,)),
            )
        )
