"""One application on a fresh database, its `stock` table, and a count of every row of the library's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest

Connection = psycopg.Connection[Any]
Unchanged = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def stock(connection: Connection) -> Connection:
    """A table of the application's: stock(item primary key)."""
    connection.execute("create table stock (item text primary key)")
    return connection


def rows_by_table(connection: Connection) -> dict[str, int]:
    """How many rows each table of the library holds."""
    names = [name for (name,) in connection.execute("select tablename from pg_tables where schemaname = 'dbdurable'")]
    counts = " union all ".join(f"select '{name}', count(*) from dbdurable.{name}" for name in names)
    return dict(connection.execute(counts).fetchall())


@pytest.fixture
def unchanged(connection: Connection) -> Unchanged:
    """`with unchanged():` what happens inside leaves no row in any of the library's tables."""

    @contextmanager
    def block() -> Iterator[None]:
        before = rows_by_table(connection)
        yield
        assert rows_by_table(connection) == before

    return block
