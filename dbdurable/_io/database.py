"""One application's way to its database: pools per colour, rendered statements, the clock, the seam.

Opens nothing until first use. A forked child drops what it inherited without touching the sockets.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from dbdurable._core.ids import UuidV7
from dbdurable._io.connect import async_session_setup, connect, connect_kwargs, session_setup
from dbdurable._io.guard import AsyncStepConnection, StepConnection
from dbdurable._io.migrate import check, migrate
from dbdurable._io.riders import AsyncRiders, Riders
from dbdurable._io.seam import Seam
from dbdurable._sql.executor import CLOCK
from dbdurable._sql.statement import Statement

POOL_TIMEOUT_S = 10.0
_BACKEND = "select pid, backend_start from pg_stat_get_activity(pg_backend_pid())"


class Database:
    """Connections to one schema of one database. Thread-safe; survives fork by starting over."""

    def __init__(
        self, resolve: Callable[[], str], schema: str, *, auto_migrate: bool = True, connections_max: int = 24
    ) -> None:
        self._resolve = resolve
        self.schema = schema
        self._auto_migrate = auto_migrate
        self.connections_max = connections_max
        self.seam: Seam | None = None
        self._texts: dict[Statement, str] = {}
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._url: str | None = None
        self._ready = False
        self._pool: ConnectionPool[StepConnection] | None = None
        self._async_pools: dict[asyncio.AbstractEventLoop, AsyncConnectionPool[AsyncStepConnection]] = {}
        self.riders: Riders | None = None
        self.async_riders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRiders] = (
            weakref.WeakKeyDictionary()
        )
        self._clock_offset_s = 0.0
        self._mint = UuidV7(lambda: int((time.monotonic() + self._clock_offset_s) * 1000))

    def _own(self) -> None:
        if self._pid != os.getpid():
            # The parent's sockets are not ours to close: forget them.
            _inherited.append((self._pool, self._async_pools))
            self._reset()

    @property
    def url(self) -> str:
        """Where the database is; starts the embedded server when nothing else is set."""
        self._own()
        with self._lock:
            if self._url is None:
                self._url = self._resolve()
            return self._url

    def text(self, statement: Statement) -> str:
        """The statement for this schema."""
        found = self._texts.get(statement)
        if found is None:
            found = self._texts[statement] = statement.render(self.schema)
        return found

    def prepare(self) -> None:
        """First use: connects, migrates or checks the tables, and learns the database's clock."""
        self._own()
        if self._ready:
            return
        url = self.url
        with self._lock:
            if self._ready:
                return
            with connect(url) as connection:
                if self._auto_migrate:
                    migrate(connection, self.schema)
                else:
                    check(connection, self.schema)
                row = connection.execute(CLOCK.text).fetchone()
                assert row is not None
                self._clock_offset_s = row[0] - time.monotonic()
            self._ready = True

    def new_id(self) -> Any:
        """A UUID version 7 by the database's clock."""
        self.prepare()
        return self._mint()

    @property
    def pool(self) -> ConnectionPool[StepConnection]:
        """The pool of sync connections."""
        self._own()
        if self._pool is None:
            self.prepare()
            with self._lock:
                if self._pool is None:
                    self._pool = ConnectionPool(
                        self.url,
                        connection_class=StepConnection,
                        kwargs={**connect_kwargs(self.url), "autocommit": True},
                        configure=self._configure,
                        min_size=0,
                        max_size=self.connections_max,
                        timeout=POOL_TIMEOUT_S,
                        open=True,
                        name="dbdurable",
                    )
                    _open_pools.add(self._pool)
        return self._pool

    async def async_pool(self) -> AsyncConnectionPool[AsyncStepConnection]:
        """The pool of async connections of the running loop."""
        self._own()
        loop = asyncio.get_running_loop()
        found = self._async_pools.get(loop)
        if found is None:
            if not self._ready:
                await asyncio.to_thread(self.prepare)
            self._drop_closed_loops()
            found = self._async_pools[loop] = AsyncConnectionPool(
                self.url,
                connection_class=AsyncStepConnection,
                kwargs={**connect_kwargs(self.url), "autocommit": True},
                configure=self._aconfigure,
                min_size=0,
                max_size=self.connections_max,
                timeout=POOL_TIMEOUT_S,
                open=False,
                name="dbdurable-async",
            )
            await found.open()
        return found

    def _configure(self, connection: Connection[Any]) -> None:
        session_setup(connection)
        if isinstance(connection, StepConnection):
            connection.seam = self.seam
            connection.backend = _backend(connection.execute(_BACKEND).fetchone(), connection.info.backend_pid)

    async def _aconfigure(self, connection: AsyncConnection[Any]) -> None:
        await async_session_setup(connection)
        if isinstance(connection, AsyncStepConnection):
            connection.seam = self.seam
            cursor = await connection.execute(_BACKEND)
            connection.backend = _backend(await cursor.fetchone(), connection.info.backend_pid)

    def _drop_closed_loops(self) -> None:
        """A loop that ended without closing its pool: finish the sockets, nothing can be awaited there."""
        for loop in [loop for loop in self._async_pools if loop.is_closed()]:
            for connection in list(self._async_pools.pop(loop)._pool):
                connection.pgconn.finish()

    def close(self) -> None:
        """Closes the sync pool, and the async pools of loops that have ended."""
        self._own()
        with self._lock:
            pool, self._pool = self._pool, None
            self._ready = False
            self._url = None
        if pool is not None:
            pool.close()
        self._drop_closed_loops()

    async def aclose(self) -> None:
        """Closes the async pool of the running loop."""
        self._own()
        found = self._async_pools.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.close()


def _backend(row: Any, pid: int) -> Any:
    """The session's identity, unless a pooler stands between: then it says nothing about our connection."""
    return (row[0], row[1]) if row is not None and row[0] == pid else None


_inherited: list[Any] = []
_open_pools: weakref.WeakSet[ConnectionPool[Any]] = weakref.WeakSet()


@atexit.register
def _close_pools() -> None:
    for pool in list(_open_pools):
        pool.close(timeout=1.0)


def _after_fork() -> None:
    """The pools of the parent stay referenced and are never closed here: their sockets are the parent's."""
    _inherited.extend(_open_pools)
    _open_pools.clear()


os.register_at_fork(after_in_child=_after_fork)


__all__ = ["POOL_TIMEOUT_S", "Database"]
