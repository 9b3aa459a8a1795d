"""Events: read by anyone, any number of times; who waits for one is woken; progress is shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from dbdurable import Client, Durable, aio, progress, recv, set_event
from dbdurable.errors import BadArgument, NotInWorkflow, UnknownWorkflow, WaitTimeout, WorkflowFinished
from tests.support.wait import wait_until
from tests.waiting.conftest import Parked

Connection = psycopg.Connection[Any]


@dataclass
class State:
    name: str
    step: int


@pytest.fixture
def shop(durable: Durable) -> Any:
    """Sets "state" three times, the last time in a transaction, each time when it is told to."""

    @durable.transaction
    def ship(tx: psycopg.Connection, fail: bool) -> None:
        set_event("state", State("lost" if fail else "shipped", 3))
        if fail:
            raise ValueError("no")

    @durable.workflow
    def shop() -> str:
        set_event("state", State("new", 1))
        recv("go")
        set_event("state", State("paid", 2))
        recv("go")
        with pytest.raises(ValueError, match="no"):
            ship(True)
        ship(False)
        recv("go")
        return "done"

    return shop


@pytest.fixture
def ashop(durable: Durable) -> Any:
    @durable.transaction
    async def aship(tx: AsyncConnection, fail: bool) -> None:
        await aio.set_event("state", State("lost" if fail else "shipped", 3))
        if fail:
            raise ValueError("no")

    @durable.workflow
    async def ashop() -> str:
        await aio.set_event("state", State("new", 1))
        await aio.recv("go")
        await aio.set_event("state", State("paid", 2))
        await aio.recv("go")
        with pytest.raises(ValueError, match="no"):
            await aship(True)
        await aship(False)
        await aio.recv("go")
        return "done"

    return ashop


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_clients_read_the_latest_value(
    durable: Durable, database_url: str, connection: Connection, shop: Any, ashop: Any, is_async: bool
) -> None:
    with durable.executor(), Client(database_url) as client:
        handle = ashop.sync.start() if is_async else shop.start()
        for state in (State("new", 1), State("paid", 2), State("shipped", 3)):

            def seen(state: State = state) -> bool:
                return bool(handle.get_event("state", State, timeout=10) == state)

            wait_until(seen)
            assert asyncio.run(handle.aio.get_event("state", State)) == state
            assert client.handle(handle.id).get_event("state") == {"name": state.name, "step": state.step}
            (value,) = connection.execute("select dbdurable.get_event(%s, 'state')", [handle.id]).fetchone() or (None,)
            assert value == {"name": state.name, "step": state.step}
            handle.send("go", None)
        assert handle.result(timeout=20) == "done"
        assert handle.get_event("state", State) == State("shipped", 3)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("where", ["body", "transaction"])
def test_a_workflow_that_waits_for_an_event_is_woken(
    durable: Durable, connection: Connection, parked: Parked, is_async: bool, where: str
) -> None:
    @durable.transaction
    def tell(tx: psycopg.Connection) -> None:
        set_event("ready", 7)

    @durable.workflow
    def setter() -> None:
        recv("go")
        tell() if where == "transaction" else set_event("ready", 7)
        recv("end")

    @durable.workflow
    def waits(of: str) -> list[int]:
        first = setter.handle(of).get_event("ready", int)
        return [first, setter.handle(of).get_event("ready", int, timeout=3600)]

    @durable.workflow
    async def awaits(of: str) -> list[int]:
        first = await setter.aio.handle(of).get_event("ready", int)
        return [first, await setter.aio.handle(of).get_event("ready", int, timeout=3600)]

    with durable.executor():
        source = setter.start()
        parked(source)
        handles = [(awaits.sync if is_async else waits).start(str(source.id)) for _ in range(3)]
        for handle in handles:
            assert parked(handle) == [("1", "event", f"{source.id}:ready")]
        source.send("go", None)
        for handle in handles:
            assert handle.result(timeout=20) == [7, 7]
            assert [(step.kind, step.name) for step in handle.steps()] == [("get_event", "ready")] * 2
        source.send("end", None)
        source.result(timeout=20)
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)


def test_an_event_that_never_comes(durable: Durable, parked: Parked) -> None:
    @durable.workflow
    def silent() -> None:
        recv("go")

    @durable.workflow
    def waits(of: str, with_default: bool) -> str:
        try:
            return str(
                silent.handle(of).get_event("it", default="nothing")
                if with_default
                else silent.handle(of).get_event("it")
            )
        except WorkflowFinished as error:
            return str(error)

    with durable.executor():
        source = silent.start()
        parked(source)
        with pytest.raises(WaitTimeout, match=r"was not set within 0\.05 s"):
            source.get_event("it", timeout=0.05)
        assert source.get_event("it", timeout=0, default="nothing") == "nothing"
        waiting = [waits.start(str(source.id), False), waits.start(str(source.id), True)]
        for each in waiting:
            parked(each)
        source.send("go", None)
        source.result(timeout=20)
        assert "has ended (succeeded) and never set event 'it'" in waiting[0].result(timeout=20)
        assert waiting[1].result(timeout=20) == "nothing"
        with pytest.raises(WorkflowFinished, match="never set event 'it'"):
            source.get_event("it")
        assert source.get_event("it", default=None) is None
        with pytest.raises(UnknownWorkflow):
            silent.handle(uuid4()).get_event("it")


@pytest.mark.parametrize(("name", "value"), [("", 1), ("!progress", 1), ("a b", 1), (1, 1), ("it", float("nan"))])
def test_events_that_cannot_be_set(durable: Durable, connection: Connection, name: Any, value: Any) -> None:
    @durable.workflow
    def sets() -> str:
        try:
            set_event(name, value)
        except BadArgument:
            return "refused"
        return "set"

    with durable.executor():
        assert sets() == "refused"
    assert connection.execute("select count(*) from dbdurable.event").fetchone() == (0,)


def test_where_events_and_progress_may_be_set(durable: Durable) -> None:
    @durable.step
    def inside() -> None:
        set_event("it", 1)

    @durable.workflow
    def calls() -> None:
        inside()

    with pytest.raises(NotInWorkflow):
        set_event("it", 1)
    with pytest.raises(NotInWorkflow):
        progress(1)
    with durable.executor(), pytest.raises(NotInWorkflow, match="inside step inside"):
        calls()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_progress_travels_with_the_next_record(
    durable: Durable, connection: Connection, parked: Parked, is_async: bool
) -> None:
    def shown() -> Any:
        return connection.execute("select progress from dbdurable.workflows").fetchone()

    seen = []

    @durable.step
    def step() -> None:
        seen.append(shown())
        progress(2, text="in a step")

    @durable.transaction
    def transaction(tx: psycopg.Connection) -> None:
        seen.append(shown())
        progress(3)

    @durable.workflow
    def work() -> None:
        progress(1, 4, "began")
        step()
        transaction()
        seen.append(shown())
        progress(4, 4, "waits")
        recv("go")

    @durable.workflow
    async def awork() -> None:
        progress(1, 4, "began")
        await step.aio()
        await transaction.aio()
        seen.append(shown())
        progress(4, 4, "waits")
        await aio.recv("go")

    with durable.executor():
        handle = awork.sync.start() if is_async else work.start()
        parked(handle)
        assert seen == [
            (None,),
            ({"done": 2, "total": None, "text": "in a step"},),
            ({"done": 3, "total": None, "text": ""},),
        ]
        assert shown() == ({"done": 4, "total": 4, "text": "waits"},)


@pytest.mark.parametrize("arguments", [(-1,), (1, -2), ("1",), (True,), (1, None, 7), (1, None, "x" * 2000), (2**70,)])
def test_progress_that_cannot_be(durable: Durable, arguments: Any) -> None:
    @durable.workflow
    def work() -> str:
        try:
            progress(*arguments)
        except BadArgument:
            return "refused"
        return "shown"

    with durable.executor():
        assert work() == "refused"
