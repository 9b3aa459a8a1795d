"""dbdurable, in both colours."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection, Connection

from dbdurable import Durable, Status, aio, fan_out, sleep, sleep_until
from tests.benchmarks.contest import STEPS, Opened, Run, Spent
from tests.benchmarks.lanes import on_tasks, on_threads
from tests.benchmarks.workers import Shift
from tests.support.wait import wait_until

SUCCEEDED = "(select count(*) from dbdurable.workflow where status = 'succeeded')"
TEN_DONE = f"""
select (select count(*) from app), (select count(*) from dbdurable.step where kind = 'transaction'), {SUCCEEDED}
"""
STEPS_DONE = f"select (select count(*) from dbdurable.step where kind = 'step'), {SUCCEEDED}"
DONE = f"select {SUCCEEDED}"
STEPS_ONLY = "select count(*) from dbdurable.step where kind = 'step'"
CHILDREN_DONE = "select count(*) from dbdurable.workflow where status = 'succeeded' and name = 'anothing'"
LONG_DONE = f"select (select count(*) from dbdurable.step where kind = 'step') - {SUCCEEDED}"
"""Each has one step more than was asked for: the one behind the pause."""
ASLEEP = "select count(*) from dbdurable.workflow where status = 'waiting'"
BULK = 1000


class Application:
    """Every workflow of every load. `tick` is called by each no-op that runs."""

    def __init__(self, url: str | None, tick: Callable[[], object] = lambda: None) -> None:
        self.durable = durable = Durable(url)
        self.reached, self.released = threading.Event(), threading.Event()
        self.replayed_at: list[float] = []

        @durable.transaction
        def put(tx: Connection[Any], n: int) -> int:
            tx.execute("insert into app (n) values (%s)", [n])
            return n

        @durable.transaction
        async def aput(tx: AsyncConnection[Any], n: int) -> int:
            await tx.execute("insert into app (n) values (%s)", [n])
            return n

        @durable.step
        def call(n: int) -> int:
            return n

        @durable.step
        async def acall(n: int) -> int:
            return n

        @durable.workflow
        def ten(n: int) -> int:
            for _ in range(STEPS):
                put(n)
            return n

        @durable.workflow
        async def aten(n: int) -> int:
            for _ in range(STEPS):
                await aput(n)
            return n

        @durable.workflow
        def outside(n: int) -> int:
            for _ in range(STEPS):
                call(n)
            return n

        @durable.workflow
        async def aoutside(n: int) -> int:
            for _ in range(STEPS):
                await acall(n)
            return n

        @durable.workflow
        def nothing(n: int) -> int:
            tick()
            return n

        @durable.workflow
        async def anothing(n: int) -> int:
            tick()
            return n

        @durable.workflow
        def fan(width: int) -> int:
            return len(fan_out(call, range(width)))

        @durable.workflow
        async def afan(width: int) -> int:
            return len(await aio.fan_out(acall, range(width), max_concurrency=64))

        @durable.workflow
        async def achildren(width: int) -> int:
            return len(await aio.fan_out(anothing, range(width), max_concurrency=64))

        @durable.workflow
        def long(steps: int) -> int:
            for n in range(steps):
                call(n)
            self.note_reached()
            self.released.wait()
            return call(steps)

        @durable.workflow
        async def along(steps: int) -> int:
            for n in range(steps):
                await acall(n)
            self.note_reached()
            await asyncio.to_thread(self.released.wait)
            return await acall(steps)

        @durable.workflow
        async def sleeper(n: int) -> int:
            tick()
            await aio.sleep(timedelta(days=30))
            return n

        @durable.workflow
        def alarm(when: datetime) -> None:
            sleep_until(when)

        @durable.workflow
        def nap(number: int) -> int:
            sleep(timedelta(days=30))
            tick()
            return number

        @durable.workflow
        async def anap(number: int) -> int:
            await aio.sleep(timedelta(days=30))
            tick()
            return number

        self.alarm = alarm
        self.ten, self.aten, self.outside, self.aoutside = ten, aten, outside, aoutside
        self.nothing, self.anothing, self.long, self.along = nothing, anothing, long, along
        self.fan, self.afan, self.achildren, self.sleeper = fan, afan, achildren, sleeper

    def note_reached(self) -> None:
        """A body is behind its last step."""
        self.replayed_at.append(time.perf_counter())
        self.reached.set()


@contextmanager
def application(url: str) -> Iterator[Application]:
    """Made, and closed at the end."""
    app = Application(url)
    try:
        yield app
    finally:
        app.durable.close()


def direct(workflow: str) -> Opened:
    """Called directly, one thread a lane."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with application(url) as app, app.durable.executor():
            yield on_threads([getattr(app, workflow)] * lanes)

    return opened


