"""Sleeping: in memory when short, parked when long, and never longer or shorter for a crash."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from dbdurable import Cancelled, Durable, aio, sleep, sleep_until
from dbdurable.errors import BadArgument, NotInWorkflow, WorkflowCancelled, WrongColour
from tests.support.wait import wait_until
from tests.waiting.conftest import Parked, make_due

Connection = psycopg.Connection[Any]


def test_a_long_sleep_parks_and_goes_on_when_it_is_due(
    durable: Durable, connection: Connection, parked: Parked
) -> None:
    bodies: list[str] = []

    @durable.step
    def note(what: str) -> str:
        bodies.append(what)
        return what

    @durable.workflow
    def nap() -> str:
        bodies.append("body")
        note("before")
        sleep(timedelta(days=30))
        return note("after")

    with durable.executor() as executor:
        handle = nap.start()
        assert parked(handle) == [("1", "sleep", "")] or parked(handle) == [("2", "sleep", "")]
        assert bodies == ["body", "before"]
        assert executor.attempts.names() == []
        make_due(connection, handle.id)
        assert handle.result(timeout=20) == "after"
    assert bodies == ["body", "before", "body", "after"]
    assert [(step.kind, step.error) for step in handle.steps()] == [("step", None), ("sleep", None), ("step", None)]
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)


async def test_a_long_sleep_of_an_async_body(durable: Durable, connection: Connection, parked: Parked) -> None:
    bodies: list[str] = []

    @durable.step
    async def note(what: str) -> str:
        bodies.append(what)
        return what

    @durable.workflow
    async def nap() -> str:
        bodies.append("body")
        await note("before")
        await aio.sleep(timedelta(days=30))
        return await note("after")

    async with durable.executor() as executor:
        handle = await nap.start()
        await asyncio.to_thread(parked, handle)
        assert bodies == ["body", "before"]
        assert executor.attempts.names() == []
        make_due(connection, handle.id)
        assert await handle.result(timeout=20) == "after"
    assert bodies == ["body", "before", "body", "after"]


def test_short_sleeps_stay_in_memory(durable: Durable, connection: Connection) -> None:
    bodies = []

    @durable.workflow
    def nap() -> str:
        bodies.append(1)
        sleep(0.01)
        sleep(timedelta(milliseconds=1))
        sleep(0)
        sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
        return "awake"

    with durable.executor():
        assert nap() == "awake"
    assert bodies == [1]
    assert connection.execute("select name from dbdurable.step order by seq").fetchall() == [
        ("sleep",), ("sleep",), ("sleep",), ("sleep_until",)
    ]  # fmt: skip


def test_a_direct_call_that_parks_is_awaited_where_it_goes_on(durable: Durable) -> None:
    @durable.workflow
    def nap() -> str:
        sleep(0.2)
        return "awake"

    with durable.executor():
        assert nap() == "awake"
        assert nap.start().result(timeout=20) == "awake"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_nothing_runs_twice_whatever_the_body_catches(
    durable: Durable, connection: Connection, parked: Parked, is_async: bool
) -> None:
    ran: list[str] = []

    @durable.step
    def note(what: str) -> str:
        ran.append(what)
        return what

    @durable.workflow
    def stubborn() -> str:
        try:
            sleep(3600)
        except BaseException:
            note("except")
            raise
        finally:
            note("finally")
        return note("after")

    @durable.workflow
    def swallowing() -> str:
        with contextlib.suppress(BaseException):
            sleep(3600)
        try:
            note("goes on")
        except BaseException:
            return "discarded"
        return "right"

    @durable.workflow
    async def astubborn() -> str:
        try:
            await aio.sleep(3600)
        except BaseException:
            await note.aio("except")
            raise
        finally:
            await note.aio("finally")
        return await note.aio("after")

    @durable.workflow
    async def aswallowing() -> str:
        with contextlib.suppress(BaseException):
            await aio.sleep(3600)
        try:
            await note.aio("goes on")
        except BaseException:
            return "discarded"
        return "right"

    with durable.executor():
        handles = (
            [astubborn.sync.start(), aswallowing.sync.start()] if is_async else [stubborn.start(), swallowing.start()]
        )
        for handle in handles:
            parked(handle)
        assert ran == []
        for handle in handles:
            make_due(connection, handle.id)
        assert handles[0].result(timeout=20) == "after"
        assert handles[1].result(timeout=20) == "right"
    assert sorted(ran) == ["after", "finally", "goes on"]


def test_a_deadline_survives_wakes_and_takeovers(durable: Durable, connection: Connection, parked: Parked) -> None:
    @durable.workflow
    def nap() -> str:
        sleep(3600)
        return "awake"

    def due() -> Any:
        return connection.execute("select due from dbdurable.wait").fetchone()

    with durable.executor():
        handle = nap.start()
        parked(handle)
        first = due()
        # A wake for nothing, as after a crash of the process that parked it.
        connection.execute(
            "insert into dbdurable.ready (queue, partition, rank, wake, workflow_id, name) "
            "select queue, '', 0, true, id, name from dbdurable.workflow"
        )
        parked(handle)
        assert due() == first
        assert handle.info().attempt == 1
        make_due(connection, handle.id)
        assert handle.result(timeout=20) == "awake"


def test_pause_stops_the_clock_of_a_sleep(durable: Durable, connection: Connection, parked: Parked) -> None:
    @durable.workflow
    def nap() -> str:
        sleep(3600)
        return "awake"

    with durable.executor():
        handle = nap.start()
        parked(handle)
        handle.pause()
        assert connection.execute("select due, remaining > '50 min' from dbdurable.wait").fetchall() == [(None, True)]
        handle.resume()
        parked(handle)
        assert connection.execute(
            "select remaining, due > clock_timestamp() + interval '50 min' from dbdurable.wait"
        ).fetchall() == [(None, True)]
        make_due(connection, handle.id)
        assert handle.result(timeout=20) == "awake"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_cancel_wakes_a_sleeper_which_may_clean_up(durable: Durable, parked: Parked, is_async: bool) -> None:
    cleaned: list[str] = []

    @durable.step
    def clean(what: str) -> None:
        cleaned.append(what)

    @durable.workflow
    def nap() -> None:
        try:
            sleep(3600)
        except Cancelled as cancelled:
            clean(str(cancelled))
            raise

    @durable.workflow
    async def anap() -> None:
        try:
            await aio.sleep(3600)
        except Cancelled as cancelled:
            await clean.aio(str(cancelled))
            raise

    with durable.executor():
        handle = anap.sync.start() if is_async else nap.start()
        parked(handle)
        handle.cancel("enough")
        with pytest.raises(WorkflowCancelled, match="enough"):
            handle.result(timeout=20)
    assert cleaned == ["enough"]


def test_a_parked_workflow_holds_no_thread(durable: Durable, connection: Connection) -> None:
    @durable.workflow
    def nap() -> int:
        sleep(3600)
        return threading.active_count()

    with durable.executor(threads=2) as executor:
        handles = [nap.start() for _ in range(30)]

        def waiting() -> Any:
            return connection.execute("select count(*) from dbdurable.workflow where status = 'waiting'").fetchone()

        wait_until(lambda: waiting() == (30,) and executor.attempts.names() == [])
        connection.execute("update dbdurable.wait set due = clock_timestamp()")
        for handle in handles:
            handle.result(timeout=20)


async def test_branches_park_together_and_only_when_nothing_moves(
    durable: Durable, connection: Connection, parked: Parked
) -> None:
    ran: list[str] = []
    gate = asyncio.Event()

    @durable.step
    async def slow(what: str) -> str:
        await gate.wait()
        ran.append(what)
        return what

    @durable.workflow
    async def both() -> list[Any]:
        async def napping() -> str:
            await aio.sleep(3600)
            return await slow("after a nap")

        async def working() -> str:
            await slow("one")
            value = await slow("two")
            await aio.sleep(7200)
            return value

        return list(await asyncio.gather(napping(), working()))

    async with durable.executor():
        handle = await both.start()
        # While a branch works, the other's deadline is kept in case of a crash; nothing is parked.
        await asyncio.to_thread(
            wait_until, lambda: connection.execute("select path from dbdurable.wait").fetchall() == [("1.1",)]
        )
        assert (await handle.status()) == "running"
        gate.set()
        rows = await asyncio.to_thread(parked, handle)
        assert rows == [("1.1", "sleep", ""), ("2.3", "sleep", "")]
        make_due(connection, handle.id)
        assert await handle.result(timeout=20) == ["after a nap", "two"]
    assert sorted(ran) == ["after a nap", "one", "two"]


@pytest.mark.parametrize("how", ["group", "wait", "event"])
async def test_other_ways_to_await_branches(durable: Durable, connection: Connection, parked: Parked, how: str) -> None:
    @durable.workflow
    async def branches() -> int:
        done = asyncio.Event()

        async def nap() -> int:
            await aio.sleep(3600)
            done.set()
            return 1

        if how == "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(nap()), group.create_task(nap())]
        else:
            tasks = [asyncio.create_task(nap()), asyncio.create_task(nap())]
            await (asyncio.wait(tasks) if how == "wait" else done.wait())
        return sum([await task for task in tasks])

    async with durable.executor():
        handle = await branches.start()
        assert len(await asyncio.to_thread(parked, handle)) == 2
        make_due(connection, handle.id)
        assert await handle.result(timeout=20) == 2


@pytest.mark.parametrize(
    "duration", [-1, float("nan"), float("inf"), timedelta(days=-1), 1e300, 10**400, "1", None, True]
)
def test_durations_that_cannot_be(durable: Durable, connection: Connection, duration: Any) -> None:
    @durable.workflow
    def nap() -> str:
        try:
            sleep(duration)
        except BadArgument as error:
            return str(error)
        return "slept"

    with durable.executor():
        assert "the duration of sleep() must" in nap()
    assert connection.execute("select count(*) from dbdurable.step").fetchone() == (0,)


@pytest.mark.parametrize(
    ("when", "why"),
    [
        (datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001
        (datetime(9999, 1, 1, tzinfo=UTC), "a hundred years"),
        (3600, "takes an aware datetime"),
        (timedelta(days=1), "takes an aware datetime"),
    ],
)
def test_times_that_cannot_be(durable: Durable, when: Any, why: str) -> None:
    @durable.workflow
    def nap() -> str:
        try:
            sleep_until(when)
        except BadArgument as error:
            return str(error)
        return "slept"

    with durable.executor():
        assert why in nap()


def test_outside_of_a_body(durable: Durable) -> None:
    with pytest.raises(NotInWorkflow, match=r"sleep\(\.\.\.\) was called outside of a workflow"):
        sleep(1)
    with pytest.raises(NotInWorkflow):
        aio.sleep_until(datetime.now(UTC))

    @durable.step
    def inside() -> None:
        sleep(1)

    @durable.workflow
    def calls() -> None:
        inside()

    @durable.workflow
    async def blocks() -> None:
        sleep(1)

    with durable.executor():
        with pytest.raises(NotInWorkflow, match="inside step inside"):
            calls()
        with pytest.raises(WrongColour, match=r"write `await aio\.sleep\(\.\.\.\)`"):
            blocks.sync()
