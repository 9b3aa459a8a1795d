"""The contestants: each runs the same workflow of ten steps, a step being one row of the application and its record.

`opened(url, lanes)` connects and yields `run(total)`, which runs that many workflows on that many lanes at once:
threads, or tasks of one event loop. Everything that happens once (connecting, tables, executors) is outside of it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection

from dbdurable import Durable

STEPS = 10

Run = Callable[[int], None]
Opened = Callable[[str, int], AbstractContextManager[Run]]


@dataclass(frozen=True)
class Contestant:
    """`setup` makes its tables; `counts` selects (rows of the application, records, finished workflows)."""

    name: str
    colour: str
    opened: Opened
    counts: str
    setup: str = ""
    package: str | None = None

    @property
    def key(self) -> str:
        return f"{self.name} {self.colour}"

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    @property
    def reference(self) -> str:
        """The row that its ratio is to."""
        return f"hand {self.colour}"


# ---- lanes -------------------------------------------------------------------------------------------------


def on_threads(lanes: Sequence[Callable[[int], object]]) -> Run:
    """Runs workflows on one thread a lane; on the caller's own thread when there is only one."""

    def run(total: int) -> None:
        numbers, errors = itertools.count(), list[BaseException]()

        def work(one: Callable[[int], object]) -> None:
            try:
                while not errors and (n := next(numbers)) < total:
                    one(n)
            except BaseException as error:
                errors.append(error)

        if len(lanes) == 1:
            work(lanes[0])
        else:
            threads = [threading.Thread(target=work, args=(one,)) for one in lanes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    return run


def on_tasks(runner: asyncio.Runner, lanes: Sequence[Callable[[int], Coroutine[Any, Any, object]]]) -> Run:
    """The same with one task a lane."""

    async def gather(total: int) -> None:
        numbers = itertools.count()

        async def work(one: Callable[[int], Coroutine[Any, Any, object]]) -> None:
            while (n := next(numbers)) < total:
                await one(n)

        async with asyncio.TaskGroup() as group:
            for one in lanes:
                group.create_task(work(one))

    return lambda total: runner.run(gather(total))


# ---- by hand -----------------------------------------------------------------------------------------------

HAND_SETUP = """
create table app (n int not null);
create table hand_workflow (
    id bigint generated always as identity primary key, status text not null, input text not null, output text);
create table hand_step (
    workflow_id bigint not null, seq int not null, output text not null, primary key (workflow_id, seq))
"""
HAND_COUNTS = """
select (select count(*) from app), (select count(*) from hand_step),
       (select count(*) from hand_workflow where status = 'succeeded')
"""
START = "insert into hand_workflow (status, input) values ('running', %s) returning id"
APP = "insert into app (n) values (%s)"
STEP = "insert into hand_step (workflow_id, seq, output) values (%s, %s, %s)"
FINISH = "update hand_workflow set status = 'succeeded', output = %s where id = %s"


def hand(connection: Connection[Any], n: int) -> None:
    """What a careful engineer writes: four round trips a step; prepared where that helps."""
    row = connection.execute(START, [str(n)], prepare=True).fetchone()
    assert row is not None
    for seq in range(STEPS):
        connection.execute("begin")
        connection.execute(APP, [n], prepare=True)
        connection.execute(STEP, [row[0], seq, str(n)], prepare=True)
        connection.execute("commit")
    connection.execute(FINISH, [str(n), row[0]], prepare=True)


def flight(connection: Connection[Any], n: int) -> None:
    """The least there is: the application's statement is known beforehand, so a step is one round trip."""
    row = connection.execute(START, [str(n)], prepare=True).fetchone()
    assert row is not None
    for seq in range(STEPS):
        with connection.pipeline():
            connection.execute("begin")
            connection.execute(APP, [n], prepare=True)
            connection.execute(STEP, [row[0], seq, str(n)], prepare=True)
            connection.execute("commit")
    connection.execute(FINISH, [str(n), row[0]], prepare=True)


async def hand_async(connection: AsyncConnection[Any], n: int) -> None:
    """`hand` in the other colour."""
    row = await (await connection.execute(START, [str(n)], prepare=True)).fetchone()
    assert row is not None
    for seq in range(STEPS):
        await connection.execute("begin")
        await connection.execute(APP, [n], prepare=True)
        await connection.execute(STEP, [row[0], seq, str(n)], prepare=True)
        await connection.execute("commit")
    await connection.execute(FINISH, [str(n), row[0]], prepare=True)


async def flight_async(connection: AsyncConnection[Any], n: int) -> None:
    """`flight` in the other colour."""
    row = await (await connection.execute(START, [str(n)], prepare=True)).fetchone()
    assert row is not None
    for seq in range(STEPS):
        async with connection.pipeline():
            await connection.execute("begin")
            await connection.execute(APP, [n], prepare=True)
            await connection.execute(STEP, [row[0], seq, str(n)], prepare=True)
            await connection.execute("commit")
    await connection.execute(FINISH, [str(n), row[0]], prepare=True)


def with_connections(workflow: Callable[[Connection[Any], int], None]) -> Opened:
    """One open connection a lane."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with ExitStack() as stack:
            own = [stack.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(lanes)]
            yield on_threads([partial(workflow, connection) for connection in own])

    return opened


def with_async_connections(workflow: Callable[[AsyncConnection[Any], int], Coroutine[Any, Any, None]]) -> Opened:
    """The same, asynchronous."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with asyncio.Runner() as runner:
            own = [runner.run(AsyncConnection.connect(url, autocommit=True)) for _ in range(lanes)]
            try:
                yield on_tasks(runner, [partial(workflow, connection) for connection in own])
            finally:
                for connection in own:
                    runner.run(connection.close())

    return opened


# ---- dbdurable ---------------------------------------------------------------------------------------------

DURABLE_COUNTS = """
select (select count(*) from app), (select count(*) from dbdurable.step where kind = 'transaction'),
       (select count(*) from dbdurable.workflow where status = 'succeeded')
"""


@contextmanager
def durable_opened(url: str, lanes: int) -> Iterator[Run]:
    """dbdurable, `def`."""
    durable = Durable(url)

    @durable.transaction
    def put(tx: Connection[Any], n: int) -> int:
        tx.execute("insert into app (n) values (%s)", [n])
        return n

    @durable.workflow
    def ten(n: int) -> int:
        for _ in range(STEPS):
            put(n)
        return n

    try:
        with durable.executor():
            yield on_threads([ten] * lanes)
    finally:
        durable.close()


@contextmanager
def durable_async_opened(url: str, lanes: int) -> Iterator[Run]:
    """dbdurable, `async def`."""
    durable = Durable(url)

    @durable.transaction
    async def put(tx: AsyncConnection[Any], n: int) -> int:
        await tx.execute("insert into app (n) values (%s)", [n])
        return n

    @durable.workflow
    async def ten(n: int) -> int:
        for _ in range(STEPS):
            await put(n)
        return n

    async def one(n: int) -> int:
        return await ten(n)

    try:
        with asyncio.Runner() as runner:
            executor = runner.run(durable.executor().aopen())  # bodies run on the caller's own loop
            try:
                yield on_tasks(runner, [one] * lanes)
            finally:
                runner.run(executor.aclose())
    finally:
        durable.close()


# ---- DBOS --------------------------------------------------------------------------------------------------

DBOS_COUNTS = """
select (select count(*) from app), (select count(*) from dbos.operation_outputs),
       (select count(*) from dbos.workflow_status where status = 'SUCCESS')
"""


def dbos_with(**options: str) -> Opened:
    """DBOS as its documentation shows it: `SQLAlchemyDatasource` and its `transaction`; `options` are the latter's.

    System and application share the database. Only its log level is not the default.
    """

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        dbos, sqlalchemy = importlib.import_module("dbos"), importlib.import_module("sqlalchemy")
        logging.getLogger("dbos").setLevel(logging.ERROR)
        insert = sqlalchemy.text("insert into app (n) values (:n)")
        DBOS = dbos.DBOS
        DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
        source = dbos.SQLAlchemyDatasource.create(url)
        try:

            @source.transaction(**options)  # type: ignore[untyped-decorator]
            def put(n: int) -> int:
                source.sql_session().execute(insert, {"n": n})
                return n

            @DBOS.workflow()  # type: ignore[untyped-decorator]
            def ten(n: int) -> int:
                for _ in range(STEPS):
                    put(n)
                return n

            DBOS.launch()
            yield on_threads([ten] * lanes)
        finally:
            DBOS.destroy(destroy_registry=True)
            source.engine.dispose()

    return opened


APP_SETUP = "create table app (n int not null)"

CONTESTANTS = (
    Contestant("hand", "sync", with_connections(hand), HAND_COUNTS, HAND_SETUP),
    Contestant("flight", "sync", with_connections(flight), HAND_COUNTS, HAND_SETUP),
    Contestant("dbdurable", "sync", durable_opened, DURABLE_COUNTS, APP_SETUP),
    Contestant("DBOS", "sync", dbos_with(), DBOS_COUNTS, APP_SETUP, "dbos"),
    Contestant(
        "DBOS, read committed", "sync", dbos_with(isolation_level="READ COMMITTED"), DBOS_COUNTS, APP_SETUP, "dbos"
    ),
    Contestant("hand", "async", with_async_connections(hand_async), HAND_COUNTS, HAND_SETUP),
    Contestant("flight", "async", with_async_connections(flight_async), HAND_COUNTS, HAND_SETUP),
    Contestant("dbdurable", "async", durable_async_opened, DURABLE_COUNTS, APP_SETUP),
)
