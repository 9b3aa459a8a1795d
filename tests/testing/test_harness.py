"""The harness that users test their workflows with, on an application as users write it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from dbdurable import Durable, Retry
from dbdurable.errors import BadArgument, NotRunning
from dbdurable.testing import Harness

durable = Durable("postgresql://nobody@localhost:1/nowhere")
other = Durable()


@durable.transaction
def reserve(tx: Connection, item: str) -> int:
    row = tx.execute(
        "update stock set left_over = left_over - 1 where item = %s returning left_over", [item]
    ).fetchone()
    tx.execute("insert into orders (item) values (%s)", [item])
    assert row is not None
    return int(row[0])


@durable.step(retry=Retry(3, initial=0.001))
def charge(item: str, amount: Decimal) -> str:
    raise AssertionError("the real gateway was called")


@durable.workflow
def checkout(item: str) -> str:
    left = reserve(item)
    return f"{charge(item, Decimal(left))} {left}"


@durable.transaction
async def areserve(tx: AsyncConnection, item: str) -> None:
    await tx.execute("insert into orders (item) values (%s)", [item])


@durable.step
async def acharge(item: str) -> str:
    raise AssertionError("the real gateway was called")


@durable.workflow
async def order(item: str) -> list[Any]:
    await areserve(item)
    return list(await asyncio.gather(acharge(item), acharge(item)))


@pytest.fixture
def harness(durable_harness: Harness) -> Harness:
    with psycopg.connect(durable_harness.url) as connection:
        connection.execute("create table stock (item text primary key, left_over integer)")
        connection.execute("create table orders (id serial, item text)")
        connection.execute("insert into stock values ('tea', 5)")
    return durable_harness


def orders(harness: Harness) -> list[tuple[Any, ...]]:
    with psycopg.connect(harness.url) as connection:
        return connection.execute("select item from orders order by id").fetchall()


def test_a_mock_is_recorded_and_everything_comes_back(harness: Harness) -> None:
    before = durable._runtime.configuration.url
    harness.mock(charge, returns="r-1")
    with harness.run(durable) as executor:
        assert checkout("tea") == "r-1 4"
        handle = checkout.start("tea")
        executor.wait_idle(30)
        assert handle.result() == "r-1 3"
        assert [step.name for step in handle.steps()] == ["reserve", "charge"]
    assert orders(harness) == [("tea",), ("tea",)]
    assert durable._runtime.configuration.url == before
    with pytest.raises(NotRunning):
        checkout("tea")
    harness.__exit__()
    harness.__enter__()
    with pytest.raises(AssertionError, match="real gateway"):
        charge.fn("tea", Decimal(1))


def test_failures_are_retried_and_go_on_to_what_was_there(harness: Harness) -> None:
    harness.mock(charge, returns="r-2")
    harness.fail(charge, ConnectionError("down"), times=2)
    with harness.run(durable):
        handle = checkout.start("tea")
        assert handle.result(timeout=30) == "r-2 4"
        assert [step.attempts for step in handle.steps()] == [1, 3]


def test_a_failure_that_retries_do_not_outlive(harness: Harness) -> None:
    harness.fail(charge, ConnectionError("down"), times=3)
    with harness.run(durable), pytest.raises(ConnectionError, match="down"):
        checkout("tea")
    assert orders(harness) == [("tea",)]


async def test_asynchronous_functions(harness: Harness) -> None:
    harness.mock(acharge, returns="r-3")
    harness.fail(areserve, ValueError("no"))
    with harness.run(durable):
        with pytest.raises(ValueError, match="no"):
            await order("tea")
        assert await order("tea") == ["r-3", "r-3"]
    assert orders(harness) == [("tea",)]


def test_each_test_has_a_database_of_its_own(durable_harness: Harness) -> None:
    with psycopg.connect(durable_harness.url) as connection:
        tables = connection.execute("select count(*) from pg_tables where tablename = 'stock'").fetchone()
        workflows = connection.execute("select count(*) from dbdurable.workflow").fetchone()
    assert (tables, workflows) == ((0,), (0,))


def test_another_schema(durable_harness: Harness) -> None:
    elsewhere = Durable(schema="shop", migrate=False)

    @elsewhere.workflow
    def one() -> int:
        return 1

    with durable_harness.run(elsewhere):
        assert one() == 1
    with psycopg.connect(durable_harness.url) as connection:
        assert connection.execute("select count(*) from shop.workflow").fetchone() == (1,)


# ---- crashes -----------------------------------------------------------------------------------------------


def test_crash_everywhere(harness: Harness) -> None:
    harness.mock(charge, returns="r-1")
    harness.crash_everywhere(checkout.bind("tea"), compare=["stock", "select item from orders"])
    assert orders(harness) == []  # it works on copies


def test_crash_everywhere_in_async_code(harness: Harness) -> None:
    harness.mock(acharge, returns="r-1")
    harness.crash_everywhere(order.bind("tea"), compare=["select item from orders"])


def shopping() -> str:
    handle = checkout.options(key="in the background").start("tea")
    return f"{checkout.options(key='here')('tea')[:3]} {handle.result(timeout=30)[:3]}"


async def ashopping(item: str) -> str:
    handle = await order.options(key="in the background").start(item)
    return f"{await order.options(key='here')(item)} {await handle.result(timeout=30)}"


class Shop:
    """Something of the application's with its workflows in it."""

    def __init__(self) -> None:
        self.checkout = checkout

    def sell(self) -> str:
        return self.checkout.options(key="sold")("tea")


