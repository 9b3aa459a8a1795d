"""A step that failed and is to be tried much later: its workflow is parked, and no crash starts the count anew."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, Retry, RetryAfter, aio, current_step, race, recv, saga, sleep, timeout
from dbdurable._sql.inspect import SHOW_JSON
from dbdurable.errors import Cancelled, WaitTimeout, WorkflowCancelled
from dbdurable.testing import Harness
from tests.support.wait import wait_until
from tests.waiting.conftest import Connection, Parked, make_due

HOURLY = Retry(4, initial=timedelta(hours=1), factor=1, max_interval=timedelta(hours=1))


class Gateway:
    """What fails so many times, and notes the number of each attempt."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.attempts: list[int] = []

    def charge(self) -> str:
        self.attempts.append(current_step().attempt)
        if len(self.attempts) <= self.failures:
            raise ConnectionError(f"no answer, {len(self.attempts)}")
        return "paid"


def made(gateway: Gateway, attempts: int) -> None:
    """Waits until so many attempts were made."""
    wait_until(lambda: len(gateway.attempts) == attempts, what=f"attempt {attempts}")


def reasons(connection: Connection) -> list[Any]:
    """What people see of the retries that are waited for."""
    return [row[0] for row in connection.execute("select subject from dbdurable.waiting where kind = 'retry'")]


def orders(durable: Durable, gateway: Gateway) -> dict[str, Any]:
    """A workflow of each kind of call whose gateway is away."""

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.step(retry=HOURLY)
    async def acharge() -> str:
        return gateway.charge()

    @durable.transaction(retry=HOURLY)
    def save(tx: psycopg.Connection[Any]) -> str:
        tx.execute("insert into paid values (1)")
        return gateway.charge()

    @durable.transaction(retry=HOURLY)
    async def asave(tx: psycopg.AsyncConnection[Any]) -> str:
        await tx.execute("insert into paid values (1)")
        return gateway.charge()

    @durable.workflow
    def step_() -> str:
        return charge()

    @durable.workflow
    async def async_step() -> str:
        return await acharge()

    @durable.workflow
    def transaction() -> str:
        return save()

    @durable.workflow
    async def async_transaction() -> str:
        return await asave()

    @durable.workflow
    async def adef() -> str:
        return await charge.aio()

    @durable.workflow
    async def adef_transaction() -> str:
        return await save.aio()

    @durable.workflow
    def defa() -> str:
        return acharge.sync()

    @durable.workflow
    def defa_transaction() -> str:
        return asave.sync()

    return {
        "def step in async body": adef.sync, "def transaction in async body": adef_transaction.sync,
        "async step in def body": defa, "async transaction in def body": defa_transaction,
        "step": step_, "async step": async_step.sync, "transaction": transaction,
        "async transaction": async_transaction.sync, "step alone": charge, "transaction alone": save,
        "async step alone": acharge.sync,
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        "step", "async step", "transaction", "async transaction", "step alone", "async step alone", "transaction alone",
        "def step in async body", "async step in def body", "def transaction in async body",
        "async transaction in def body",
    ],
)  # fmt: skip
def test_it_holds_nothing_and_goes_on_counting(
    durable: Durable, connection: Connection, parked: Parked, kind: str
) -> None:
    connection.execute("create table paid (id integer)")
    gateway = Gateway(failures=2)
    order = orders(durable, gateway)[kind]
    with durable.executor() as executor:
        handle = order.start()
        for number, times in enumerate(("once", "2 times, last"), start=1):
            made(gateway, number)
            [(_, what, reason)] = parked(handle)
            assert what == "retry"
            assert reason.endswith(f" failed {times} with ConnectionError: no answer, {number}")
            assert reasons(connection) == [reason]
            assert executor.attempts.names() == []
            make_due(connection, handle.id)
        assert handle.result(timeout=20) == "paid"
    assert gateway.attempts == [1, 2, 3]
    assert [(step.attempts, step.error) for step in handle.steps()] == [(3, None)]
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)
    assert connection.execute("select count(*) from paid").fetchone() == (int("transaction" in kind),)


@pytest.mark.parametrize("kind", ["async step", "def step in async body"])
async def test_called_from_another_loop(durable: Durable, connection: Connection, parked: Parked, kind: str) -> None:
    gateway = Gateway(failures=1)
    order = orders(durable, gateway)[kind]
    executor = durable.executor()
    await asyncio.to_thread(executor.open)  # its own loop, while the body runs on this one
    called = asyncio.create_task(order.aio())
    await asyncio.to_thread(made, gateway, 1)
    (id,) = await asyncio.to_thread(lambda: connection.execute("select id from dbdurable.workflow").fetchone() or ())
    assert [wait[1] for wait in await asyncio.to_thread(parked, order.handle(id=id))] == ["retry"]
    make_due(connection, id)
    assert await called == "paid"
    await asyncio.to_thread(executor.close)
    assert gateway.attempts == [1, 2]


