"""Tests and loops: an executor of one colour under code of the other, and uvloop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from dbdurable import Durable
from dbdurable.errors import WrongColour


class Flows:
    """What an application's module holds."""

    def __init__(self, url: str) -> None:
        self.durable = durable = Durable(url)
        self.loops: list[Any] = []

        @durable.transaction
        async def add(tx: psycopg.AsyncConnection, n: int) -> int:
            await tx.execute("insert into numbers values (%s)", [n])
            return n

        @durable.step
        def double(n: int) -> int:
            return n * 2

        @durable.step
        async def here(n: int) -> str:
            self.loops.append(asyncio.get_running_loop())
            return threading.current_thread().name

        @durable.workflow
        async def work(n: int) -> int:
            await here(n)
            a, b = await asyncio.gather(add(n), double.aio(n))
            return a + b

        @durable.workflow
        def plain(n: int) -> int:
            return double(n)

        self.work, self.plain, self.here = work, plain, here


@pytest.fixture
def flows(database_url: str, connection: psycopg.Connection[Any]) -> Flows:
    connection.execute("create table numbers (n int)")
    return Flows(database_url)


@pytest.fixture
def executor(flows: Flows) -> Iterator[Any]:
    with flows.durable.executor() as executor:
        yield executor


@pytest.fixture
async def async_executor(flows: Flows) -> AsyncIterator[Any]:
    async with flows.durable.executor() as executor:
        yield executor


async def test_async_tests_with_an_executor_of_a_sync_fixture(flows: Flows, executor: Any) -> None:
    assert await flows.work(1) == 3
    assert await flows.plain.aio(1) == 2
    handle = await flows.work.start(2)
    assert await handle.result(30) == 6
    assert all(loop is executor.loop is not asyncio.get_running_loop() for loop in flows.loops)
    with pytest.raises(WrongColour):
        flows.plain(1)
    await flows.durable._runtime.database.aclose()


async def test_async_tests_with_an_executor_of_an_async_fixture(flows: Flows, async_executor: Any) -> None:
    assert await flows.work(1) == 3
    assert await (await flows.plain.aio.start(1)).result(30) == 2
    assert set(flows.loops) == {asyncio.get_running_loop()}
    # From a thread, as a `def` view of an asynchronous server runs:
    assert await asyncio.to_thread(flows.work.sync, 2) == 6
    assert await asyncio.to_thread(flows.plain, 2) == 4
    assert set(flows.loops) == {asyncio.get_running_loop()}


def test_sync_tests(flows: Flows, executor: Any) -> None:
    assert flows.work.sync(1) == 3
    assert flows.plain(1) == 2
    assert asyncio.run(_on_a_loop_of_its_own(flows)) == 6
    assert asyncio.run(_on_a_loop_of_its_own(flows)) == 6


async def _on_a_loop_of_its_own(flows: Flows) -> int:
    return await flows.work(2)


def test_uvloop(flows: Flows) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with flows.durable.executor():
            assert await flows.work(1) == 3
            assert await (await flows.work.start(2)).result(30) == 6
            assert await flows.plain.aio(1) == 2
            handle = await flows.work.start(3)
            assert await handle.result(30) == 9
            assert sorted(step.path for step in await handle.steps()) == [(1,), (2,), (3,)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_cancelled_caller_leaves_the_workflow_to_others(
    flows: Flows, executor: Any, connection: psycopg.Connection[Any]
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await flows.work(1)
    executor_idle = asyncio.create_task(executor.await_idle(30))
    await executor_idle
    assert connection.execute("select status::text from dbdurable.workflow").fetchall() in ([], [("succeeded",)])
    await flows.durable._runtime.database.aclose()
