"""Waits in parallel branches: they park together; who lost a race leaves no wait behind."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, aio, gather, race, recv, sleep
from tests.support.wait import wait_until
from tests.waiting.conftest import Parked, make_due

Connection = psycopg.Connection[Any]
COLOURS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@COLOURS
def test_gather_parks_when_all_branches_wait(
    durable: Durable, connection: Connection, parked: Parked, is_async: bool
) -> None:
    ran: list[str] = []

    @durable.step
    def note(what: str) -> str:
        ran.append(what)
        return what

    @durable.workflow
    def both() -> list[Any]:
        def first() -> str:
            note("a")
            return note(f"after {recv('a', int)}")

        def second() -> str:
            with contextlib.suppress(BaseException):
                sleep(3600)
            return note("after the nap")

        try:
            return [*gather(first, second), note("end")]
        finally:
            with contextlib.suppress(Exception):
                note("finally")

    @durable.workflow
    async def aboth() -> list[Any]:
        async def first() -> str:
            await note.aio("a")
            return await note.aio(f"after {await aio.recv('a', int)}")

        async def second() -> str:
            with contextlib.suppress(BaseException):
                await aio.sleep(3600)
            return await note.aio("after the nap")

        try:
            return [*await aio.gather(first, second), await note.aio("end")]
        finally:
            with contextlib.suppress(Exception):
                await note.aio("finally")

    with durable.executor():
        handle = aboth.sync.start() if is_async else both.start()
        assert parked(handle) == [("1.1.2", "message", "a"), ("1.2.1", "sleep", "")]
        handle.send("a", 7)
        wait_until(lambda: [wait[0] for wait in parked(handle)] == ["1.2.1"])
        assert "after 7" in ran
        make_due(connection, handle.id)
        assert handle.result(timeout=20) == ["after 7", "after the nap", "end"]
    assert sorted(ran) == ["a", "after 7", "after the nap", "end", "finally"]


@COLOURS
@pytest.mark.parametrize("winner", ["message", "time"])
def test_a_race_against_time(
    durable: Durable, connection: Connection, parked: Parked, is_async: bool, winner: str
) -> None:
    @durable.workflow
    def races() -> list[Any]:
        def listen() -> int:
            return recv("it", int)

        def nap() -> str:
            sleep(3600)
            return "late"

        won = race(listen, nap)
        recv("go")
        return list(won)

    @durable.workflow
    async def araces() -> list[Any]:
        async def listen() -> int:
            return await aio.recv("it", int)

        async def nap() -> str:
            await aio.sleep(3600)
            return "late"

        won = await aio.race(listen, nap)
        await aio.recv("go")
        return list(won)

    with durable.executor():
        handle = araces.sync.start() if is_async else races.start()
        assert [wait[1] for wait in parked(handle)] == ["message", "sleep"]
        if winner == "message":
            handle.send("it", 7)
        else:
            make_due(connection, handle.id)
        wait_until(lambda: [wait[2] for wait in parked(handle)] == ["go"], what="only what is waited for to be left")
        handle.send("go", None)
        assert handle.result(timeout=20) == ([0, 7] if winner == "message" else [1, "late"])


@COLOURS
def test_a_race_with_a_long_timeout_parks(durable: Durable, parked: Parked, is_async: bool) -> None:
    @durable.workflow
    def races() -> list[Any]:
        return list(race(lambda: recv("it", int), timeout=3600))

    @durable.workflow
    async def araces() -> list[Any]:
        return list(await aio.race(lambda: aio.recv("it", int), timeout=3600))

    with durable.executor():
        handle = araces.sync.start() if is_async else races.start()
        assert sorted(wait[1] for wait in parked(handle)) == ["message", "sleep"]
        handle.send("it", 7)
        assert handle.result(timeout=20) == [0, 7]


async def test_a_branch_that_works_goes_on_while_another_waits(durable: Durable, parked: Parked) -> None:
    gate = asyncio.Event()

    @durable.step
    async def slow() -> str:
        await gate.wait()
        return "slow"

    @durable.workflow
    async def both() -> list[Any]:
        return list(await asyncio.gather(aio.recv("it", int), slow()))

    async with durable.executor():
        handle = await both.start()
        # In memory the wait looks now and then: a message is received although nothing parks.
        await handle.send("it", 7)
        await asyncio.to_thread(wait_until, lambda: len(handle.sync.steps()) == 1)
        assert await handle.status() == "running"
        gate.set()
        assert await handle.result(timeout=20) == [7, "slow"]
