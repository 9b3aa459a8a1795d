"""Cancel, pause, resume and blocked: what callers see, what bodies see, and what commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from dbdurable import Cancelled, Durable, current_workflow
from dbdurable.errors import WaitTimeout, WorkflowBlocked, WorkflowCancelled
from tests.support.wait import wait_until
from tests.support.workflows import Gate, items, journal

# ---- cancel ------------------------------------------------------------------------------------------------


def test_cancel_of_what_nobody_has_claimed(durable: Durable):
    @durable.workflow
    def never() -> None:
        ran.append(1)

    ran: list[int] = []
    handle = never.start()
    handle.cancel("not needed")
    assert handle.status() == "cancelled"
    with pytest.raises(WorkflowCancelled, match=f"workflow never {handle.id} was cancelled: not needed"):
        handle.result(1)
    handle.cancel("again")  # changes nothing
    assert handle.info().reason == "not needed"
    with durable.executor() as here:
        here.wait_idle(10)
    assert not ran


def test_cancel_of_a_running_workflow(durable: Durable, stock: Connection[Any], gate: Gate):
    @durable.step
    def pack(item: str) -> str:
        gate.wait()
        return item

    @durable.transaction
    def insert(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def order() -> str:
        try:
            pack("apple")  # running while the cancel arrives: finished and recorded
            insert("apple")  # the next durable call: raises
        except Cancelled as cancelled:
            seen.append(str(cancelled))
            insert("clean-up")
            raise
        return "shipped"

    seen: list[str] = []
    with durable.executor():
        handle = order.start()
        gate.wait_reached()
        handle.cancel("customer left")
        assert handle.status() == "running"
        gate.go.set()
        with pytest.raises(WorkflowCancelled, match="customer left"):
            handle.result(10)
    assert handle.status() == "cancelled"
    assert seen == ["customer left"]
    assert items(stock) == ["clean-up"]
    assert journal(handle) == [("pack", None), ("insert", "Cancelled: customer left"), ("insert", None)]


def test_cancel_between_the_statements_of_an_open_transaction(durable: Durable, stock: Connection[Any], gate: Gate):
    @durable.transaction
    def sell(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('apple')")
        gate.wait()
        tx.execute("insert into stock values ('pear')")

    @durable.workflow
    def order() -> None:
        sell()

    with durable.executor():
        handle = order.start()
        gate.wait_reached()
        handle.cancel("too late")
        gate.go.set()
        with pytest.raises(WorkflowCancelled):
            handle.result(10)
    assert items(stock) == []
    assert journal(handle) == [("sell", "Cancelled: too late")]


async def test_cancel_of_an_async_workflow(durable: Durable, stock: Connection[Any], gate: Gate):
    @durable.step
    def pack() -> None:
        gate.wait()

    @durable.transaction
    async def insert(tx: AsyncConnection[Any], item: str) -> None:
        await tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    async def order() -> None:
        try:
            await pack.aio()
            await insert("apple")
        except Cancelled:
            await insert("clean-up")
            raise

    async with durable.executor():
        handle = await order.start()
        await asyncio.to_thread(gate.wait_reached)
        await handle.cancel("customer left")
        gate.go.set()
        with pytest.raises(WorkflowCancelled, match="customer left"):
            await handle.result(10)
        assert await handle.status() == "cancelled"
    assert items(stock) == ["clean-up"]


def test_direct_caller_of_a_cancelled_workflow(durable: Durable, gate: Gate):
    @durable.step
    def pack() -> None:
        durable.client.handle(current_workflow().id).cancel("from inside")

    @durable.workflow
    def order() -> None:
        pack()
        pack()

    with durable.executor(), pytest.raises(WorkflowCancelled, match="from inside"):
        order()


def test_a_body_that_ends_before_it_sees_the_cancel(durable: Durable):
    @durable.workflow
    def order() -> str:
        durable.client.handle(current_workflow().id).cancel("late")
        return "shipped"

    with durable.executor():
        handle = order.start()
        with pytest.raises(WorkflowCancelled, match="late"):
            handle.result(10)
    assert handle.status() == "cancelled"


# ---- pause and resume --------------------------------------------------------------------------------------


def test_pause_stops_before_the_next_record(durable: Durable, stock: Connection[Any], gate: Gate):
    @durable.transaction
    def sell(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])
        if item == "pear" and not gate.reached.is_set():
            gate.wait()

    @durable.workflow
    def order() -> str:
        sell("apple")
        sell("pear")
        return "sold"

    with durable.executor() as here:
        handle = order.start()
        gate.wait_reached()
        handle.pause()
        gate.go.set()
        here.wait_idle(10)
        assert handle.status() == "paused"
        assert items(stock) == ["apple"]
        with pytest.raises(WaitTimeout, match="it is paused"):
            handle.result(timeout=0.05)
        handle.pause()
        handle.resume()
        assert handle.result(10) == "sold"
        handle.resume()  # changes nothing
        assert handle.status() == "succeeded"
    assert items(stock) == ["apple", "pear"]
    assert journal(handle) == [("sell", None), ("sell", None)]


def test_who_is_paused_while_its_clean_up_keeps_failing_is_listed_as_paused(
    durable: Durable, connection: Connection[Any]
):
    """Such a note is listed under "running", and is taken away when the clean-up works: the pause is not."""

    @durable.workflow
    def stuck() -> None: ...

    handle = stuck.start()
    connection.execute(
        "insert into dbdurable.attention (workflow_id, status, reason) values (%s, 'running', 'a note')", [handle.id]
    )
    handle.pause()
    listed = connection.execute("select status::text, reason from dbdurable.attention").fetchall()
    assert [(status, reason.partition(" by ")[0]) for status, reason in listed] == [("paused", "paused")]


def test_pause_before_the_claim_and_cancel_while_paused(durable: Durable):
    @durable.workflow
    def order() -> str:
        return "sold"

    one, two = order.start(), order.start()
    for handle in (one, two):
        handle.pause()
        assert handle.status() == "paused"
    with durable.executor() as here:
        here.wait_idle(10)
        two.cancel("never mind")
        with pytest.raises(WorkflowCancelled, match="never mind"):
            two.result(10)
        one.resume()
        assert one.result(10) == "sold"


def test_resume_of_a_failed_workflow_tries_the_failed_step_again(durable: Durable, stock: Connection[Any]):
    @durable.transaction
    def sell(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('apple')")

    @durable.step
    def ship() -> str:
        runs.append("ship")
        if not mended:
            raise ConnectionError("carrier is down")
        return "shipped"

    @durable.workflow
    def order() -> str:
        sell()
        return ship()

    mended: list[bool] = []
    runs: list[str] = []
    with durable.executor():
        handle = order.start()
        with pytest.raises(ConnectionError, match="carrier is down") as error:
            handle.result(10)
        assert f"raised in workflow order {handle.id}" in error.value.__notes__
        assert handle.status() == "failed"
        assert handle.info().reason == "ConnectionError: carrier is down"
        handle.resume()
        with pytest.raises(ConnectionError):
            handle.result(10)
        mended.append(True)
        handle.resume()
        assert handle.result(10) == "shipped"
    assert runs == ["ship"] * 3
    assert items(stock) == ["apple"]  # exactly once
    assert journal(handle) == [("sell", None), ("ship", None)]
    removed = stock.execute("select detail -> 'removed' -> 0 ->> 'name' from dbdurable.audit").fetchall()
    assert removed == [("ship",), ("ship",)]


# ---- blocked: the code changed under running work ----------------------------------------------------------


def deploy(url: str, body: Callable[[Callable[[], str], Callable[[], str]], str], gate: Gate) -> tuple[Durable, Any]:
    """One version of an application: two steps, and a workflow whose body is given."""
    durable = Durable(url)

    @durable.step
    def reserve() -> str:
        return "reserved"

    @durable.step
    def charge() -> str:
        gate.wait()
        return "charged"

    @durable.workflow
    def checkout() -> str:
        return body(reserve, charge)

    return durable, checkout


def test_changed_code_blocks_and_the_old_code_finishes(database_url: str, connection: Connection[Any], gate: Gate):
    def old_body(reserve: Callable[[], str], charge: Callable[[], str]) -> str:
        return f"{reserve()}, {charge()}"

    def new_body(reserve: Callable[[], str], charge: Callable[[], str]) -> str:
        return f"{charge()}, {reserve()}"

    old, checkout = deploy(database_url, old_body, gate)
    with old.executor() as here:
        handle = checkout.start()
        gate.wait_reached()
        handle.pause()
        gate.go.set()
        here.wait_idle(10)
    assert journal(handle) == [("reserve", None), ("charge", None)]

    new, _ = deploy(database_url, new_body, gate)
    with new.executor() as here:
        handle.resume()
        with pytest.raises(WorkflowBlocked) as error:
            handle.result(10)
    text = str(error.value)
    for words in (
        f"workflow checkout {handle.id} is blocked",
        "The code no longer fits the recorded steps at path 1",
        "- ", "step reserve    (recorded)",
        "+ ", "step charge    (the code now)",
        "Usual causes", f"`dbdurable resume {handle.id}`", f"`dbdurable cancel {handle.id}`",
    ):  # fmt: skip
        assert words in text
    assert handle.status() == "blocked"
    assert connection.execute("select status, reason ~ 'no longer fits' from dbdurable.failures").fetchall() == [
        ("blocked", True)
    ]

    with old.executor():
        handle.resume()
        assert handle.result(10) == "reserved, charged"
    assert connection.execute("select count(*) from dbdurable.failures").fetchone() == (0,)
    for application in (old, new):
        application.close()


def test_steps_left_over_block_too(database_url: str, gate: Gate):
    gate.go.set()
    crash: list[bool] = [True]

    def old_body(reserve: Callable[[], str], charge: Callable[[], str]) -> str:
        reserve()
        charge()
        if crash:
            raise ValueError("a bug")
        return "done"

    def new_body(reserve: Callable[[], str], charge: Callable[[], str]) -> str:
        return reserve()

    old, checkout = deploy(database_url, old_body, gate)
    with old.executor():
        handle = checkout.start()
        with pytest.raises(ValueError, match="a bug"):
            handle.result(10)
    new, _ = deploy(database_url, new_body, gate)
    with new.executor():
        handle.resume()
        with pytest.raises(WorkflowBlocked, match=r"(?s)path 2.*step charge    \(recorded\).*\(the workflow ended\)"):
            handle.result(10)
        handle.cancel("start over")
        assert wait_until(lambda: handle.status() == "cancelled")
    for application in (old, new):
        application.close()


def test_blocked_direct_call(database_url: str, stock: Connection[Any]):
    durable = Durable(database_url)

    @durable.transaction
    def sell(tx: psycopg.Connection[Any]) -> None:
        tx.execute("commit")

    @durable.workflow
    def order() -> None:
        sell()

    with durable.executor(), pytest.raises(WorkflowBlocked, match=r"workflow order .* is blocked"):
        order()
    durable.close()


def test_cancel_while_paused_midway_wins_over_the_outcome(durable: Durable, gate: Gate):
    @durable.step
    def pack() -> None:
        gate.wait()

    @durable.workflow
    def order() -> str:
        pack()
        return "sold"

    with durable.executor() as here:
        handle = order.start()
        gate.wait_reached()
        handle.pause()
        gate.go.set()
        here.wait_idle(10)
        handle.cancel("never mind")  # no durable call is left that could raise it
        with pytest.raises(WorkflowCancelled, match="never mind"):
            handle.result(10)