def test_crash_everywhere_in_a_function_that_calls_workflows(harness: Harness) -> None:
    harness.mock(charge, returns="r-1")
    harness.crash_everywhere(shopping, compare=["stock", "select item from orders"])
    harness.crash_everywhere(Shop().sell, compare=["stock", "select item from orders"])


def test_crash_everywhere_in_an_async_function(harness: Harness) -> None:
    harness.mock(acharge, returns="r-1")
    harness.crash_everywhere(partial(ashopping, "tea"), compare=["select item from orders"])


def test_crash_everywhere_finds_a_function_that_starts_twice(harness: Harness) -> None:
    harness.mock(charge, returns="r-1")
    with pytest.raises(AssertionError, match=r"crash at .* differs: too many"):
        harness.crash_everywhere(lambda: checkout.start("tea").result(timeout=30)[:3], compare=["stock"])


@durable.step
def write_without_transaction(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("insert into orders (item) values ('again')")


@durable.workflow
def careless(database: str) -> None:
    write_without_transaction(durable.url)


def test_crash_everywhere_finds_what_is_done_twice(harness: Harness) -> None:
    with pytest.raises(AssertionError, match=r"crash at caller: .*, select item from orders differs.*again"):
        harness.crash_everywhere(careless.bind("x"), compare=["select item from orders"])


@pytest.fixture
def busy(harness: Harness) -> Iterator[Harness]:
    with psycopg.connect(harness.url):
        yield harness


def test_crash_everywhere_says_what_it_cannot_do(busy: Harness) -> None:
    with pytest.raises(BadArgument, match=r"close every connection to harness\.url"):
        busy.crash_everywhere(checkout.bind("tea"), compare=[])
    for wrong, message in (
        (lambda: None, "sees none by the names in it"),
        (lambda: (checkout, other), "sees 2 by the names in it"),
        (charge.bind("tea", Decimal(1)), "charge is a step"),
        (42, "takes something to call, not 42"),
    ):
        with pytest.raises(BadArgument, match=message):
            busy.crash_everywhere(wrong, compare=[])  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="compare= takes a list"):
        busy.crash_everywhere(checkout.bind("tea"), compare="stock")
    with busy.run(durable), pytest.raises(BadArgument, match="before or after"):
        busy.crash_everywhere(checkout.bind("tea"), compare=[])
    with pytest.raises(BadArgument, match="take a decorated function"):
        busy.mock(len, returns=1)  # type: ignore[arg-type]
