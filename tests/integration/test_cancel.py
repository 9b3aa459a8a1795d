"""Cancels and deadlines: what they interrupt, whom they reach, and what never commits after them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from dbdurable import Cancelled, Durable, Retry, aio, current_workflow, errors, gather, race, recv, shield, sleep
from tests.support.wait import await_until, wait_until
from tests.support.workflows import Gate, check_cancelled, items, journal


@pytest.fixture
def stock(connection: Connection[Any]) -> Connection[Any]:
    connection.execute("create table stock (item text)")
    return connection


# ---- what is interrupted -----------------------------------------------------------------------------------


def test_a_statement_of_a_transaction_is_ended(durable: Durable, stock: Connection[Any], gate: Gate):
    @durable.transaction(retry=5)
    def sell(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('apple')")
        gate.reached.set()
        tx.execute("select pg_sleep(3600)")

    @durable.transaction
    def clean_up(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('clean-up')")

    @durable.workflow
    def order() -> None:
        try:
            sell()
        except Cancelled:
            clean_up()
            raise

    with durable.executor():
        handle = order.start()
        gate.wait_reached()
        handle.cancel("no time")
        with pytest.raises(errors.WorkflowCancelled, match="no time"):
            handle.result(20)
    assert items(stock) == ["clean-up"]
    assert journal(handle) == [("sell", "Cancelled: no time"), ("clean_up", None)]


async def test_async_steps_and_transactions_are_ended(durable: Durable, stock: Connection[Any]):
    begun, ended = [], []

    @durable.step(retry=5)
    async def think() -> None:
        begun.append("think")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("think")

    @durable.transaction
    async def sell(tx: AsyncConnection[Any]) -> None:
        await tx.execute("insert into stock values ('apple')")
        begun.append("sell")
        await tx.execute("select pg_sleep(3600)")

    @durable.workflow
    async def thinks() -> None:
        await think()

    @durable.workflow
    async def sells() -> None:
        await sell()

    async with durable.executor():
        handles = [await thinks.start(), await sells.start()]

        async def both() -> bool:
            return sorted(begun) == ["sell", "think"]

        await await_until(both)
        for handle in handles:
            await handle.cancel("stop")
            with pytest.raises(errors.WorkflowCancelled, match="stop"):
                await handle.result(20)
    assert ended == ["think"]
    assert items(stock) == []


def test_the_pause_before_a_retry_ends(durable: Durable, gate: Gate):
    @durable.step(retry=Retry(initial=3600, max_interval=3600, jitter=0))
    def call() -> None:
        gate.reached.set()
        raise ConnectionError

    @durable.workflow
    def order() -> None:
        call()

    with durable.executor():
        handle = order.start()
        gate.wait_reached()
        handle.cancel("stop")
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)


def test_a_branch_that_began_before_the_cancel_does_not_commit_after_it(
    durable: Durable, stock: Connection[Any], gate: Gate
):
    """One branch sees the cancel and takes up its epoch, while the transaction of another is still open.

    The first one is in its clean-up meanwhile, so that nobody has left the other one: only its own epoch stops it.
    """
    inside, cleaning = Gate(), Gate()

    @durable.transaction
    def slow(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('slow')")
        inside.wait()

    @durable.step
    def call() -> None:
        gate.wait()

    @durable.step
    def clean_up() -> None:
        cleaning.wait()

    def branch() -> None:
        try:
            call()
            call()
        finally:
            clean_up()

    @durable.workflow
    def order() -> None:
        gather(slow.bind(), branch)

    with durable.executor():
        handle = order.start()
        gate.wait_reached()
        inside.wait_reached()
        handle.cancel("stop")
        gate.go.set()
        cleaning.wait_reached()
        inside.go.set()
        wait_until(lambda: [error for name, error in journal(handle) if name == "slow"])
        cleaning.go.set()
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)
    assert items(stock) == []
    assert ("slow", "Cancelled: stop") in journal(handle)


# ---- shield ------------------------------------------------------------------------------------------------


def test_shielded_calls_run_and_the_next_one_hears_of_the_cancel(durable: Durable, stock: Connection[Any], gate: Gate):
    runs = []

    @durable.step
    def charge() -> None:
        gate.wait()

    @durable.transaction
    def write(tx: Connection[Any], item: str) -> None:
        runs.append(item)
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def child() -> str:
        write("by a child")
        return "done"

    @durable.workflow
    def order() -> None:
        with shield():
            charge()
            write("inside")
            assert child() == "done"
        write("outside")

    with durable.executor():
        handle = order.start()
        check_cancelled(handle, gate)
    assert items(stock) == ["by a child", "inside"]
    assert runs == ["inside", "by a child"]
    assert journal(handle)[-1] == ("write", "Cancelled: stop")


def test_a_shielded_transaction_that_is_open_when_the_cancel_comes_runs_again(
    durable: Durable, stock: Connection[Any], gate: Gate
):
    runs = []

    @durable.transaction
    def write(tx: Connection[Any]) -> None:
        runs.append(1)
        tx.execute("insert into stock values ('inside')")
        gate.wait()

    @durable.workflow
    def order() -> str:
        with shield():
            write()
        return "not told of it: nothing durable comes after the block"

    with durable.executor():
        handle = order.start()
        check_cancelled(handle, gate)
    assert runs == [1, 1]
    assert items(stock) == ["inside"]


def test_shield_outside_of_a_workflow():
    with pytest.raises(errors.NotInWorkflow, match="no cancel"), shield():
        pass


# ---- children ----------------------------------------------------------------------------------------------


class Family:
    """A parent with three children in the background, and one that it waits for; all wait at a gate."""

    def __init__(self, durable: Durable) -> None:
        self.gate = Gate()
        self.entered: list[str] = []

        @durable.step
        def hold(name: str) -> None:
            self.entered.append(name)
            self.gate.wait()

        @durable.workflow
        def child(name: str) -> str:
            hold(name)
            hold(name)
            return name

        @durable.workflow
        def parent(end: str) -> str:
            child.start("default")
            child.options(parent_close="cancel").start("cancel")
            child.options(parent_close="abandon").start("abandon")
            if end == "wait":
                return child("called")
            wait_until(lambda: len(self.entered) == 3)
            if end == "fail":
                raise ValueError("failed")
            return end

        self.parent = parent


def family_of(connection: Connection[Any]) -> dict[str, str]:
    rows = connection.execute("select input ->> 'name', status from dbdurable.workflows where name = 'child'")
    return dict(rows.fetchall())


def test_a_cancel_reaches_children_but_those_that_are_abandoned(durable: Durable, connection: Connection[Any]):
    family = Family(durable)
    with durable.executor() as executor:
        handle = family.parent.start("wait")
        wait_until(lambda: len(family.entered) == 4)
        handle.cancel("stop")
        assert handle.status() == "running"
        reached = "select count(*) from dbdurable.workflow where interrupt = 'stop'"
        wait_until(lambda: connection.execute(reached).fetchall() == [(4,)])
        family.gate.go.set()
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)
        executor.wait_idle(20)
        wait_until(lambda: connection.execute("select from dbdurable.cascade").fetchall() == [])
    assert family_of(connection) == {
        "default": "cancelled", "cancel": "cancelled", "abandon": "succeeded", "called": "cancelled",
    }  # fmt: skip


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_the_end_of_a_parent_reaches_those_that_end_with_it(durable: Durable, connection: Connection[Any], end: str):
    family = Family(durable)
    with durable.executor() as executor:
        handle = family.parent.start(end)
        reached = "select interrupt from dbdurable.workflow where interrupt is not null"
        status = "failed" if end == "fail" else "succeeded"
        wait_until(lambda: connection.execute(reached).fetchall() == [(f"its parent has ended: {status}",)])
        family.gate.go.set()
        executor.wait_idle(20)
        assert handle.status() == status
    assert family_of(connection) == {"default": "succeeded", "cancel": "cancelled", "abandon": "succeeded"}


def test_children_that_a_clean_up_starts_are_left_alone(durable: Durable, connection: Connection[Any], gate: Gate):
    @durable.step
    def hold() -> None:
        gate.wait()

    @durable.workflow
    def child(name: str) -> str:
        hold()
        return name

    @durable.workflow
    def parent() -> None:
        child.options(delay=3600).start("before")
        try:
            child("called")
        except (Cancelled, errors.WorkflowCancelled):
            child.start("by the clean-up")
            raise

    with durable.executor() as executor:
        handle = parent.start()
        gate.wait_reached()
        handle.cancel("stop")
        wait_until(lambda: connection.execute("select from dbdurable.cascade").fetchall() == [])
        gate.go.set()
        with pytest.raises(errors.WorkflowCancelled):
            handle.result(20)
        executor.wait_idle(20)
    assert family_of(connection) == {"before": "cancelled", "called": "cancelled", "by the clean-up": "succeeded"}


def test_a_row_that_a_stranger_holds_keeps_nobody_else_waiting(
    durable: Durable, connection: Connection[Any], database_url: str
):
    @durable.workflow
    def child(name: str) -> str:
        return name

    @durable.step
    def hold() -> None:
        gate.wait()

    @durable.workflow
    def parent() -> list[UUID]:
        ids = [child.options(delay=3600).start(f"child {n}").id for n in range(5)]
        hold()
        hold()
        return ids

    gate = Gate()
    waiting = "select count(*) from dbdurable.workflow where name = 'child' and status = 'queued'"
    with durable.executor(), psycopg.connect(database_url) as stranger:
        handle = parent.start()
        gate.wait_reached()
        stranger.execute(
            "select from dbdurable.workflow where name = 'child' and input ->> 'name' = 'child 2' for update"
        )
        handle.cancel("stop")
        wait_until(lambda: connection.execute(waiting).fetchall() == [(1,)])
        assert child.start("new").result(20) == "new"
        stranger.rollback()
        wait_until(lambda: connection.execute(waiting).fetchall() == [(0,)])
        gate.go.set()


# ---- deadlines ---------------------------------------------------------------------------------------------


def test_a_running_workflow_is_told_of_its_deadline_and_cleans_up(durable: Durable, stock: Connection[Any]):
    @durable.step
    async def think() -> None:
        await asyncio.Event().wait()

    @durable.transaction
    def clean_up(tx: Connection[Any], why: str) -> None:
        tx.execute("insert into stock values (%s)", [why])

    @durable.workflow(timeout=0.3)
    def order() -> None:
        try:
            think.sync()
        except Cancelled as cancelled:
            clean_up(str(cancelled)[:9])
            raise

    with durable.executor():
        handles = [order.start(), order.options(key="k").start()]
        for handle in handles:
            with pytest.raises(errors.WorkflowCancelled, match="timed out: its deadline was"):
                handle.result(20)
        for direct in (order, order.options(key="direct")):
            with pytest.raises(errors.WorkflowCancelled, match="timed out"):
                direct()
    assert items(stock) == ["timed out"] * 4
    assert stock.execute("select from dbdurable.wait").fetchall() == []


def test_a_parked_workflow_wakes_at_its_deadline(durable: Durable, connection: Connection[Any]):
    @durable.step
    def clean_up() -> None:
        did.append("clean up")

    @durable.workflow(timeout=2)
    def order() -> None:
        try:
            sleep(3600)
        finally:
            clean_up()

    did: list[str] = []
    with durable.executor():
        handle = order.start()
        wait_until(lambda: handle.status() == "waiting")
        with pytest.raises(errors.WorkflowCancelled, match="timed out"):
            handle.result(20)
    assert did == ["clean up"]
    assert connection.execute("select from dbdurable.wait").fetchall() == []


def test_a_workflow_that_never_began_ends_at_its_deadline(durable: Durable, connection: Connection[Any]):
    @durable.workflow
    def later() -> None:
        raise AssertionError

    @durable.workflow
    def other() -> str:
        return "here"

    handles = durable.client.start_many([later.options(timeout=0.1, delay=3600).bind()])
    handles += [later.options(timeout=0.1, queue=durable.queue("nobody")).start()]
    with durable.executor(queues=["default"]):
        for handle in handles:
            with pytest.raises(errors.WorkflowCancelled, match="timed out"):
                handle.result(20)
        assert other.options(timeout=3600).start().result(20) == "here"
    assert connection.execute("select from dbdurable.wait").fetchall() == []


def test_a_child_s_deadline_is_at_most_its_parent_s(durable: Durable):
    seen: dict[str, Any] = {}

    @durable.workflow
    def child(name: str) -> None:
        seen[name] = current_workflow().deadline

    @durable.workflow
    def parent() -> None:
        seen["parent"] = current_workflow().deadline
        child("called")
        child.options(timeout=7200).start("longer").result()
        child.options(timeout=60).start("shorter").result()
        child.options(parent_close="abandon").start("abandoned").result()

    with durable.executor():
        parent.options(timeout=3600).start().result(20)
    assert seen["parent"] - datetime.now(UTC) > timedelta(minutes=59)
    assert seen["called"] == seen["longer"] == seen["parent"]
    assert seen["parent"] - seen["shorter"] > timedelta(minutes=58)
    assert seen["abandoned"] is None


def test_pause_stops_the_clock(durable: Durable, connection: Connection[Any]):
    @durable.workflow
    def order() -> datetime | None:
        return current_workflow().deadline

    handle = order.options(timeout=3600).start()
    due = "select due from dbdurable.wait where kind = 'deadline'"
    before = connection.execute(due).fetchall()[0][0]
    handle.pause()
    assert connection.execute(due).fetchall() == [(None,)]
    connection.execute("update dbdurable.wait set remaining = remaining + interval '1 day'")
    handle.resume()
    after = connection.execute(due).fetchall()[0][0]
    assert after - before >= timedelta(days=1)
    with durable.executor():
        assert handle.result(20) == after


def test_pause_is_for_one_workflow_and_leaves_the_clocks_of_its_children(durable: Durable, connection: Connection[Any]):
    @durable.workflow
    def child() -> None:
        recv("never")

    @durable.workflow
    def parent() -> None:
        child.start()
        recv("go")
        child.start()
        recv("never")

    due = (
        "select t.due from dbdurable.wait t join dbdurable.workflow w on w.id = t.workflow_id where t.kind = 'deadline'"
    )
    mine, theirs = f"{due} and w.name = 'parent'", f"{due} and w.name = 'child' order by w.id"
    parked = "select count(*) from dbdurable.workflow where status = 'waiting'"
    with durable.executor():
        handle = parent.options(timeout=3600).start()
        wait_until(lambda: connection.execute(parked).fetchall() == [(2,)])
        before = connection.execute(theirs).fetchall()
        assert before == connection.execute(mine).fetchall(), "a child's deadline is its parent's"
        handle.pause()
        connection.execute("update dbdurable.wait set remaining = remaining + interval '1 day' where due is null")
        assert connection.execute(theirs).fetchall() == before
        handle.resume()
        handle.send("go", None)
        wait_until(lambda: connection.execute(parked).fetchall() == [(3,)])
        after = connection.execute(mine).fetchall()
        assert connection.execute(theirs).fetchall() == before + after
        assert after[0][0] - before[0][0] >= timedelta(days=1)


@pytest.mark.parametrize("wrong", [-1, float("nan"), 1e12, timedelta(-1), "60", True])
def test_timeouts_that_cannot_be(durable: Durable, connection: Connection[Any], wrong: Any):
    @durable.workflow
    def order() -> None: ...

    with pytest.raises(errors.BadArgument, match="timeout="):
        order.options(timeout=wrong).start()
    assert connection.execute("select from dbdurable.workflow").fetchall() == []


def test_parent_close_is_for_children(durable: Durable, connection: Connection[Any]):
    @durable.workflow
    def order() -> None:
        order.options(parent_close="forget").start()  # type: ignore[typeddict-item]

    with pytest.raises(errors.BadArgument, match="goes with a start in a workflow's body"):
        order.options(parent_close="cancel").start()
    with durable.executor(), pytest.raises(errors.BadArgument, match="'cancel' or 'abandon', not 'forget'"):
        order()


# ---- branches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["def", "async def", "TaskGroup"])
def test_a_cancel_that_one_branch_knows_of_reaches_the_one_that_waits_and_may_clean_up(
    durable: Durable, stock: Connection[Any], monkeypatch: pytest.MonkeyPatch, colour: str
):
    """The shielded branch has taken up the epoch of the cancel when all that is left to do is to wait."""
    monkeypatch.setenv("DBDURABLE_PARK_AFTER_S", "0.02")

    @durable.step
    def stop(id: UUID) -> None:
        durable.client.handle(id).cancel("stop")

    @durable.transaction
    def write(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def order() -> None:
        def waits() -> None:
            try:
                recv("never")
            finally:
                write("cleaned up")

        def stops() -> None:
            with shield():
                stop(current_workflow().id)
                write("shielded")

        gather(waits, stops)

    @durable.workflow
    async def aorder(groups: bool) -> None:
        async def waits() -> None:
            try:
                await aio.recv("never")
            finally:
                await write.aio("cleaned up")

        async def stops() -> None:
            with shield():
                await stop.aio(current_workflow().id)
                await write.aio("shielded")

        if not groups:
            await aio.gather(waits, stops)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(stops())

    with durable.executor():
        handle = order.start() if colour == "def" else aorder.sync.start(colour == "TaskGroup")
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)
    assert items(stock) == ["cleaned up", "shielded"]
    assert ("never", "Cancelled: stop") in journal(handle)
    assert stock.execute("select from dbdurable.wait").fetchall() == []


@pytest.mark.parametrize("colour", ["def", "async def", "TaskGroup"])
def test_a_shield_in_one_branch_holds_while_another_one_has_seen_the_cancel(
    durable: Durable, stock: Connection[Any], gate: Gate, colour: str
):
    @durable.step
    def hold() -> None:
        gate.wait()

    @durable.step
    def call() -> None:
        other.wait()

    @durable.transaction
    def write(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def order() -> None:
        def hears() -> None:
            call()
            call()

        def works() -> None:
            with shield():
                hold()
                gather(lambda: write("shielded"), lambda: sleep(0.01))
            write("outside")

        gather(hears, works)

    @durable.workflow
    async def aorder(groups: bool) -> None:
        async def hears() -> None:
            await call.aio()
            await call.aio()

        async def works() -> None:
            with shield():
                await hold.aio()
                await aio.gather(write.aio.bind("shielded"), aio.sleep(0.01))
            await write.aio("outside")

        if not groups:
            await aio.gather(hears, works)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(works())
            group.create_task(hears())

    other = Gate()
    with durable.executor():
        handle = order.start() if colour == "def" else aorder.sync.start(colour == "TaskGroup")
        gate.wait_reached()
        other.wait_reached()
        handle.cancel("stop")
        other.go.set()
        wait_until(lambda: ("call", "Cancelled: stop") in journal(handle))
        gate.go.set()
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)
    assert items(stock) == ["shielded"]


@pytest.mark.parametrize("colour", ["def", "async def", "TaskGroup"])
def test_a_branch_sees_the_cancel_by_itself_while_another_one_cleans_up(
    durable: Durable, stock: Connection[Any], gate: Gate, colour: str
):
    @durable.step
    def call() -> None:
        other.wait()

    @durable.step
    def work() -> None:
        gate.wait()

    @durable.step
    def clean() -> None:
        cleaning.wait()

    @durable.transaction
    def write(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def order() -> None:
        def hears() -> None:
            try:
                call()
                call()
            finally:
                clean()

        def works() -> None:
            try:
                work()
                write("after the cancel")
            finally:
                gather(write.bind("clean"), write.bind("up"))

        gather(hears, works)

    @durable.workflow
    async def aorder(groups: bool) -> None:
        async def hears() -> None:
            try:
                await call.aio()
                await call.aio()
            finally:
                await clean.aio()

        async def works() -> None:
            try:
                await work.aio()
                await write.aio("after the cancel")
            finally:
                await aio.gather(write.aio.bind("clean"), write.aio.bind("up"))

        if not groups:
            await aio.gather(hears, works)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(hears())
            group.create_task(works())

    other, cleaning = Gate(), Gate()
    with durable.executor():
        handle = order.start() if colour == "def" else aorder.sync.start(colour == "TaskGroup")
        gate.wait_reached()
        other.wait_reached()
        handle.cancel("stop")
        other.go.set()
        cleaning.wait_reached()
        gate.go.set()
        wait_until(lambda: ("write", None) in journal(handle))
        cleaning.go.set()
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)
    assert items(stock) == ["clean", "up"]
    assert journal(handle).count(("clean", None)) == 1


@pytest.mark.parametrize("colour", ["def", "async def"])
def test_a_cancel_does_not_win_a_race(durable: Durable, stock: Connection[Any], gate: Gate, colour: str):
    """What is in a shield goes on, and ends before the race does."""

    @durable.step
    def call() -> None:
        other.wait()

    @durable.step
    def hold() -> None:
        gate.wait()

    @durable.transaction
    def write(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def order() -> None:
        def hears() -> None:
            call()
            call()

        def works() -> None:
            with shield():
                hold()
                write("shielded")

        race(hears, works)
        write("after the cancel")

    @durable.workflow
    async def aorder() -> None:
        async def hears() -> None:
            await call.aio()
            await call.aio()

        async def works() -> None:
            with shield():
                await hold.aio()
                await write.aio("shielded")

        await aio.race(hears, works)
        await write.aio("after the cancel")

    other = Gate()
    with durable.executor():
        handle = order.start() if colour == "def" else aorder.sync.start()
        gate.wait_reached()
        other.wait_reached()
        handle.cancel("stop")
        other.go.set()
        wait_until(lambda: ("call", "Cancelled: stop") in journal(handle))
        gate.go.set()
        with pytest.raises(errors.WorkflowCancelled, match="stop"):
            handle.result(20)
    assert items(stock) == ["shielded"]
