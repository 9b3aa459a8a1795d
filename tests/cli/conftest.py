"""One database with a few finished workflows for all tests that only look; and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from pytest_postgresql.executors import NoopExecutor
from typer.testing import CliRunner, Result

from dbdurable import Durable
from dbdurable.cli.commands import app
from tests.support.databases import Clone

Cli = Callable[..., Result]


@pytest.fixture
def cli() -> Cli:
    """Runs the command line here: `cli("list", "--json", url=...)`; 100 columns wide."""

    def run(*arguments: str, url: str | None = None, input: str | None = None) -> Result:
        os.environ["COLUMNS"] = "100"
        location = [] if url is None else ["--url", url]
        try:
            return CliRunner().invoke(app, [*arguments[:1], *location, *arguments[1:]], input=input)
        finally:
            del os.environ["COLUMNS"]

    return run


class Shop:
    """A database with one workflow of each kind of end, and their ids."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ids: dict[str, str] = {}


@pytest.fixture(scope="module")
def shop(administrator: psycopg.Connection[Any], postgresql_template: NoopExecutor) -> Iterator[Shop]:
    with Clone(administrator, postgresql_template, postgresql_template.template_dbname) as clone:
        made = Shop(clone.url)
        durable = Durable(clone.url)

        @durable.transaction(name="reserve")
        def reserve(tx: Connection[Any], order_id: int) -> Decimal:
            return Decimal("12.50")

        @durable.step(name="charge")
        def charge(order_id: int) -> str:
            if order_id == 13:
                raise ValueError("card 13 was refused")
            return f"receipt-{order_id}"

        @durable.workflow(name="checkout")
        def checkout(order_id: int, gift: bool = False) -> dict[str, str]:
            return {"amount": str(reserve(order_id)), "receipt": charge(order_id)}

        with durable.executor(threads=2, tasks=1) as executor:
            made.ids["succeeded"] = str(checkout.options(key="order-42").start(42, gift=True).id)
            made.ids["failed"] = str(checkout.start(13).id)
            executor.wait_idle(20)
        durable.queue("slow")
        made.ids["queued"] = str(checkout.start(7).id)
        made.ids["cancelled"] = str(checkout.options(queue="slow").start(8).id)
        durable.client.handle(made.ids["cancelled"]).cancel("changed my mind")
        durable.close()
        yield made
