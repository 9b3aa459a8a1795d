"""`timeout()`: the time of a block, the same on replay."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from psycopg import Connection

from dbdurable import Durable, aio, errors, recv, sleep, timeout
from tests.support.wait import wait_until

WAITS = "select count(*) from dbdurable.wait where kind = 'timeout'"


def test_a_long_wait_in_a_block_ends_with_its_time(durable: Durable, connection: Connection[Any]):
    did = []

    @durable.step
    def note(what: str) -> None:
        did.append(what)

    @durable.workflow
    def body() -> str:
        try:
            with timeout(1.5):
                note("inside")
                try:
                    recv("answer")
                finally:
                    note("clean-up in the block")
        except errors.WaitTimeout as late:
            note("after")
            sleep(1.5)
            return str(late)
        return "not reached"

    with durable.executor():
        handle = body.start()
        wait_until(lambda: handle.status() == "waiting")
        assert handle.result(30) == "the 1.5 s of timeout() were over"
    assert did == ["inside", "clean-up in the block", "after"]
    assert connection.execute(WAITS).fetchall() == [(0,)]


async def test_async_steps_are_cut_short(durable: Durable):
    ended = []

    @durable.step(retry=5)
    async def think() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    @durable.workflow
    async def body() -> str:
        try:
            with timeout(0.2):
                await think()
        except errors.WaitTimeout:
            await aio.sleep(1.2)  # parks: all of it is replayed
            return "late"
        return "not reached"

    async with durable.executor():
        assert await body() == "late"
    assert ended == [1]


def test_a_statement_is_cut_short(durable: Durable, connection: Connection[Any]):
    connection.execute("create table stock (item text)")

    @durable.transaction(retry=3)
    def slow(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('x')")
        tx.execute("select pg_sleep(3600)")

    @durable.workflow
    def body() -> str:
        try:
            with timeout(0.2):
                slow()
        except errors.WaitTimeout:
            return "late"
        return "not reached"

    with durable.executor():
        handle = body.start()
        assert handle.result(20) == "late"
    assert connection.execute("select from stock").fetchall() == []
    assert [(step.kind, step.name, step.error and step.error[:11]) for step in handle.steps()] == [
        ("value", "timeout", None), ("transaction", "slow", "WaitTimeout"),
    ]  # fmt: skip


def test_blocks_that_are_left_in_time_leave_nothing(durable: Durable, connection: Connection[Any]):
    @durable.step
    def add(n: int) -> int:
        return n + 1

    @durable.workflow
    def body() -> int:
        with timeout(3600), timeout(1800):
            n = add(0)
        with timeout(60):
            pass
        seen.append(connection.execute(WAITS).fetchall())
        n = add(n)
        seen.append(connection.execute(WAITS).fetchall())
        sleep(1.2)
        return add(n)

    seen: list[Any] = []
    with durable.executor():
        assert body() == 3
    assert seen == [[(2,)], [(0,)], [(0,)], [(0,)]]


def test_a_crash_does_not_begin_the_time_anew(durable: Durable, connection: Connection[Any]):
    reached, go = threading.Event(), threading.Event()

    @durable.step
    def hold() -> None:
        reached.set()
        assert go.wait(20)

    @durable.workflow
    def body() -> str:
        with timeout(3600):
            hold()
            hold()
        return "not reached"

    executor = durable.executor(threads=1).open()
    handle = body.start()
    assert reached.wait(20)
    closing = threading.Thread(target=executor.close, kwargs={"timeout": 0})
    closing.start()
    assert executor.stopping.wait(20)
    go.set()
    closing.join(30)
    connection.execute("update dbdurable.wait set due = clock_timestamp() - interval '1 s' where kind = 'timeout'")
    with durable.executor(threads=1), pytest.raises(errors.WaitTimeout, match="3600 s of timeout"):
        handle.result(20)
    assert [step.name for step in handle.steps()] == ["timeout", "hold", "hold"]


@pytest.mark.parametrize("wrong", [-1, float("nan"), 1e12, "60"])
def test_what_is_no_time(durable: Durable, wrong: Any):
    @durable.workflow
    def body() -> None:
        with timeout(wrong):
            pass

    with durable.executor(), pytest.raises(errors.BadArgument, match="limit of timeout"):
        body()
    with pytest.raises(errors.NotInWorkflow, match="timeout"), timeout(1):
        pass
