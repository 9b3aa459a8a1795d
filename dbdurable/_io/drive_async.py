"""Runs protocols for `async def` code: the text of `drive` with `async` and `await`."""

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
from dbdurable._io.drive import STOP_LOOK_S, UserStopIteration, append_params, appended
from dbdurable._io.faults import drop_read_only, raise_meaning
from dbdurable._io.flight import fly
from dbdurable._io.rest import Away
from dbdurable._io.riders import AsyncRiders
from dbdurable._io.seam import Reached, point_of
from dbdurable._io.source import AsyncUnit
from dbdurable._io.tail import LEFT
from dbdurable._io.to_the_end import to_the_end
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
from dbdurable._protocol.ride import Answer, ends_attempt, rides, together
from dbdurable._sql.step import APPEND
from dbdurable.errors import StepTimeout

R = TypeVar("R")


class AsyncDriver:
    """Runs protocols for `async def` code, on the running loop."""

    __slots__ = ("_database", "_rests", "_rides", "_stopping", "_unit")

    def __init__(
        self, database: Database, stopping: threading.Event | None = None, rides: bool = True, rests: bool = True
    ) -> None:
        self._database = database
        self._stopping = stopping
        self._rides = rides
        self._rests = rests
        self._unit: AsyncUnit | None = None

    async def run(self, flow: Flow[R], leave: Callable[[Query], None] | None = None, asked: Effect | None = None) -> R:
        """Drives `flow` to its end: what it returns or raises.

        `leave` takes it over from the first statement on that ends an attempt; the answer is `LEFT` then. `asked`: it
        was begun already, and this is what it has asked for. Where it is not on the body's loop, a rest is left to
        `run_elsewhere`.
        """
        try:
            effect = asked or next(flow)
            while True:
                if leave is not None and type(effect) is Query and ends_attempt(effect):
                    leave(effect)
                    return LEFT  # type: ignore[no-any-return]
                try:
                    answer = await self._perform(effect)
                except StopIteration as stop:
                    error = UserStopIteration("StopIteration was raised by user code")
                    error.__cause__ = stop
                    effect = flow.throw(error)
                except Away as away:
                    return away.effect  # type: ignore[return-value]
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

    def _reached(self, when: str, effect: Reached, connection: Any = None) -> None:
        if self._database.seam is not None:
            self._database.seam.reached(f"{when} {point_of(effect)}", connection)

    async def _query(self, effect: Query) -> list[Row]:
        rows = await async_riders(self._database).ride(effect) if self._rides and rides(effect) else None
        return (await self._flight(Flight((effect,))))[0] if rows is None else rows

    async def flush(self, items: Sequence[Query]) -> list[Answer]:
        """One commit for what several have gathered."""
        return await self.run(together(items))

    async def _flight(self, effect: Flight) -> list[list[Row]]:
        pool, connection = await self._database.async_pool(), None
        try:
            connection = await pool.getconn()
            self._reached("before", effect, connection)
            async with connection.lock:
                answers = await connection.wait(fly(connection, self._database.statements(effect.queries)))
            self._reached("after", effect, connection)
            return answers
        except psycopg.Error as error:
            raise_meaning(error, connection, self._database.schema)
        finally:
            if connection is not None:
                await pool.putconn(connection)

    async def _begin(self, effect: Begin) -> Any:
        self._reached("before", effect)
        try:
            self._unit = await effect.source.abegin(
                self._database, effect.isolation, effect.row_factory, effect.note, effect.step
            )
        except psycopg.Error as error:
            raise_meaning(error, None, self._database.schema)
        self._reached("after", effect, self._unit.connection)
        return self._unit.handle

    async def _call(self, effect: Call) -> Any:
        unit, interrupt = self._unit, _AsyncInterrupt()
        self._reached("before", effect, unit and unit.connection)
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
        self._reached("after", effect, unit and unit.connection)
        return value

    async def _commit(self, effect: Commit) -> int | None:
        unit = self._unit
        assert unit is not None
        self._reached("before", effect, unit.connection)
        try:
            written_us = await unit.commit(self._database.statements(effect.records))
        except psycopg.Error as error:
            raise_meaning(error, unit.connection, self._database.schema)
        self._unit = None
        self._reached("after", effect)
        return written_us

    async def _rollback(self, effect: Rollback) -> bool:
        unit, self._unit = self._unit, None
        if unit is None:
            return True
        self._reached("before", effect, unit.connection)
        return await to_the_end(unit.rollback())

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
        if not self._rests:
            raise Away(effect)
        await effect.watch.rest(effect.delay_s)


def async_riders(database: Database) -> AsyncRiders:
    """The same for the tasks of the running loop."""
    loop = asyncio.get_running_loop()
    found = database.async_riders.get(loop)
    if found is None:
        found = database.async_riders[loop] = AsyncRiders(AsyncDriver(database, rides=False).flush)
    return found


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
