"""The two drivers: they perform the effects of a protocol, each in its own colour.

Both are the same text but for `async`/`await`. Every statement and commit passes `_reached`, the seam.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from dbdurable._core.control import Interrupted
from dbdurable._io.database import Database
from dbdurable._io.faults import drop_read_only, raise_meaning
from dbdurable._io.flight import fly
from dbdurable._io.riders import AsyncRiders, Riders
from dbdurable._io.source import AsyncUnit, SyncUnit
from dbdurable._io.timeouts import call_within
from dbdurable._protocol.effects import (
    Append,
    Appended,
    Begin,
    Call,
    Commit,
    Effect,
    Flight,
    Flow,
    Pause,
    Query,
    Rest,
    Rollback,
    Row,
)
from dbdurable._protocol.frame import current
from dbdurable._protocol.ride import Answer, rides, together
from dbdurable._sql.step import APPEND
from dbdurable.errors import StepTimeout

R = TypeVar("R")

STOP_LOOK_S = 0.1
"""How often an asynchronous pause looks whether it should end early."""


OVER_LOOK_S = 0.25
"""How often a synchronous pause looks whether what it waits for is over."""


class UserStopIteration(RuntimeError):
    """StopIteration from user code: a generator cannot let it through as itself (PEP 479)."""


class SyncDriver:
    """Runs protocols for `def` code, on the calling thread."""

    __slots__ = ("_database", "_pool", "_rides", "_stopping", "_unit")

    def __init__(
        self, database: Database, stopping: threading.Event | None = None, pool: Any = None, rides: bool = True
    ) -> None:
        self._database = database
        self._stopping = stopping
        self._pool = pool
        self._rides = rides and pool is None  # a service's statements come over its own connection
        self._unit: SyncUnit | None = None

    def run(self, flow: Flow[R]) -> R:
        """Drives `flow` to its end: what it returns or raises."""
        try:
            effect = next(flow)
            while True:
                try:
                    answer = _SYNC[type(effect)](self, effect)
                except StopIteration as stop:
                    error = UserStopIteration("StopIteration was raised by user code")
                    error.__cause__ = stop
                    effect = flow.throw(error)
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            if self._unit is not None:
                self._rollback(Rollback())

    def _reached(self, when: str, what: str, connection: Any = None) -> None:
        if self._database.seam is not None:
            self._database.seam.reached(f"{when} {what}", connection)

    def _query(self, effect: Query) -> list[Row]:
        if self._rides and rides(effect):
            return _riders(self._database).ride(effect)
        return self._flight(Flight((effect,)))[0]

    def flush(self, items: Sequence[Query]) -> list[Answer]:
        """One commit for what several have gathered."""
        return self.run(together(items))

    def _flight(self, effect: Flight) -> list[list[Row]]:
        pool, connection = self._pool or self._database.pool, None
        point = " + ".join(query.statement.name for query in effect.queries)
        try:
            connection = pool.getconn()
            self._reached("before", point, connection)
            with connection.lock:
                answers = connection.wait(fly(connection, self._database.statements(effect.queries)))
            self._reached("after", point, connection)
            return answers
        except psycopg.Error as error:
            raise_meaning(error, connection, self._database.schema)
        finally:
            if connection is not None:
                pool.putconn(connection)

    def _begin(self, effect: Begin) -> Any:
        self._reached("before begin", effect.step)
        try:
            self._unit = effect.source.begin(
                self._database, effect.isolation, effect.row_factory, effect.path, effect.step
            )
        except psycopg.Error as error:
            raise_meaning(error, None, self._database.schema)
        self._reached("after begin", effect.step, self._unit.connection)
        return self._unit.handle

    def _call(self, effect: Call) -> Any:
        unit, in_flight = self._unit, effect.in_flight
        self._reached("before call", effect.name, unit and unit.connection)
        if unit is not None and in_flight is not None:
            in_flight.enter(unit, lambda: _cancel(unit))
        function = effect.function if unit is None else lambda: _inside(unit, effect.function)
        try:
            if effect.timeout_s is None:
                value = function()
            else:
                value = call_within(function, effect.timeout_s, effect.name, unit.cancel if unit else None)
        except StepTimeout:
            if unit is not None:
                unit.connection.pgconn.finish()  # the thread left behind must not reach another transaction
            raise
        except Exception as error:
            if unit is not None:
                drop_read_only(error, unit.connection)
            raise
        finally:
            if unit is not None and in_flight is not None:
                in_flight.leave(unit)
        if unit is not None:
            unit.settle()
        self._reached("after call", effect.name, unit and unit.connection)
        return value

    def _commit(self, effect: Commit) -> int | None:
        unit = self._unit
        assert unit is not None
        point = " + ".join(record.statement.name for record in effect.records)
        self._reached("before", f"{point} + commit", unit.connection)
        try:
            written_us = unit.commit(self._database.statements(effect.records))
        except psycopg.Error as error:
            raise_meaning(error, unit.connection, self._database.schema)
        self._unit = None
        self._reached("after", f"{point} + commit", None)
        return written_us

    def _rollback(self, effect: Rollback) -> bool:
        unit, self._unit = self._unit, None
        if unit is None:
            return True
        self._reached("before", "rollback", unit.connection)
        return unit.rollback()

    def _append(self, effect: Append) -> Appended:
        rows = self._query(Query(APPEND, append_params(effect)))
        return appended(rows)

    def _pause(self, effect: Pause) -> None:
        if effect.waiter is not None:
            effect.waiter.wait(effect.delay_s)
            return
        end = time.monotonic() + effect.delay_s
        while (left_s := end - time.monotonic()) > 0 and not (effect.over is not None and effect.over()):
            wait_s = left_s if effect.over is None else min(left_s, OVER_LOOK_S)
            if self._stopping is None:
                time.sleep(wait_s)
            elif self._stopping.wait(wait_s):
                time.sleep(min(left_s, STOP_LOOK_S))  # shorter, but a wait: the database may be away
                return


class AsyncDriver:
    """Runs protocols for `async def` code, on the running loop."""

    __slots__ = ("_database", "_rides", "_stopping", "_unit")

    def __init__(self, database: Database, stopping: threading.Event | None = None, rides: bool = True) -> None:
        self._database = database
        self._stopping = stopping
        self._rides = rides
        self._unit: AsyncUnit | None = None

    async def run(self, flow: Flow[R]) -> R:
        """Drives `flow` to its end: what it returns or raises."""
        try:
            effect = next(flow)
            while True:
                try:
                    answer = await self._perform(effect)
                except StopIteration as stop:
                    error = UserStopIteration("StopIteration was raised by user code")
                    error.__cause__ = stop
                    effect = flow.throw(error)
                except GeneratorExit:  # nothing can be awaited any more: recovery goes on with it
                    self._unit = None
                    raise
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            if self._unit is not None:
                await self._rollback(Rollback())

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Call):
            return await self._call(effect)
        # Out of the body's frame: tasks that psycopg's pool makes on the way are no branches of the workflow,
        # and must not take paths.
        token = current.set(None)
        try:
            return await _ASYNC[type(effect)](self, effect)
        finally:
            with contextlib.suppress(ValueError):  # closed by the garbage collector, after its loop has ended
                current.reset(token)

    def _reached(self, when: str, what: str, connection: Any = None) -> None:
        if self._database.seam is not None:
            self._database.seam.reached(f"{when} {what}", connection)

    async def _query(self, effect: Query) -> list[Row]:
        if self._rides and rides(effect):
            return await _async_riders(self._database).ride(effect)
        return (await self._flight(Flight((effect,))))[0]

    async def flush(self, items: Sequence[Query]) -> list[Answer]:
        """One commit for what several have gathered."""
        return await self.run(together(items))

    async def _flight(self, effect: Flight) -> list[list[Row]]:
        pool, connection = await self._database.async_pool(), None
        point = " + ".join(query.statement.name for query in effect.queries)
        try:
            connection = await pool.getconn()
            self._reached("before", point, connection)
            async with connection.lock:
                answers = await connection.wait(fly(connection, self._database.statements(effect.queries)))
            self._reached("after", point, connection)
            return answers
        except psycopg.Error as error:
            raise_meaning(error, connection, self._database.schema)
        finally:
            if connection is not None:
                await pool.putconn(connection)

    async def _begin(self, effect: Begin) -> Any:
        self._reached("before begin", effect.step)
        try:
            self._unit = await effect.source.abegin(
                self._database, effect.isolation, effect.row_factory, effect.path, effect.step
            )
        except psycopg.Error as error:
            raise_meaning(error, None, self._database.schema)
        self._reached("after begin", effect.step, self._unit.connection)
        return self._unit.handle

    async def _call(self, effect: Call) -> Any:
        unit, interrupt = self._unit, _AsyncInterrupt()
        self._reached("before call", effect.name, unit and unit.connection)
        if unit is not None:
            unit.enter()
        try:
            async with asyncio.timeout(effect.timeout_s) as limit:
                if effect.in_flight is not None:
                    interrupt.of(limit)
                    effect.in_flight.enter(interrupt, interrupt)
                value = effect.function()
                if inspect.isawaitable(value):
                    value = await value
        except TimeoutError as error:
            if not limit.expired():
                raise
            if interrupt.done:
                raise Interrupted(f"step {effect.name} was interrupted") from None
            raise StepTimeout(f"step {effect.name} took longer than {effect.timeout_s:g} s") from error
        except Exception as error:
            if unit is not None:
                drop_read_only(error, unit.connection)
            raise
        finally:
            if effect.in_flight is not None:
                effect.in_flight.leave(interrupt)
            if unit is not None:
                unit.leave()
        if unit is not None:
            await unit.settle()
        self._reached("after call", effect.name, unit and unit.connection)
        return value

    async def _commit(self, effect: Commit) -> int | None:
        unit = self._unit
        assert unit is not None
        point = " + ".join(record.statement.name for record in effect.records)
        self._reached("before", f"{point} + commit", unit.connection)
        try:
            written_us = await unit.commit(self._database.statements(effect.records))
        except psycopg.Error as error:
            raise_meaning(error, unit.connection, self._database.schema)
        self._unit = None
        self._reached("after", f"{point} + commit", None)
        return written_us

    async def _rollback(self, effect: Rollback) -> bool:
        unit, self._unit = self._unit, None
        if unit is None:
            return True
        self._reached("before", "rollback", unit.connection)
        return await unit.rollback()

    async def _append(self, effect: Append) -> Appended:
        rows = await self._query(Query(APPEND, append_params(effect)))
        return appended(rows)

    async def _pause(self, effect: Pause) -> None:
        if effect.waiter is not None:
            await effect.waiter.await_(effect.delay_s)
            return
        end = time.monotonic() + effect.delay_s
        while (left_s := end - time.monotonic()) > 0:
            if self._stopping is not None and self._stopping.is_set():
                await asyncio.sleep(min(left_s, STOP_LOOK_S))
                return
            if effect.over is not None and effect.over():
                return
            await asyncio.sleep(left_s if self._stopping is None else min(left_s, STOP_LOOK_S))

    async def _rest(self, effect: Rest) -> None:
        await effect.watch.rest(effect.delay_s)


def _riders(database: Database) -> Riders:
    """Where the threads of this process share their commits."""
    if database.riders is None:
        database.riders = Riders(SyncDriver(database, rides=False).flush)
    return database.riders


def _async_riders(database: Database) -> AsyncRiders:
    """The same for the tasks of the running loop."""
    loop = asyncio.get_running_loop()
    found = database.async_riders.get(loop)
    if found is None:
        found = database.async_riders[loop] = AsyncRiders(AsyncDriver(database, rides=False).flush)
    return found


def _cancel(unit: SyncUnit) -> None:
    """Ends the statement that the transaction runs just now; without an answer its fence ends it later."""
    with contextlib.suppress(psycopg.Error):
        unit.cancel()


class _AsyncInterrupt:
    """Ends asynchronous code from any thread, as if its time were over."""

    __slots__ = ("_limit", "_loop", "done")

    def __init__(self) -> None:
        self.done = False

    def of(self, limit: asyncio.Timeout) -> None:
        """The code inside of this block."""
        self._limit, self._loop = limit, asyncio.get_running_loop()

    def __call__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # the block is left already
            self._limit.reschedule(self._loop.time())
            self.done = True


def _inside(unit: SyncUnit, function: Callable[[], Any]) -> Any:
    """Calls user code on its own thread, with the unit around it."""
    unit.enter()
    try:
        return function()
    finally:
        unit.leave()


def append_params(effect: Append) -> tuple[Any, ...]:
    """One record as the columns of the statement APPEND."""
    record = effect.record
    return (
        effect.executor_id,
        [record.workflow_id],
        [record.path],
        [record.seq],
        [record.kind],
        [record.name],
        [record.attempts],
        [record.epoch],
        [record.elapsed_s],
        [record.output],
        [record.error],
    )


def appended(rows: list[Row]) -> Appended:
    """What the statement APPEND said of one record; no row means that the workflow has ended."""
    return Appended(*rows[0][2:]) if rows else Appended(mine=False, wrote=False)


_SYNC: dict[type, Any] = {
    Query: SyncDriver._query,
    Flight: SyncDriver._flight,
    Begin: SyncDriver._begin,
    Call: SyncDriver._call,
    Commit: SyncDriver._commit,
    Rollback: SyncDriver._rollback,
    Append: SyncDriver._append,
    Pause: SyncDriver._pause,
}
_ASYNC: dict[type, Any] = {
    Query: AsyncDriver._query,
    Flight: AsyncDriver._flight,
    Begin: AsyncDriver._begin,
    Call: AsyncDriver._call,
    Commit: AsyncDriver._commit,
    Rollback: AsyncDriver._rollback,
    Append: AsyncDriver._append,
    Pause: AsyncDriver._pause,
    Rest: AsyncDriver._rest,
}
