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
from functools import partial
from time import monotonic
from typing import Any, Final

from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

from dbdurable._core.control import ConnectionLost
from dbdurable._io.door import Door, aknock, knock
from dbdurable._io.guard import AsyncStepConnection, StepConnection

POOL_TIMEOUT_S: Final = 10.0
"""How long a caller waits for a connection: one that somebody gives back, or for a server that answers."""

OWN_TIMEOUT_S: Final = 2.0
"""How long a service tries to connect before it says that the database is away."""

IDLE_S_MAX: Final = 600.0
LIFE_S_MAX: Final = 3600.0
"""After so long a connection is replaced: memory of its session goes, and addresses are looked up anew."""

FRESH_S: Final = 0.001
"""So soon after its last use a connection is not looked at again: should it have ended just then, its next statement
fails, as it might a moment later."""

_IDLE: Final = int(TransactionStatus.IDLE)
_OFF: Final = int(PipelineStatus.OFF)
_BAD: Final = int(ConnStatus.BAD)


def is_stale(connection: Any) -> bool:
    """Whether an idle connection is closed, or the server has said something on it: that it ends, most likely."""
    if connection.pgconn.status == _BAD:
        return True
    if monotonic() - connection.idle_since < FRESH_S:
        return False
    if connection.watch is None:
        connection.watch = select.poll()
        connection.watch.register(connection.fileno(), select.POLLIN)
    return bool(connection.watch.poll(0))


def born(connection: Any) -> None:
    """Notes when a new connection is to be replaced; not all of a process at the same moment."""
    connection.expires_at = monotonic() + LIFE_S_MAX * random.uniform(0.8, 1.0)  # noqa: S311  (spread, no secret)


def nothing_in_time(limit: int) -> ConnectionLost:
    """The error for who waited in vain for others to give one back."""
    return ConnectionLost(f"no connection was free for {POOL_TIMEOUT_S:g} s: all {limit} are in use")


class _Turn:
    """One caller who waits. `connection` is what it was given; None: room to open one."""

    __slots__ = ("connection", "serve")

    def __init__(self, serve: Callable[[], object]) -> None:
        self.serve = serve
        self.connection: Any = None


