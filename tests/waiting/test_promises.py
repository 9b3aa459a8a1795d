"""Promises: completed once, from anywhere, by a token that cannot be made up."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from dbdurable import Client, Durable, Retry, aio, promise, recv, set_event
from dbdurable.errors import (
    BadArgument,
    NotInWorkflow,
    PromiseCompleted,
    PromiseRejected,
    UnknownPromise,
    WaitTimeout,
)
from tests.waiting.conftest import Parked, make_due

Connection = psycopg.Connection[Any]


@pytest.fixture
def contract(durable: Durable) -> Any:
    """Says its token as event "token" and answers with what the promise was completed with, twice."""

    @durable.workflow
    def contract(timeout: float | None) -> list[str]:
        signature = promise("signature", str)
        set_event("token", signature.token)
        try:
            return [signature.result(timeout), signature.result()]
        except (PromiseRejected, WaitTimeout, BadArgument) as error:
            return [type(error).__name__, str(error)]

    return contract


@pytest.fixture
def acontract(durable: Durable) -> Any:
    @durable.workflow
    async def acontract(timeout: float | None) -> list[str]:
        signature = await aio.promise("signature", str)
        await aio.set_event("token", signature.token)
        try:
            return [await signature.result(timeout), await signature.result()]
        except (PromiseRejected, WaitTimeout, BadArgument) as error:
            return [type(error).__name__, str(error)]

    return acontract


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("how", ["client", "aio", "sql", "tx", "aio tx"])
def test_it_is_resolved_from_outside(
    durable: Durable, database_url: str, parked: Parked, contract: Any, acontract: Any, is_async: bool, how: str
) -> None:
    async def in_async_tx(token: str) -> None:
        async with await AsyncConnection.connect(database_url) as mine:
            await durable.client.aio.resolve(token, "ann", tx=mine)

    with durable.executor(), Client(database_url) as client:
        handle = acontract.sync.start(None) if is_async else contract.start(None)
        token = handle.get_event("token", str, timeout=10)
        assert parked(handle) == [("3", "message", "!promise 1")]
        if how == "client":
            client.resolve(token, "ann")
        elif how == "aio":
            asyncio.run(client.aio.resolve(token, "ann"))
        elif how == "aio tx":
            asyncio.run(in_async_tx(token))
        else:
            with psycopg.connect(database_url) as mine:
                if how == "tx":
                    client.resolve(token, "eve", tx=mine)
                    mine.rollback()
                    client.resolve(token, "ann", tx=mine)
                else:
                    mine.execute("select dbdurable.resolve(%s, '\"ann\"')", [token])
        assert handle.result(timeout=20) == ["ann", "ann"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_it_is_rejected(
    durable: Durable, connection: Connection, contract: Any, acontract: Any, is_async: bool
) -> None:
    with durable.executor():
        first, second = (acontract.sync.start(None) if is_async else contract.start(None) for _ in range(2))
        durable.client.reject(first.get_event("token", str, timeout=10), "not like this")
        connection.execute("select dbdurable.reject(%s, 'nor this')", [second.get_event("token", str, timeout=10)])
        assert first.result(timeout=20) == ["PromiseRejected", "not like this"]
        assert second.result(timeout=20) == ["PromiseRejected", "nor this"]


def test_completed_before_anybody_waits(durable: Durable) -> None:
    @durable.workflow
    def late() -> int:
        it = promise("it", int)
        set_event("token", it.token)
        recv("go")
        return it.result()

    with durable.executor():
        handle = late.start()
        durable.client.resolve(handle.get_event("token", str, timeout=10), 7)
        handle.send("go", None)
        assert handle.result(timeout=20) == 7


def test_the_time_is_over_and_the_wrong_type(
    durable: Durable, connection: Connection, parked: Parked, contract: Any
) -> None:
    with durable.executor():
        handle = contract.start(3600)
        parked(handle)
        make_due(connection, handle.id)
        assert handle.result(timeout=20)[0] == "WaitTimeout"
        other = contract.start(None)
        durable.client.resolve(other.get_event("token", str, timeout=10), 42)
        name, said = other.result(timeout=20)
        assert name == "BadArgument"
        assert "recv 'signature'" in said


def test_completed_once(durable: Durable, database_url: str, connection: Connection, contract: Any) -> None:
    with durable.executor():
        keeper = contract.start(None)
        token = keeper.get_event("token", str, timeout=10)
        handle = contract.start(None)
        mine = handle.get_event("token", str, timeout=10)
        with psycopg.connect(database_url) as open_:
            durable.client.resolve(mine, "ann", tx=open_)
            for again in (lambda: durable.client.resolve(mine, "bob", tx=open_),):
                with pytest.raises(PromiseCompleted, match="was completed before"):
                    again()
                open_.rollback()
        durable.client.resolve(mine, "ann")
        with pytest.raises(PromiseCompleted):
            durable.client.resolve(mine, "ann")
        assert handle.result(timeout=20) == ["ann", "ann"]
        with pytest.raises(PromiseCompleted):
            durable.client.reject(mine, "late")
        for call in ("resolve(%s)", "resolve(%s, '1')", "reject(%s, 'no')"):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(f"select dbdurable.{call}", [mine])  # type: ignore[call-overload]
            assert caught.value.sqlstate == "DD013"
        assert keeper.status() in ("waiting", "running")
        durable.client.resolve(token, "end")


def test_completed_twice_while_its_workflow_goes_on(durable: Durable, parked: Parked) -> None:
    @durable.workflow
    def goes_on() -> str:
        it = promise("it", str)
        set_event("token", it.token)
        said = it.result()
        recv("go")
        return said

    with durable.executor():
        handle = goes_on.start()
        token = handle.get_event("token", str, timeout=10)
        durable.client.resolve(token, "first")
        from tests.support.wait import wait_until

        wait_until(lambda: parked(handle)[0][2] == "go")
        for attempt in (lambda: durable.client.resolve(token, "first"), lambda: durable.client.reject(token, "no")):
            with pytest.raises(PromiseCompleted, match="was completed before"):
                attempt()
        handle.send("go", None)
        assert handle.result(timeout=20) == "first"


def test_in_steps_bodies_and_transactions_it_is_completed_once(durable: Durable, contract: Any) -> None:
    tried: list[int] = []

    @durable.step(retry=Retry(2, initial=0.001))
    def by_step(token: str) -> None:
        durable.client.resolve(token, "step")
        if not tried:
            tried.append(1)
            assert handles[0].result(timeout=20)[0] == "step"  # it has ended when the step runs again
            raise OSError

    @durable.transaction
    def by_transaction(tx: psycopg.Connection, token: str) -> None:
        durable.client.resolve(token, "transaction")

    @durable.workflow
    def completes(tokens: list[str]) -> str:
        by_step(tokens[0])
        by_transaction(tokens[1])
        durable.client.resolve(tokens[2], "body")
        try:
            durable.client.reject("no token", "why")
        except UnknownPromise:
            return "done"
        return "?"

    with durable.executor():
        handles = [contract.start(None) for _ in range(3)]
        tokens = [handle.get_event("token", str, timeout=10) for handle in handles]
        handle = completes.start(tokens)
        assert handle.result(timeout=20) == "done"
        assert [each.result(timeout=20)[0] for each in handles] == ["step", "transaction", "body"]
        assert [(step.kind, step.name) for step in handle.steps()][2:] == [("send", "resolve"), ("send", "reject")]


def test_forged_tokens(durable: Durable, connection: Connection, contract: Any) -> None:
    with durable.executor():
        handle = contract.start(None)
        token = handle.get_event("token", str, timeout=10)
        workflow, path, secret = token.split("-")
        forged = [
            "", "x", token[:-1], token + "0", token.upper(), f" {token}", f"{workflow}-{path}-{'0' * 32}",
            f"{'0' * 32}-{path}-{secret}", f"{workflow}-2-{secret}", f"{workflow}-{path}", str(handle.id),
        ]  # fmt: skip
        for each in forged:
            with pytest.raises(UnknownPromise, match="no workflow has made a promise with this token"):
                durable.client.resolve(each, "evil")
        for wrong in (None, 7, "nul\0"):
            with pytest.raises(BadArgument):
                durable.client.resolve(wrong, 1)  # type: ignore[arg-type]
        with pytest.raises(BadArgument):
            durable.client.resolve(token, object())
        with pytest.raises(BadArgument):
            durable.client.reject(token, 7)  # type: ignore[arg-type]
        with pytest.raises(psycopg.Error):
            connection.execute("select dbdurable.send(%s, '!promise 1', '{}')", [handle.id])
        assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)
        durable.client.resolve(token, "ann")
        assert handle.result(timeout=20) == ["ann", "ann"]


def test_outside_of_a_body(durable: Durable) -> None:
    with pytest.raises(NotInWorkflow):
        promise("it", int)
    with pytest.raises(NotInWorkflow):
        aio.promise("it", int)
