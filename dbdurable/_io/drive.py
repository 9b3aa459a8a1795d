"""Performs the effects of a protocol for `def` code; `drive_async` is the same text with `async` and `await`.

Every statement and commit passes `_reached`, the seam.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg

from dbdurable._io.database import Database
from dbdurable._io.faults import drop_read_only, raise_meaning
from dbdurable._io.flight import fly
from dbdurable._io.rest import Away
from dbdurable._io.riders import Riders
from dbdurable._io.seam import Reached, point_of
from dbdurable._io.source import SyncUnit
from dbdurable._io.tail import LEFT
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
from dbdurable._protocol.ride import Answer, ends_attempt, rides, together
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

    def run(self, flow: Flow[R], leave: Callable[[Query], None] | None = None, asked: Effect | None = None) -> R:
        """Drives `flow` to its end: what it returns or raises.

        `leave` takes it over from the first statement on that ends an attempt; the answer is `LEFT` then. `asked`: it
        was begun already, and this is what it has asked for. A rest is left to `run_elsewhere`.
        """
        try:
            effect = asked or next(flow)
            while True:
                if leave is not None and type(effect) is Query and ends_attempt(effect):
                    leave(effect)
                    return LEFT  # type: ignore[no-any-return]
                try:
                    answer = _SYNC[type(effect)](self, effect)
                except StopIteration as stop:
                    error = UserStopIteration("StopIteration was raised by user code")
                    error.__cause__ = stop
                    effect = flow.throw(error)
                except Away as away:
                    return away.effect  # type: ignore[return-value]
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            if self._unit is not None:
                self._rollback(Rollback())

    def _reached(self, when: str, effect: Reached, connection: Any = None) -> None:
        if self._database.seam is not None:
            self._database.seam.reached(f"{when} {point_of(effect)}", connection)

    def _query(self, effect: Query) -> list[Row]:
        rows = sync_riders(self._database).ride(effect) if self._rides and rides(effect) else None
        return self._flight(Flight((effect,)))[0] if rows is None else rows

    def flush(self, items: Sequence[Query]) -> list[Answer]:
        """One commit for what several have gathered."""
        return self.run(together(items))

    def _flight(self, effect: Flight) -> list[list[Row]]:
        pool, connection = self._pool or self._database.pool, None
        try:
            connection = pool.getconn()
            self._reached("before", effect, connection)
            with connection.lock:
                answers = connection.wait(fly(connection, self._database.statements(effect.queries)))
            self._reached("after", effect, connection)
            return answers
        except psycopg.Error as error:
            raise_meaning(error, connection, self._database.schema)
        finally:
            if connection is not None:
                pool.putconn(connection)

    def _begin(self, effect: Begin) -> Any:
        self._reached("before", effect)
        try:
            self._unit = effect.source.begin(
                self._database, effect.isolation, effect.row_factory, effect.note, effect.step
            )
        except psycopg.Error as error:
            raise_meaning(error, None, self._database.schema)
        self._reached("after", effect, self._unit.connection)
        return self._unit.handle

    def _call(self, effect: Call) -> Any:
        unit, in_flight = self._unit, effect.in_flight
        self._reached("before", effect, unit and unit.connection)
        if unit is not None and in_flight is not None:
            in_flight.enter(unit, lambda: _cancel(unit))
        try:
            if effect.timeout_s is None:
                value = _inside(unit, effect.function)
            else:
                within = partial(_inside, unit, effect.function)
                value = call_within(within, effect.timeout_s, effect.name, unit.cancel if unit else None)
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
        self._reached("after", effect, unit and unit.connection)
        return value

    def _commit(self, effect: Commit) -> int | None:
        unit = self._unit
        assert unit is not None
        self._reached("before", effect, unit.connection)
        try:
            written_us = unit.commit(self._database.statements(effect.records))
        except psycopg.Error as error:
            raise_meaning(error, unit.connection, self._database.schema)
        self._unit = None
        self._reached("after", effect)
        return written_us

    def _rollback(self, effect: Rollback) -> bool:
        unit, self._unit = self._unit, None
        if unit is None:
            return True
        self._reached("before", effect, unit.connection)
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

    def _rest(self, effect: Rest) -> None:
        raise Away(effect)


def sync_riders(database: Database) -> Riders:
    """Where the threads of this process share their commits."""
    if database.riders is None:
        database.riders = Riders(SyncDriver(database, rides=False).flush)
    return database.riders


def _cancel(unit: SyncUnit) -> None:
    """Ends the statement that the transaction runs just now; without an answer its fence ends it later."""
    with contextlib.suppress(psycopg.Error):
        unit.cancel()


def _inside(unit: SyncUnit | None, function: Callable[[], Any]) -> Any:
    """Calls user code on its own thread, with the unit around it."""
    if unit is None:
        return function()
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
    Rest: SyncDriver._rest,
}