def test_the_last_error_is_recorded_whoever_made_the_attempts(
    durable: Durable, connection: Connection, parked: Parked, database_url: str
) -> None:
    gateway = Gateway(failures=99)
    other = Durable(database_url)
    order = orders(durable, gateway)["step"]
    orders(other, gateway)
    with durable.executor():
        handle = order.start()
        parked(handle)
    for number in (2, 3, 4):
        make_due(connection, handle.id)
        with other.executor():
            made(gateway, number)
    with pytest.raises(ConnectionError, match="no answer, 4"):
        handle.result(timeout=20)
    other.close()
    assert gateway.attempts == [1, 2, 3, 4]


def test_the_only_thread_works_for_others_meanwhile(durable: Durable, connection: Connection, parked: Parked) -> None:
    gateway = Gateway(failures=1)
    order = orders(durable, gateway)["step"]

    @durable.workflow
    def other() -> str:
        return "done"

    with durable.executor(threads=1):
        handle = order.start()
        parked(handle)
        assert other.start().result(timeout=20) == "done"
        make_due(connection, handle.id)
        assert handle.result(timeout=20) == "paid"


def test_what_it_waited_for_does_not_wake_it_later(durable: Durable, connection: Connection, parked: Parked) -> None:
    gateway, bodies = Gateway(failures=1), []

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.workflow
    def order() -> str:
        bodies.append(1)
        charge()
        sleep(timedelta(days=30))
        return recv("shipped", str)

    with durable.executor():
        handle = order.start()
        parked(handle)
        make_due(connection, handle.id)
        made(gateway, 2)
        assert [kind for _, kind, _ in parked(handle)] == ["sleep"]
        make_due(connection, handle.id)
        wait_until(lambda: len(bodies) == 3, what="the end of the sleep")
        assert [kind for _, kind, _ in parked(handle)] == ["message"]
        handle.send("shipped", "yes")
        assert handle.result(timeout=20) == "yes"
    assert len(bodies) == 4


def test_nobody_is_told_of_a_retry_that_is_over(durable: Durable, connection: Connection, parked: Parked) -> None:
    gateway, go_on = Gateway(failures=1), threading.Event()

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.step
    def pack() -> None:
        assert go_on.wait(20)

    @durable.workflow
    def order() -> None:
        charge()
        pack()

    def shown() -> list[Any]:
        [(row,)] = psycopg.RawCursor(connection).execute(SHOW_JSON.render("dbdurable"), [handle.id]).fetchall()
        return [wait["kind"] for wait in json.loads(row)["waits"]]

    with durable.executor():
        handle = order.start()
        parked(handle)
        assert shown() == ["retry"]
        make_due(connection, handle.id)
        wait_until(lambda: len(handle.steps()) == 1, what="its record")
        assert connection.execute("select kind::text from dbdurable.wait").fetchall() == [("retry",)]
        assert shown() == []
        with connection.transaction(force_rollback=True):
            connection.execute("update dbdurable.workflow set status = 'queued'")
            assert reasons(connection) == []
        go_on.set()
        handle.result(timeout=20)


def test_a_cancel_ends_it(durable: Durable, parked: Parked) -> None:
    gateway, seen = Gateway(failures=99), []

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.workflow
    def order() -> str:
        try:
            return charge()
        except Cancelled as cancelled:
            seen.append(str(cancelled))
            raise

    with durable.executor():
        handle = order.start()
        parked(handle)
        handle.cancel("changed my mind")
        with pytest.raises(WorkflowCancelled):
            handle.result(timeout=20)
    assert (gateway.attempts, seen) == ([1], ["changed my mind"])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_time_of_a_block_ends_it(durable: Durable, parked: Parked, is_async: bool) -> None:
    gateway = Gateway(failures=99)

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.workflow
    def order() -> str:
        try:
            with timeout(0.3):
                return charge()
        except WaitTimeout:
            return "by hand"

    @durable.workflow
    async def aorder() -> str:
        try:
            with timeout(0.3):
                return await charge.aio()
        except WaitTimeout:
            return "by hand"

    with durable.executor():
        handle = aorder.sync.start() if is_async else order.start()
        assert handle.result(timeout=20) == "by hand"
    assert gateway.attempts == [1]
    assert [(step.name, step.error is None) for step in handle.steps()][-1] == ("charge", False)


