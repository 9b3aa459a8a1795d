"""The record and its COMMIT go out prepared: what a session knows must be what the library thinks it knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection

from dbdurable import Durable, current_workflow
from dbdurable.errors import WorkflowCancelled


@pytest.fixture
def durable(database_url: str, connection: psycopg.Connection[Any]) -> Iterator[Durable]:
    connection.execute("create table booking (number integer)")
    durable = Durable(database_url, migrate=False)
    yield durable
    durable.close()


def test_a_refused_record_leaves_its_statement_prepared_and_the_session_usable(
    durable: Durable, connection: psycopg.Connection[Any]
) -> None:
    def cancel(id: UUID) -> None:
        connection.execute("select dbdurable.cancel(%s, 'no more')", [id])

    @durable.transaction
    def book(tx: Connection, number: int, cancelled: bool) -> int:
        tx.execute("insert into booking values (%s)", [number])
        if cancelled:
            cancel(current_workflow().id)
        return number

    @durable.workflow
    def one(number: int, cancelled: bool) -> int:
        return book(number, cancelled)

    with durable.executor(threads=1):
        with pytest.raises(WorkflowCancelled):
            one.options(key="one")(1, True)  # fenced at the session's first record: prepared, and then refused
        assert one(2, False) == 2
    assert connection.execute("select number from booking").fetchall() == [(2,)]


def test_a_body_that_forgets_prepared_statements_is_run_again(
    durable: Durable, connection: psycopg.Connection[Any]
) -> None:
    runs: list[int] = []

    @durable.transaction
    def book(tx: Connection, number: int) -> int:
        runs.append(number)
        tx.execute("insert into booking values (%s)", [number])
        if runs.count(number) == 1:
            tx.execute("deallocate all")
        return number

    @durable.workflow
    def one(number: int) -> int:
        return book(number)

    with durable.executor(threads=1):
        assert [one(number) for number in (1, 2)] == [1, 2]
    assert connection.execute("select number from booking").fetchall() == [(1,), (2,)]