class _Shared:
    """What both colours share: the connections that lie idle, and who waits for one.

    Nobody locks anything while there are idle ones: taking one off the deque is the whole of it. Who finds none
    queues up under the lock, and is served in turn.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: deque[Any] = deque()
        self._waiting: deque[_Turn] = deque()
        self._lock = threading.RLock()
        self._count = 0
        """Connections that are open or being opened, lent or idle."""
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
            self._drop(connection)

    def _take_instead(self) -> Any:
        """The same for who was to open one: the room for that is left to others."""
        connection = self._take()
        if connection is not None:
            self._make_room()
        return connection

    def give_up_idle(self) -> None:
        """Closes what nobody needs at the moment; who does later opens one again."""
        with contextlib.suppress(IndexError):
            while True:
                self._drop(self._idle.pop())

    def _keep(self, connection: Any) -> None:
        """Takes one back, unless it is broken or old; closes one that nobody has needed for long."""
        now, pgconn = monotonic(), connection.pgconn
        clean = not self._finished and pgconn.transaction_status == _IDLE and pgconn.pipeline_status == _OFF
        if clean and now < connection.expires_at:
            connection.idle_since = now
            self._idle.append(connection)
        else:
            self._drop(connection)
        if self._idle and self._idle[0].idle_since < now - IDLE_S_MAX:
            with contextlib.suppress(IndexError):  # somebody was faster
                self._drop(self._idle.popleft())
        if self._waiting:
            self._serve()

    def _drop(self, connection: Any) -> None:
        connection.pgconn.finish()
        self._make_room()

    def _make_room(self) -> None:
        """One connection less: who waits may open another one."""
        with self._lock:
            self._count -= 1
            self._serve()

    def _queue_up(self, turn: _Turn) -> None:
        with self._lock:
            self._waiting.append(turn)
            self._serve()

    def _serve(self) -> None:
        """Gives the first who wait what there is: idle connections, then room for new ones."""
        with self._lock:
            while self._waiting:
                connection = self._take()
                if connection is None:
                    if self._count >= self._limit:
                        return
                    self._count += 1
                turn = self._waiting.popleft()
                turn.connection = connection
                turn.serve()

    def _gives_up(self, turn: _Turn) -> bool:
        """Takes back that somebody waits; False: it has been served meanwhile."""
        with self._lock:
            try:
                self._waiting.remove(turn)
            except ValueError:
                return False
            return True

    def _hand_back(self, turn: _Turn) -> None:
        """Nobody is there any more to use what was given."""
        if self._gives_up(turn):
            return
        if turn.connection is None:
            self._make_room()
        else:
            self._keep(turn.connection)

    def finish(self) -> None:
        """Closes the idle ones; what is lent is closed when it comes back."""
        self._finished = True
        while self._idle:
            self._idle.pop().pgconn.finish()


class Pool(_Shared):
    """Sync connections, at most `limit` at a time."""

    def __init__(self, open: Callable[[], StepConnection], door: Door, limit: int) -> None:
        super().__init__(limit)
        self._open = open
        self._door = door

    def getconn(self) -> StepConnection:
        """A connection, idle or new. Raises ConnectionLost when there is none in `POOL_TIMEOUT_S`."""
        connection = None if self._waiting else self._take()
        return connection or self._wait_or_open()

    def _wait_or_open(self) -> StepConnection:
        gate = threading.Lock()
        gate.acquire()
        turn = _Turn(gate.release)
        self._queue_up(turn)
        try:
            served = gate.acquire(timeout=POOL_TIMEOUT_S)
        except BaseException:
            self._hand_back(turn)
            raise
        if not served and self._gives_up(turn):
            raise nothing_in_time(self._limit)
        if turn.connection is not None:
            return turn.connection  # type: ignore[no-any-return]
        found: Callable[[], StepConnection | None] = self._take_instead
        try:
            return knock(self._open, self._door, POOL_TIMEOUT_S, found)
        except BaseException:
            self._make_room()
            raise

    def putconn(self, connection: Any) -> None:
        """Takes it back, in whatever state it is."""
        self._keep(connection)


class AsyncPool(_Shared):
    """Async connections of one loop, at most `limit` at a time."""

    def __init__(self, open: Callable[[], Awaitable[AsyncStepConnection]], door: Door, limit: int) -> None:
        super().__init__(limit)
        self._open = open
        self._door = door

    async def getconn(self) -> AsyncStepConnection:
        """A connection, idle or new. Raises ConnectionLost when there is none in `POOL_TIMEOUT_S`."""
        connection = None if self._waiting else self._take()
        return connection or await self._wait_or_open()

    async def _wait_or_open(self) -> AsyncStepConnection:
        gate = asyncio.Event()
        turn = _Turn(partial(_open_gate, asyncio.get_running_loop(), gate))
        self._queue_up(turn)
        try:
            async with asyncio.timeout(POOL_TIMEOUT_S):
                await gate.wait()
        except TimeoutError:
            if self._gives_up(turn):
                raise nothing_in_time(self._limit) from None
        except BaseException:
            self._hand_back(turn)
            raise
        if turn.connection is not None:
            return turn.connection  # type: ignore[no-any-return]
        try:
            return await aknock(self._open, self._door, POOL_TIMEOUT_S, self._take_instead)
        except BaseException:
            self._make_room()
            raise

    async def putconn(self, connection: Any) -> None:
        """Takes it back, in whatever state it is."""
        self._keep(connection)


def _open_gate(loop: asyncio.AbstractEventLoop, gate: asyncio.Event) -> None:
    """From whichever thread: another one may have given up the connections of a full server."""
    if asyncio._get_running_loop() is loop:
        gate.set()
    else:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
            loop.call_soon_threadsafe(gate.set)


class OwnConnection:
    """One connection of a service, in the shape of a pool: opened at first use, and again after it broke.

    Neither user code nor a busy pool can starve it.
    """

    def __init__(self, open: Callable[[], StepConnection], door: Door) -> None:
        self._open = open
        self._door = door
        self._connection: StepConnection | None = None
        self.generation = 0

    def getconn(self) -> StepConnection:
        """The connection, open."""
        if self._connection is None or is_stale(self._connection):
            self.close()
            self._connection = knock(self._open, self._door, OWN_TIMEOUT_S)
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
