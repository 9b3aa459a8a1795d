"""A workflow and its tests: `python -m pytest examples/test_shop.py`."""

from decimal import Decimal

import psycopg
import pytest
from psycopg import Connection

from dbdurable import Durable, Retry, current_step, get_logger
from dbdurable.testing import Harness

durable = Durable()
logger = get_logger(__name__)


@durable.transaction
def reserve(tx: Connection, item: str) -> Decimal:
    """Exactly once: the stock, the order and the record of this step are one commit."""
    update = "update stock set pieces = pieces - 1 where item = %s and pieces > 0 returning price"
    row = tx.execute(update, [item]).fetchone()
    if row is None:
        raise LookupError(f"no {item} left")
    tx.execute("insert into orders (item) values (%s)", [item])
    return Decimal(row[0])


@durable.step(retry=Retry(5, initial=0.01))
def charge(amount: Decimal) -> str:
    """At least once, under one key: calls the payment service."""
    return f"receipt {current_step().idempotency_key}: {amount}"


@durable.workflow
def buy(item: str) -> str:
    amount = reserve(item)
    logger.info("reserved %s for %s", item, amount)
    return charge(amount)


# ---- tests -------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(durable_harness: Harness) -> Harness:
    with psycopg.connect(durable_harness.url) as connection:
        connection.execute("create table stock (item text primary key, pieces integer, price numeric)")
        connection.execute("create table orders (id serial, item text)")
        connection.execute("insert into stock values ('kettle', 1, 39)")
    return durable_harness


def test_a_step_is_a_function() -> None:
    assert charge.fn(Decimal(39)).endswith(": 39")


def test_the_payment_service_is_down_for_a_while(shop: Harness) -> None:
    shop.mock(charge, returns="r-1")
    shop.fail(charge, ConnectionError("down"), times=2)
    with shop.run(durable):
        handle = buy.start("kettle")
        assert handle.result(timeout=30) == "r-1"
        assert [(step.name, step.attempts) for step in handle.steps()] == [("reserve", 1), ("charge", 3)]


def test_sold_out(shop: Harness) -> None:
    with shop.run(durable):
        buy("kettle")
        with pytest.raises(LookupError, match="no kettle left"):
            buy("kettle")


def test_a_crash_anywhere_changes_nothing(shop: Harness) -> None:
    shop.mock(charge, returns="r-1")
    shop.crash_everywhere(buy.bind("kettle"), compare=["stock", "select item from orders"])