def test_pause_stops_its_clock(durable: Durable, connection: Connection, parked: Parked) -> None:
    gateway = Gateway(failures=1)
    order = orders(durable, gateway)["step"]
    with durable.executor():
        handle = order.start()
        parked(handle)
        handle.pause()
        assert connection.execute("select due, remaining > '1 min' from dbdurable.wait").fetchone() == (None, True)
        handle.resume()
        parked(handle)
        assert gateway.attempts == [1]
        make_due(connection, handle.id)
        assert handle.result(timeout=20) == "paid"


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_other_branches_go_on_meanwhile(
    durable: Durable, connection: Connection, parked: Parked, colour: str
) -> None:
    gateway, go_on, ran = Gateway(failures=2), asyncio.Event(), []

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.step(retry=HOURLY)
    async def acharge() -> str:
        return gateway.charge()

    @durable.step
    async def pack() -> str:
        ran.append("pack")
        await go_on.wait()
        return "packed"

    @durable.workflow
    async def order() -> list[str]:
        return list(await asyncio.gather(charge.aio() if colour == "def" else acharge(), pack()))

    def kept() -> list[Any]:
        return connection.execute("select kind::text, attempts from dbdurable.wait").fetchall()

    async with durable.executor():
        handle = await order.start()
        await asyncio.to_thread(wait_until, lambda: kept() == [("retry", 1)], what="the wait of the first attempt")
        go_on.set()  # nothing else of it can move now
        assert [wait[1] for wait in await asyncio.to_thread(parked, handle)] == ["retry"]
        make_due(connection, handle.id)
        await asyncio.to_thread(wait_until, lambda: kept() == [("retry", 2)], what="the second attempt")
        await asyncio.to_thread(parked, handle)
        make_due(connection, handle.id)
        assert await handle.result(timeout=20) == ["paid", "packed"]
    assert (gateway.attempts, ran) == ([1, 2, 3], ["pack"])


def test_a_branch_that_lost_its_race_is_not_tried_again(
    durable: Durable, connection: Connection, parked: Parked
) -> None:
    gateway = Gateway(failures=99)

    @durable.step(retry=HOURLY)
    def charge() -> str:
        return gateway.charge()

    @durable.workflow
    def order() -> str:
        def by_hand() -> str:
            return recv("paid", str)

        return race(charge.bind(), by_hand)[1]

    with durable.executor():
        handle = order.start()
        assert sorted(kind for _, kind, _ in parked(handle)) == ["message", "retry"]
        handle.send("paid", "cash")
        assert handle.result(timeout=20) == "cash"
    assert gateway.attempts == [1]
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)


@pytest.mark.parametrize("colours", ["sync", "async", "def in async"])
def test_a_compensation_that_fails_is_parked_too(
    durable: Durable, connection: Connection, parked: Parked, colours: str
) -> None:
    gateway = Gateway(failures=0)
    away = threading.Event()
    away.set()

    def give_back() -> None:
        gateway.charge()
        if away.is_set():
            raise RetryAfter(3600)

    @durable.step
    def refund() -> None:
        give_back()

    @durable.step
    async def arefund() -> None:
        give_back()

    @durable.workflow
    def order() -> None:
        with saga() as s:
            s.undo(refund)
            raise LookupError("sold out")

    @durable.workflow
    async def aorder() -> None:
        async with aio.saga() as s:
            s.undo(refund if colours == "def in async" else arefund)
            raise LookupError("sold out")

    with durable.executor() as executor:
        handle = order.start() if colours == "sync" else aorder.sync.start()
        [(_, kind, reason)] = parked(handle)
        assert kind == "retry"
        assert reason.startswith("compensation ")
        assert executor.attempts.names() == []
        away.clear()
        make_due(connection, handle.id)
        with pytest.raises(LookupError, match="sold out"):
            handle.result(timeout=20)
    assert gateway.attempts == [1, 2]


def test_tests_need_not_wait_for_it(durable_harness: Harness) -> None:
    durable, gateway = Durable(), Gateway(failures=3)
    order = orders(durable, gateway)["step"]
    with durable_harness.run(durable):
        handle = order.start()
        durable_harness.advance(hours=1)
        assert len(gateway.attempts) == 2
        durable_harness.advance(hours=2)
        assert handle.result(timeout=20) == "paid"
    assert gateway.attempts == [1, 2, 3, 4]