@contextmanager
def on_own_loop(app: Application) -> Iterator[asyncio.Runner]:
    """An executor whose bodies run on the caller's own loop."""
    with asyncio.Runner() as runner:
        executor = runner.run(app.durable.executor().aopen())
        try:
            yield runner
        finally:
            runner.run(executor.aclose())


def adirect(workflow: str) -> Opened:
    """The same, asynchronous."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with application(url) as app, on_own_loop(app) as runner:
            called = getattr(app, workflow)

            async def one(n: int) -> None:
                await called(n)

            yield on_tasks(runner, [one] * lanes)

    return opened


# ---- one workflow with many parts ----------------------------------------------------------------------------


@contextmanager
def fan(url: str, lanes: int) -> Iterator[Run]:
    """Branches of a `def` body: 16 threads, as is the default."""
    with application(url) as app, app.durable.executor():

        def run(total: int) -> None:
            assert app.fan(total) == total

        yield run


def afan(workflow: str) -> Opened:
    """Branches of an `async def` body: steps, or children."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with application(url) as app, on_own_loop(app) as runner:
            called = getattr(app, workflow)

            async def one(width: int) -> None:
                assert await called(width) == width

            yield lambda total: runner.run(one(total))

    return opened


def replay(workflow: str) -> Opened:
    """A workflow of so many steps is paused behind the last, then resumed: the time until it is there again."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with application(url) as app, app.durable.executor():

            def run(total: int) -> Spent:
                app.reached.clear()
                app.released.clear()
                app.replayed_at.clear()
                handle = (app.along.sync if workflow == "along" else app.long).start(total)
                wait_until(app.reached.is_set, timeout_s=600, what="the last step")
                handle.pause()
                app.released.set()
                wait_until(lambda: handle.status() is Status.PAUSED, timeout_s=60, what="the pause")
                begun = time.perf_counter()
                handle.resume()
                assert handle.result(timeout=600) == total
                _, second = app.replayed_at
                return Spent({"replay": second - begun})

            yield run

    return opened


# ---- queues --------------------------------------------------------------------------------------------------


@contextmanager
def one_by_one(url: str) -> Iterator[Run]:
    """Each start is a call of its own, on 16 threads."""
    with application(url) as app:
        yield on_threads([app.nothing.start] * 16)


@contextmanager
def aone_by_one(url: str) -> Iterator[Run]:
    """The same, on 64 tasks."""
    with application(url) as app, asyncio.Runner() as runner:

        async def one(n: int) -> None:
            await app.anothing.start(n)

        yield on_tasks(runner, [one] * 64)
        runner.run(app.durable.client.aio.aclose())


def in_bulk(workflow: str) -> Callable[[str], Any]:
    """A thousand starts a call."""

    @contextmanager
    def enqueue(url: str) -> Iterator[Run]:
        with application(url) as app:
            bind = getattr(app, workflow).bind

            def run(total: int) -> None:
                for first in range(0, total, BULK):
                    app.durable.client.start_many([bind(n) for n in range(first, min(first + BULK, total))])

            yield run

    return enqueue


def work(url: str, shift: Shift) -> None:
    """A worker process."""
    app = Application(url, shift.tick)
    shift.ready()
    with app.durable.executor():
        shift.until_end()
    app.durable.close()


def work_tuned(url: str, shift: Shift) -> None:
    """A worker process with four times as many slots: jobs that do nothing wait for claims and commits, mostly."""
    app = Application(url, shift.tick)
    shift.ready()
    with app.durable.executor(threads=64, tasks=256):
        shift.until_end()
    app.durable.close()


def work_polling(url: str, shift: Shift) -> None:
    """A worker process that hears no notifications."""
    os.environ["DBDURABLE_LISTEN_URL"] = "never"
    work(url, shift)
