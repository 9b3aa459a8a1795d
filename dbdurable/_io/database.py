"""One application's way to its database: pools per colour, rendered statements, the clock, the seam.

Opens nothing until first use. A forked child drops what it inherited without touching the sockets.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import psycopg

from dbdurable._core.control import ConnectionLost
from dbdurable._core.ids import UuidV7
from dbdurable._io.connect import (
    Introduction,
    async_session_setup,
    connect,
    connect_kwargs,
    connection_error,
    is_full,
    session_setup,
)
from dbdurable._io.door import Door
from dbdurable._io.guard import AsyncStepConnection, Session, StepConnection
from dbdurable._io.migrate import check, migrate
from dbdurable._io.opening import AsyncStepCursor, StepCursor, begins
from dbdurable._io.pool import AsyncPool, OwnConnection, Pool, born
from dbdurable._io.riders import AsyncRiders, Riders
from dbdurable._io.seam import Seam
from dbdurable._protocol.effects import Query
from dbdurable._sql.executor import CLOCK
from dbdurable._sql.statement import Statement, session_name

Prepare: TypeAlias = Literal["auto", "never", "always"]


class Database:
    """Connections to one schema of one database. Thread-safe; survives fork by starting over.

    `resolve` says where it is; it is asked before each connection. `prepare` says whether sessions keep prepared
    statements: "auto" is yes, unless a pooler stands between.
    """

    def __init__(
        self,
        resolve: Callable[[], str],
        schema: str,
        *,
        auto_migrate: bool = True,
        connections_max: int = 24,
        prepare: Prepare = "auto",
    ) -> None:
        self._resolve = resolve
        self.schema = schema
        self._auto_migrate = auto_migrate
        self.connections_max = connections_max
        self._prepare = prepare
        self.seam: Seam | None = None
        self._texts: dict[Statement, tuple[str, str]] = {}
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._url: str | None = None
        self._ready = False
        self._door = Door()
        self._pool: Pool | None = None
        self._async_pools: dict[asyncio.AbstractEventLoop, AsyncPool] = {}
        self.riders: Riders | None = None
        self.async_riders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRiders] = (
            weakref.WeakKeyDictionary()
        )
        self._clock_offset_s = 0.0
        self._mint = UuidV7(lambda: self.clock_us() // 1000)

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
        return self._rendered(statement)[1]

    def statements(self, queries: Iterable[Query]) -> list[tuple[str, str, tuple[Any, ...]]]:
        """Name, text and parameters of each, as `flight` sends them."""
        return [(*self._rendered(query.statement), query.params) for query in queries]

    def _rendered(self, statement: Statement) -> tuple[str, str]:
        """Its name in a session, and its text."""
        found = self._texts.get(statement)
        if found is None:
            text = statement.render(self.schema)
            found = self._texts[statement] = (session_name(statement.name, text), text)
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
                self.learn_clock(row[0])
            self._ready = True

    def learn_clock(self, now_s: float) -> None:
        """Takes up what the server said just now; heartbeats repeat it, since the two clocks drift apart."""
        self._clock_offset_s = now_s - time.monotonic()

    def clock_us(self) -> int:
        """The database's clock as this process knows it: microseconds since 1970; no I/O."""
        return int((time.monotonic() + self._clock_offset_s) * 1_000_000)

    def new_id(self) -> Any:
        """A UUID version 7 by the database's clock."""
        self.prepare()
        return self._mint()

    @property
    def pool(self) -> Pool:
        """The pool of sync connections."""
        self._own()
        if self._pool is None:
            self.prepare()
            with self._lock:
                if self._pool is None:
                    self._pool = Pool(self._open, self._door, self.connections_max)
        return self._pool

    async def async_pool(self) -> AsyncPool:
        """The pool of async connections of the running loop."""
        self._own()
        loop = asyncio.get_running_loop()
        found = self._async_pools.get(loop)
        if found is None:
            if not self._ready:
                await asyncio.to_thread(self.prepare)
            self._drop_closed_loops()
            found = self._async_pools[loop] = AsyncPool(self._aopen, self._door, self.connections_max)
        return found

    def own_connection(self, **kwargs: Any) -> OwnConnection:
        """A connection for one service alone; `kwargs` are psycopg's."""
        return OwnConnection(lambda: self._open(**kwargs), self._door)

    def _open(self, **kwargs: Any) -> StepConnection:
        """Knocks once. Raises ConnectionLost with the reason."""
        url = self._resolve()
        try:
            connection = StepConnection.connect(url, autocommit=True, **{**connect_kwargs(url), **kwargs})
            try:
                self._introduce(connection, session_setup(connection))
                connection.cursor_factory = StepCursor
            except BaseException:
                connection.pgconn.finish()
                raise
        except psycopg.Error as error:
            self._leave_room(error)
            raise ConnectionLost(str(connection_error(error, url))) from None
        return connection

    async def _aopen(self) -> AsyncStepConnection:
        """The same for `async def`."""
        url = await asyncio.to_thread(self._resolve)
        try:
            connection = await AsyncStepConnection.connect(url, autocommit=True, **connect_kwargs(url))
            try:
                self._introduce(connection, await async_session_setup(connection))
                connection.cursor_factory = AsyncStepCursor
            except BaseException:
                connection.pgconn.finish()
                raise
        except psycopg.Error as error:
            self._leave_room(error)
            raise ConnectionLost(str(connection_error(error, url))) from None
        return connection

    def _leave_room(self, refused: psycopg.Error) -> None:
        """A server that is full: maybe of what lies idle here, in another pool than that of who needs a connection."""
        if is_full(refused):
            for pool in (self._pool, *self._async_pools.copy().values()):
                if pool is not None:
                    pool.give_up_idle()

    def _introduce(self, session: Session, said: Introduction | None) -> None:
        """Tells a new session's connection what it is."""
        session.backend = backend = said and said.backend
        session.begins = begins(pooled=said is None, deferrable=said is not None and said.deferrable)
        keeps_statements = self._prepare == "always" or (self._prepare == "auto" and backend is not None)
        session.prepared = set() if keeps_statements else None
        session.seam = self.seam
        born(session)

    def _drop_closed_loops(self) -> None:
        """A loop that ended without closing its pool: nothing can be awaited there."""
        for loop in [loop for loop in self._async_pools if loop.is_closed()]:
            self._async_pools.pop(loop).finish()

    def close(self) -> None:
        """Closes the sync pool, and the async pools of loops that have ended."""
        self._own()
        with self._lock:
            pool, self._pool = self._pool, None
            self._ready = False
            self._url = None
        if pool is not None:
            pool.finish()
        self._drop_closed_loops()

    async def aclose(self) -> None:
        """Closes the async pool of the running loop."""
        self._own()
        found = self._async_pools.pop(asyncio.get_running_loop(), None)
        if found is not None:
            found.finish()


_inherited: list[Any] = []
"""The pools of the parent stay referenced: their sockets are the parent's, and must not be closed here."""


__all__ = ["Database", "Prepare"]
