"""Connections that are kept for the next caller, in both colours.

No threads of their own: who needs a connection opens it, and hears at once why that fails. The one used last is
lent first, so that a session that nobody needs any more grows old and is closed. A connection on which the
server has said something while it lay idle is not lent: the server ends sessions that way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic, sleep
from typing import Any, Final

from psycopg.pq import PipelineStatus, TransactionStatus

from dbdurable._core.control import ConnectionLost
from dbdurable._io.door import Door
from dbdurable._io.guard import AsyncStepConnection, StepConnection

POOL_TIMEOUT_S: Final = 10.0
"""How long a caller waits for a connection: one that somebody gives back, or for a server that answers."""

IDLE_S_MAX: Final = 600.0
LIFE_S_MAX: Final = 3600.0
"""After so long a connection is replaced: memory of its session goes, and addresses are looked up anew."""


def is_stale(connection: Any) -> bool:
    """Whether an idle connection is closed, or the server has said something on it: that it ends, most likely."""
    if connection.closed:
        return True
    watch = select.poll()
    watch.register(connection.fileno(), select.POLLIN)
    return bool(watch.poll(0))


def born(connection: Any) -> None:
    """Notes when a new connection is to be replaced; not all of a process at the same moment."""
    connection.expires_at = monotonic() + LIFE_S_MAX * random.uniform(0.8, 1.0)  # noqa: S311


def nothing_in_time(limit: int) -> ConnectionLost:
    """The error for who waited in vain for others to give one back."""
    return ConnectionLost(f"no connection was free for {POOL_TIMEOUT_S:g} s: all {limit} are in use")


class _Idle:
    """What both colours share: the connections that lie idle."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: deque[Any] = deque()
        self._finished = False

    def _take(self) -> Any:
        """A usable idle connection; None: there is none."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not is_stale(connection):
                return connection
            connection.pgconn.finish()

    def _keep(self, connection: Any) -> None:
        """Takes one back, unless it is broken or old; closes one that nobody has needed for long."""
        now = monotonic()
        clean = not self._finished and connection.info.transaction_status == TransactionStatus.IDLE
        if clean and connection.pgconn.pipeline_status == PipelineStatus.OFF and now < connection.expires_at:
            connection.idle_since = now
            self._idle.append(connection)
        else:
            connection.pgconn.finish()
        if self._idle and self._idle[0].idle_since < now - IDLE_S_MAX:
            with contextlib.suppress(IndexError):  # somebody was faster
                self._idle.popleft().pgconn.finish()

    def finish(self) -> None:
        """Closes the idle ones; what is lent is closed when it comes back."""
        self._finished = True
        while self._idle:
            self._idle.pop().pgconn.finish()


class Pool(_Idle):
    """Sync connections, at most `limit` at a time."""

    def __init__(self, open: Callable[[], StepConnection], door: Door, limit: int) -> None:
        super().__init__(limit)
        self._open = open
        self._door = door
        self._free = threading.Semaphore(limit)

    def getconn(self) -> StepConnection:
        """A connection, idle or new. Raises ConnectionLost when there is none in `POOL_TIMEOUT_S`."""
        if not self._free.acquire(timeout=POOL_TIMEOUT_S):
            raise nothing_in_time(self._limit)
        try:
            return self._take() or knock(self._open, self._door, POOL_TIMEOUT_S)
        except BaseException:
            self._free.release()
            raise

    def putconn(self, connection: Any) -> None:
        """Takes it back, in whatever state it is."""
        self._keep(connection)
        self._free.release()


class AsyncPool(_Idle):
    """Async connections of one loop, at most `limit` at a time."""

    def __init__(self, open: Callable[[], Awaitable[AsyncStepConnection]], door: Door, limit: int) -> None:
        super().__init__(limit)
        self._open = open
        self._door = door
        self._free = asyncio.Semaphore(limit)

    async def getconn(self) -> AsyncStepConnection:
        """A connection, idle or new. Raises ConnectionLost when there is none in `POOL_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(POOL_TIMEOUT_S):
                await self._free.acquire()
        except TimeoutError:
            raise nothing_in_time(self._limit) from None
        try:
            return self._take() or await aknock(self._open, self._door, POOL_TIMEOUT_S)
        except BaseException:
            self._free.release()
            raise

    async def putconn(self, connection: Any) -> None:
        """Takes it back, in whatever state it is."""
        self._keep(connection)
        self._free.release()


def knock(open: Callable[[], StepConnection], door: Door, timeout_s: float) -> StepConnection:
    """A new connection, tried for as often as the door allows. Raises ConnectionLost with the last reason."""
    deadline = monotonic() + timeout_s
    while True:
        wait_s = door.turn()
        if not wait_s:
            try:
                connection = open()
            except ConnectionLost as error:
                door.failed(str(error))
            else:
                door.opened()
                return connection
        if monotonic() + wait_s > deadline:
            raise ConnectionLost(door.reason)
        sleep(wait_s)


async def aknock(
    open: Callable[[], Awaitable[AsyncStepConnection]], door: Door, timeout_s: float
) -> AsyncStepConnection:
    """The same for `async def`."""
    deadline = monotonic() + timeout_s
    while True:
        wait_s = door.turn()
        if not wait_s:
            try:
                connection = await open()
            except ConnectionLost as error:
                door.failed(str(error))
            else:
                door.opened()
                return connection
        if monotonic() + wait_s > deadline:
            raise ConnectionLost(door.reason)
        await asyncio.sleep(wait_s)


class OwnConnection:
    """One connection of a service, in the shape of a pool: opened at first use, and again after it broke.

    Neither user code nor a busy pool can starve it. `timeout_s`: how long to try before saying that the
    database is away.
    """

    def __init__(self, open: Callable[[], StepConnection], door: Door, timeout_s: float = 2.0) -> None:
        self._open = open
        self._door = door
        self._timeout_s = timeout_s
        self._connection: StepConnection | None = None
        self.generation = 0

    def getconn(self) -> StepConnection:
        """The connection, open."""
        if self._connection is None or is_stale(self._connection):
            self.close()
            self._connection = knock(self._open, self._door, self._timeout_s)
            self.generation += 1
        return self._connection

    def putconn(self, connection: Any) -> None:
        """Keeps it for the next use; one that was left in the middle of something is of no more use."""
        if connection.info.transaction_status != TransactionStatus.IDLE:
            connection.pgconn.finish()

    @property
    def lost(self) -> bool:
        """Whether it has to be opened anew."""
        return self._connection is None or is_stale(self._connection)

    def close(self) -> None:
        """Closes it."""
        if self._connection is not None:
            self._connection.pgconn.finish()
