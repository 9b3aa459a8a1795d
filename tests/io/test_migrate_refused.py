"""When migrations are refused: each time a sentence that says what to do, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from dbdurable._io import migrate as runner
from dbdurable._io.migrate import check, load_migrations, migrate, migration_sql, pending
from dbdurable.errors import BadConfiguration, DatabaseUnavailable, SchemaMismatch

Connection = psycopg.Connection[Any]
ALL = [m.name for m in load_migrations()]


def test_edited_file(connection: Connection):
    connection.execute("update dbdurable.migration set checksum = 'other' where version = 1")
    for call in (migrate, check, pending):
        with pytest.raises(SchemaMismatch, match=rf"{ALL[0]} was edited after it was applied"):
            call(connection, "dbdurable")


def test_database_newer_than_the_package(connection: Connection):
    connection.execute("insert into dbdurable.migration values (9998, '9998_later.sql', 'x', now(), 0)")
    for call in (migrate, check):
        with pytest.raises(SchemaMismatch, match=r"9998 \(9998_later.sql\); upgrade dbdurable"):
            call(connection, "dbdurable")


def test_database_older_and_migrating_is_off(connection: Connection, empty_connection: Connection):
    connection.execute("delete from dbdurable.migration where version = %s", (len(ALL),))
    with pytest.raises(SchemaMismatch, match=rf"lacks {ALL[-1]}: run `dbdurable migrate`"):
        check(connection, "dbdurable")
    with pytest.raises(SchemaMismatch, match="run `dbdurable migrate`"):
        check(empty_connection, "dbdurable")


@pytest.mark.parametrize(
    "table",
    ["migration (id int)", "migration (version text, name text, checksum text)", "orders ()"],
)
def test_schema_of_somebody_else(empty_connection: Connection, table: str):
    empty_connection.execute(f"create schema theirs; create table theirs.{table}")
    if "checksum" in table:
        empty_connection.execute("insert into theirs.migration values ('v1', 'users', 'x')")
    with pytest.raises(SchemaMismatch, match=f"not dbdurable's \\({table.split()[0]}\\): choose a schema of its own"):
        migrate(empty_connection, "theirs")
    assert empty_connection.execute(
        "select count(*) from pg_class where relnamespace = 'theirs'::regnamespace"
    ).fetchone() == (1,)


@pytest.mark.parametrize("schema", ["user", "order", "_", "a" * 48])
def test_odd_but_good_schema_names(empty_connection: Connection, schema: str):
    assert migrate(empty_connection, schema) == ALL
    check(empty_connection, schema)


@pytest.mark.parametrize("schema", ['a"; drop schema public; --', "a'b", "a.b", "", "A", "a b", "a" * 49, "a\n", "é"])
def test_hostile_schema_names_reach_no_database(empty_connection: Connection, schema: str):
    for call in (
        lambda: migrate(empty_connection, schema),
        lambda: check(empty_connection, schema),
        lambda: migration_sql(schema),
    ):
        with pytest.raises(BadConfiguration):
            call()


def test_read_only_database(empty_connection: Connection):
    empty_connection.execute("set default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        migrate(empty_connection, "dbdurable")


def test_old_server(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "SERVER_VERSION_MIN", 99)
    with pytest.raises(DatabaseUnavailable, match=r"PostgreSQL \d+.* is too old: dbdurable needs 99 or newer"):
        migrate(connection, "dbdurable")


def test_lost_connection(empty_connection: Connection, administrator: Connection):
    administrator.execute("select pg_terminate_backend(%s)", (empty_connection.info.backend_pid,))
    with pytest.raises(DatabaseUnavailable, match="database dbdurable_test_"):
        migrate(empty_connection, "dbdurable")


# ---- privileges and scripts --------------------------------------------------------------------------------


@pytest.fixture
def role(administrator: Connection) -> Iterator[str]:
    name = f"dbdurable_test_{uuid4().hex[:8]}"
    administrator.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
    yield name
    administrator.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_missing_privileges(empty_connection: Connection, role: str):
    empty_connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    with pytest.raises(SchemaMismatch, match=r"owner run `dbdurable migrate --sql --schema dbdurable \| psql"):
        migrate(empty_connection, "dbdurable")
    empty_connection.execute("reset role")
    migrate(empty_connection, "dbdurable")
    empty_connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    with pytest.raises(SchemaMismatch, match="permission denied for schema dbdurable"):
        check(empty_connection, "dbdurable")


def test_a_schema_made_by_the_administrator_is_enough(empty_connection: Connection, role: str):
    empty_connection.execute(sql.SQL("create schema app authorization {}").format(sql.Identifier(role)))
    empty_connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    assert migrate(empty_connection, "app") == ALL
    empty_connection.execute("reset role; drop schema app cascade")
