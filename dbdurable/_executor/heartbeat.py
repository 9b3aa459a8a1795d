"""The heartbeat: renews the lease, learns of cancels, and hands back what this process does not know.

It has a thread and a connection of its own, so that neither user code nor a busy pool can starve it.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._executor.runtime import boottime
from dbdurable._io.connect import connect
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, flight, query
from dbdurable._sql import executor as sql
from dbdurable._sql.workflow import HAND_BACK
from dbdurable.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

logger = logging.getLogger("dbdurable")

SERVICE_TRANSACTION_MS_MAX = 10_000
"""Longest transaction of a service's own connection; each takes a few milliseconds."""


class OwnConnection:
    """One connection in the shape of a pool: made at first use, and again after it broke."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self.generation = 0

    def getconn(self) -> psycopg.Connection[Any]:
        """The connection, open."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url)
            _limit_transactions(self._connection)
            self.generation += 1
        return self._connection

    def putconn(self, connection: Any) -> None:
        """Keeps it for the next use."""

    def close(self) -> None:
        """Closes it."""
        if self._connection is not None:
            self._connection.close()


def _limit_transactions(connection: psycopg.Connection[Any]) -> None:
    """A process that is frozen in the middle of a flight would keep its locks on tickets, or on its own row.

    PostgreSQL before 17 cannot end such a transaction; there it lasts until the process or its host is gone.
    """
    with suppress(psycopg.errors.UndefinedObject):
        connection.execute(f"set transaction_timeout = {SERVICE_TRANSACTION_MS_MAX}")


class Heartbeat:
    """Beats every `beat_interval_s` seconds."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._settings = executor.runtime.settings
        self._stop = threading.Event()
        self._connection = OwnConnection(executor.runtime.database.url)
        self._driver = SyncDriver(executor.runtime.database, pool=self._connection)
        self._session_of = (UUID(int=0), -1)
        self._unknown: set[UUID] = set()
        self._thread = threading.Thread(target=self._run, name="dbdurable-heartbeat", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the beat and this life of the process: what it still holds may be taken over at once."""
        self._stop.set()
        self._thread.join(self._settings.beat_interval_s + 5)

    def _run(self) -> None:
        while True:
            try:
                self.beat()
            except (ConnectionLost, Transient, DatabaseUnavailable) as error:
                logger.warning("heartbeat: the database is away: %s", error)
            except Exception:
                logger.exception("heartbeat failed")
            if self._stop.wait(self._settings.beat_interval_s):
                break
        try:
            self._say_goodbye()
        except Exception as error:
            logger.warning("could not unregister: %s; the lease will run out by itself", error)
        self._connection.close()

    def beat(self) -> None:
        """One beat. A refused one means that this identity is over."""
        executor, lease = self._executor, self._executor.lease
        sent_at = boottime()
        done = executor.attempts.take_done_batches()
        try:
            renewed, held, _ = self._driver.run(
                flight(
                    Query(sql.BEAT, (lease.executor_id, lease.ttl_s)),
                    Query(sql.HELD, (lease.executor_id,)),
                    Query(sql.RELEASE_BATCHES, (lease.executor_id, done)),
                )
            )
        except BaseException:
            executor.attempts.put_back(done)
            raise
        if not renewed:
            self._new_life()
            return
        lease.renewed(sent_at)
        self._note_session()
        self._reconcile(held)

    def _note_session(self) -> None:
        """Says which session the beat comes over, so that peers see at once when it ends."""
        lease = self._executor.lease
        session = (lease.executor_id, self._connection.generation)
        if session != self._session_of:
            pid = self._connection.getconn().info.backend_pid
            self._driver.run(query(sql.SESSION, lease.executor_id, pid))
            self._session_of = session

    def _reconcile(self, held: list[tuple[Any, ...]]) -> None:
        """Cancels come with the answer; ids that are unknown here for two beats are handed back."""
        unknown = set()
        for id, epoch, interrupt, queue, slots in held:
            frame = self._executor.attempts.find(id)
            if frame is None:
                unknown.add(id)
                if id in self._unknown:
                    logger.warning("workflow %s is held by this process and unknown to it: handed back", id)
                    owner = (self._executor.lease.executor_id, epoch)
                    self._driver.run(query(HAND_BACK, id, *owner, queue, slots))
            elif interrupt is not None and frame.interrupt is None:
                # Only the reason: the epoch is adopted where nothing of the old one is in flight, else the
                # cancel would open the fence for the very transaction that it has to stop.
                frame.interrupt = interrupt
        self._unknown = unknown

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
        done = self._executor.attempts.take_done_batches()
        self._driver.run(
            flight(
                Query(sql.RELEASE_BATCHES, (executor_id, done)),
                Query(sql.UNREGISTER, (executor_id,)),
            )
        )
