"""Workflows that are called rather than started: born running, their start on the first commit."""

import threading
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection

from dbdurable import Durable, errors

CHOSEN = UUID("01999999-0000-7000-8000-000000000001")


def test_a_call_with_an_id_runs_once(durable: Durable) -> None:
    charged = []

    @durable.step
    def charge(n: int) -> int:
        charged.append(n)
        return n

    @durable.workflow
    def checkout(n: int) -> int:
        return charge(n)

    with durable.executor():
        assert checkout.options(id=CHOSEN)(1) == 1
        assert checkout.options(id=CHOSEN)(1) == 1
    assert charged == [1]


def test_two_calls_with_one_id_at_once_run_once(durable: Durable) -> None:
    charged: list[int] = []
    together = threading.Barrier(2)

    @durable.step
    def charge(n: int) -> int:
        charged.append(n)
        return n

    @durable.workflow
    def checkout(n: int) -> int:
        return charge(n)

    results: list[int] = []

    def call() -> None:
        together.wait(30)
        results.append(checkout.options(id=CHOSEN)(1))

    with durable.executor():
        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == [1, 1]
    assert charged == [1]


def test_a_call_whose_first_transaction_fails_is_still_recorded(
    durable: Durable, connection: psycopg.Connection
) -> None:
    @durable.transaction
    def refuse(tx: Connection) -> None:
        raise ValueError("no")

    @durable.workflow
    def one() -> None:
        refuse()

    with durable.executor(), pytest.raises(ValueError, match="no"):
        one()
    assert connection.execute("select status, error_message from dbdurable.workflows").fetchall() == [("failed", "no")]
    assert connection.execute("select name, status from dbdurable.steps").fetchall() == [("refuse", "failed")]


def test_nothing_is_written_for_a_call_that_cannot_begin(durable: Durable, connection: psycopg.Connection) -> None:
    @durable.workflow
    def one(n: int) -> None:
        pass

    with durable.executor(), pytest.raises(errors.BadArgument):
        one("x")  # type: ignore[arg-type]
    assert connection.execute("select count(*) from dbdurable.workflow").fetchone() == (0,)


def test_an_outside_step_never_precedes_the_start(durable: Durable, connection: psycopg.Connection) -> None:
    seen = []

    @durable.step
    def look() -> None:
        seen.extend(connection.execute("select status from dbdurable.workflows").fetchall())

    @durable.workflow
    def one() -> None:
        look()

    with durable.executor():
        one()
    assert seen == [("running",)]
