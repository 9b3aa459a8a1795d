"""DBOS, as its documentation shows it. System and application share the database; only its log level is turned down."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.contest import STEPS, Opened, Run, Spent
from tests.benchmarks.lanes import on_tasks, on_threads
from tests.benchmarks.workers import Shift

PACKAGE = "dbos"
SUCCESS = "(select count(*) from dbos.workflow_status where status = 'SUCCESS')"
OUTPUTS = "(select count(*) from dbos.operation_outputs)"
TEN_DONE = f"select (select count(*) from app), {OUTPUTS}, {SUCCESS}"
STEPS_DONE = f"select {OUTPUTS}, {SUCCESS}"
DONE = f"select {SUCCESS}"
CHILDREN_DONE = "select count(*) from dbos.workflow_status where status = 'SUCCESS' and name = 'nothing'"
FORKED_DONE = f"select {OUTPUTS} / 2"
"""A fork copies the steps."""
QUEUE = "bench"


class Application:
    """Every workflow of every load."""

    def __init__(self, url: str, tick: Callable[[], object] = lambda: None) -> None:
        DBOS = importlib.import_module("dbos").DBOS
        logging.getLogger("dbos").setLevel(logging.ERROR)
        DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
        self.DBOS = DBOS
        self.seen: list[float] = []

        @DBOS.step()  # type: ignore[untyped-decorator]
        def call(n: int) -> int:
            return n

        @DBOS.step()  # type: ignore[untyped-decorator]
        async def acall(n: int) -> int:
            return n

        @DBOS.workflow()  # type: ignore[untyped-decorator]
        def outside(n: int) -> int:
            for _ in range(STEPS):
                call(n)
            return n

        @DBOS.workflow()  # type: ignore[untyped-decorator]
        async def aoutside(n: int) -> int:
            for _ in range(STEPS):
                await acall(n)
            return n

        @DBOS.workflow(name="nothing")  # type: ignore[untyped-decorator]
        def nothing(n: int) -> int:
            tick()
            return n

        @DBOS.workflow()  # type: ignore[untyped-decorator]
        def fan(width: int) -> int:
            handles = [DBOS.enqueue_workflow(QUEUE, nothing, n) for n in range(width)]
            return len([handle.get_result() for handle in handles])

        @DBOS.workflow()  # type: ignore[untyped-decorator]
        def long(steps: int) -> int:
            self.seen.append(time.perf_counter())
            for n in range(steps):
                call(n)
            self.seen.append(time.perf_counter())
            return steps

        self.outside, self.aoutside, self.nothing, self.fan, self.long = outside, aoutside, nothing, fan, long

    def close(self) -> None:
        self.DBOS.destroy(destroy_registry=True)


@contextmanager
def launched(url: str) -> Iterator[Application]:
    """Launched, and destroyed at the end."""
    app = Application(url)
    try:
        app.DBOS.launch()
        yield app
    finally:
        app.close()


def transactions(**options: str) -> Opened:
    """Ten steps by `SQLAlchemyDatasource` and its `transaction`; `options` are the latter's."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        app, sqlalchemy = Application(url), importlib.import_module("sqlalchemy")
        insert = sqlalchemy.text("insert into app (n) values (:n)")
        source = importlib.import_module("dbos").SQLAlchemyDatasource.create(url)
        try:

            @source.transaction(**options)  # type: ignore[untyped-decorator]
            def put(n: int) -> int:
                source.sql_session().execute(insert, {"n": n})
                return n

            @app.DBOS.workflow()  # type: ignore[untyped-decorator]
            def ten(n: int) -> int:
                for _ in range(STEPS):
                    put(n)
                return n

            app.DBOS.launch()
            yield on_threads([ten] * lanes)
        finally:
            app.close()
            source.engine.dispose()

    return opened


def direct(workflow: str) -> Opened:
    """Called directly, one thread a lane."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with launched(url) as app:
            yield on_threads([getattr(app, workflow)] * lanes)

    return opened


@contextmanager
def aoutside(url: str, lanes: int) -> Iterator[Run]:
    """The same, asynchronous."""
    with launched(url) as app, asyncio.Runner() as runner:

        async def one(n: int) -> None:
            await app.aoutside(n)

        yield on_tasks(runner, [one] * lanes)


@contextmanager
def fan(url: str, lanes: int) -> Iterator[Run]:
    """Children through a queue, as its documentation shows for fan-out."""
    with launched(url) as app:
        app.DBOS.register_queue(QUEUE)

        def run(total: int) -> None:
            assert app.fan(total) == total

        yield run


@contextmanager
def replay(url: str, lanes: int) -> Iterator[Run]:
    """A fork behind the last step: from the body's first line until it is there again. The fork itself is not timed."""
    with launched(url) as app:

        def run(total: int) -> Spent:
            app.seen.clear()
            first = app.DBOS.start_workflow(app.long, total)
            assert first.get_result() == total
            app.DBOS.fork_workflow(first.get_workflow_id(), total + 1).get_result()
            *_, begun, ended = app.seen
            return Spent({"replay": ended - begun})

        yield run


def tables(url: str) -> None:
    """Its tables, without a queue: it would be asked once a second."""
    with launched(url):
        pass


def setup(url: str) -> None:
    """Its tables and its queue, so that clients can enqueue before a worker has been there."""
    with launched(url) as app:
        app.DBOS.register_queue(QUEUE)


@contextmanager
def one_by_one(url: str) -> Iterator[Run]:
    """Each enqueue is a call of its own, on 16 threads."""
    client: Any = importlib.import_module("dbos").DBOSClient(system_database_url=url)
    try:
        options = {"queue_name": QUEUE, "workflow_name": "nothing"}
        yield on_threads([lambda n: client.enqueue(options, n)] * 16)
    finally:
        client.destroy()


def work(url: str, shift: Shift, polling_interval_s: float | None = None) -> None:
    """A worker process."""
    app = Application(url, shift.tick)
    shift.ready()
    app.DBOS.launch()
    if polling_interval_s is None:
        app.DBOS.register_queue(QUEUE)
    else:
        app.DBOS.register_queue(QUEUE, polling_interval_sec=polling_interval_s, on_conflict="always_update")
    shift.until_end()
    app.close()


def work_tuned(url: str, shift: Shift) -> None:
    """A worker process that looks ten times a second."""
    work(url, shift, 0.1)
