"""Brings a schema to the version that this package was written for.

`migrations/NNNN_name.sql` are applied in order, once, by whoever comes first; a ledger table remembers them
with their checksums. All pending files share one transaction, so a crash leaves nothing half done. Who finds
the lock taken looks at the ledger again instead of queueing for the lock: a backend that waits for a lock
holds a snapshot, and `create index concurrently` would wait for that in turn.

A file that cannot run in a transaction starts with `-- transaction: no`, separates its statements by lines
`-- statement`, and must be repeatable (`if not exists`), because a crash can leave a part of it done. It
needs a connection of its own to the server (no pooler in transaction mode).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import Connection, Cursor
from psycopg.rows import TupleRow, tuple_row

from dbdurable._io.connect import connection_error
from dbdurable._io.migration_files import (
    CREATE_LEDGER,
    LOCK_KEY,
    LOCK_TIMEOUT_S,
    SETTINGS,
    Migration,
    load_migrations,
    migration_sql,
    record,
    render,
)
from dbdurable.errors import DatabaseUnavailable, DurableError, SchemaMismatch

__all__ = ["Migration", "check", "load_migrations", "migrate", "migration_sql", "pending"]

logger = logging.getLogger("dbdurable.migrate")

SERVER_VERSION_MIN: Final = 15
LOCK_ATTEMPTS: Final = 10
OTHERS_TIMEOUT_S: Final = 600.0

_READ_LEDGER: Final = "select version, name, checksum from {schema}.migration order by version"
_LOOK_AT_SCHEMA: Final = """\
select n.oid is not null as present,
       array(select c.relname::text from pg_catalog.pg_class c
             where c.relnamespace = n.oid and c.relkind in ('r', 'p') order by 1) as tables
from (values (1)) as one left join pg_catalog.pg_namespace n on n.nspname = '{schema_name}'
"""


def pending(conn: Connection[Any], schema: str, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """The migrations that the schema still lacks, in one round trip and without a lock.

    Raises:
        SchemaMismatch: An applied file was edited, or the database is newer than this package.
    """
    files = load_migrations() if migrations is None else migrations
    with _explained(conn, schema):
        return _compare(schema, _ledger(conn, schema), files)


def check(conn: Connection[Any], schema: str) -> None:
    """Makes sure that the schema is exactly at this package's version.

    Raises:
        SchemaMismatch: It is older, newer, edited or not there; the message says what to do.
    """
    if missing := pending(conn, schema):
        names = ", ".join(m.name for m in missing)
        raise SchemaMismatch(f"schema {schema!r} lacks {names}: run `dbdurable migrate`, or allow it with migrate=True")


def migrate(conn: Connection[Any], schema: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Applies what is pending, once, however many processes call it at the same time.

    Args:
        conn: An autocommit connection.
        schema: The schema; created when it does not exist.
        migrations: Other files than the package's own (tests).

    Returns:
        The names of the files that this call applied.

    Raises:
        SchemaMismatch: Edited files, a newer database, foreign tables or missing privileges.
        DatabaseUnavailable: Read-only, too old, or the tables stay locked.
    """
    assert conn.autocommit, "a migration makes its own transactions"
    files = load_migrations() if migrations is None else migrations
    applied: list[str] = []
    attempts = 0
    deadline = time.monotonic() + OTHERS_TIMEOUT_S
    told = False
    while missing := pending(conn, schema, files):
        step = _apply_together if missing[0].transactional else _apply_alone
        try:
            with _explained(conn, schema):
                done = step(conn, schema, files)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            attempts += 1
            if attempts >= LOCK_ATTEMPTS:
                raise DatabaseUnavailable(
                    f"migrating schema {schema!r} gave up after {attempts} times {LOCK_TIMEOUT_S} s: "
                    "somebody holds a lock on its tables; see pg_stat_activity for transactions left open "
                    f"({error})"
                ) from None
            logger.warning("migrating schema %s waits for a lock on its tables (attempt %d)", schema, attempts)
            _pause(0.5)
            continue
        if done is not None:
            applied += done
            continue
        if not told:
            logger.info("another process is migrating schema %s; waiting for it", schema)
            told = True
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                f"another process has been migrating schema {schema!r} for {OTHERS_TIMEOUT_S:g} s; "
                "see pg_locks (locktype 'advisory') for who it is"
            )
        _pause(0.05)
    return applied


# ---- one look and one step -------------------------------------------------------------------------------


def _ledger(conn: Connection[Any], schema: str) -> dict[int, tuple[str, str]]:
    try:
        rows = _execute(conn, render(_READ_LEDGER, schema)).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return {}
    except (psycopg.errors.UndefinedColumn, psycopg.errors.WrongObjectType):
        raise _foreign(schema, "migration") from None
    if any(not isinstance(version, int) for version, _, _ in rows):
        raise _foreign(schema, "migration")
    return {version: (name, checksum) for version, name, checksum in rows}


def _compare(schema: str, ledger: dict[int, tuple[str, str]], files: Sequence[Migration]) -> list[Migration]:
    known = {m.version for m in files}
    if newer := [f"{version} ({name})" for version, (name, _) in ledger.items() if version not in known]:
        raise SchemaMismatch(
            f"schema {schema!r} is newer than this package: it has version {', '.join(newer)}; upgrade dbdurable"
        )
    for m in files:
        if m.version in ledger and ledger[m.version][1] != m.checksum:
            raise SchemaMismatch(
                f"{m.name} was edited after it was applied to schema {schema!r}: restore the file of the "
                "release, and put the change into a new migration"
            )
    return [m for m in files if m.version not in ledger]


def _apply_together(conn: Connection[Any], schema: str, files: Sequence[Migration]) -> list[str] | None:
    """All pending files up to one without a transaction; None when somebody else is at it."""
    done: list[tuple[Migration, int]] = []
    with conn.transaction():
        _execute(conn, SETTINGS)
        if not _lock(conn, "pg_try_advisory_xact_lock", schema):
            return None
        ledger = _prepare_schema(conn, schema)
        for m in _compare(schema, ledger, files):
            if not m.transactional:
                break
            started = time.monotonic()
            _run(conn, m, m.sql(schema))
            duration_ms = int((time.monotonic() - started) * 1000)
            _execute(conn, record(m, schema, duration_ms))
            done.append((m, duration_ms))
    for m, duration_ms in done:
        logger.info("applied %s to schema %s in %d ms", m.name, schema, duration_ms)
    return [m.name for m, _ in done]


def _apply_alone(conn: Connection[Any], schema: str, files: Sequence[Migration]) -> list[str] | None:
    """The next file, statement by statement; None when somebody else is at it."""
    if not _lock(conn, "pg_try_advisory_lock", schema):
        return None
    try:
        with conn.transaction():
            _execute(conn, SETTINGS)
            todo = _compare(schema, _prepare_schema(conn, schema), files)
        if not todo or todo[0].transactional:
            return []  # somebody was faster
        m = todo[0]
        started = time.monotonic()
        for statement in m.statements(schema):
            _run(conn, m, statement)
        duration_ms = int((time.monotonic() - started) * 1000)
        _execute(conn, record(m, schema, duration_ms))
        logger.info("applied %s to schema %s in %d ms", m.name, schema, duration_ms)
        return [m.name]
    finally:
        if not conn.closed:
            _lock(conn, "pg_advisory_unlock", schema)


def _prepare_schema(conn: Connection[Any], schema: str) -> dict[int, tuple[str, str]]:
    """Schema and ledger, made if need be (under the lock); what the ledger says."""
    row = _execute(conn, render(_LOOK_AT_SCHEMA, schema)).fetchone()
    assert row is not None
    present, tables = row
    if not present:  # `if not exists` would ask for the privilege to create even when it exists
        _execute(conn, render("create schema {schema}", schema))
    if "migration" in tables:
        return _ledger(conn, schema)
    if tables:
        raise _foreign(schema, *tables)
    _execute(conn, render(CREATE_LEDGER, schema))
    return {}


def _run(conn: Connection[Any], migration: Migration, text: str) -> None:
    try:
        _execute(conn, text)
    except psycopg.Error as error:
        error.add_note(f"while applying {migration.name}")
        raise


def _lock(conn: Connection[Any], function: str, schema: str) -> bool:
    row = _execute(conn, render(f"select {function}({LOCK_KEY})", schema)).fetchone()
    return row is not None and row[0]


def _execute(conn: Connection[Any], text: str) -> Cursor[TupleRow]:
    # Bytes without parameters and never prepared: the simple protocol, which takes many statements at once,
    # ignores % and runs behind any pooler.
    return conn.cursor(row_factory=tuple_row).execute(text.encode(), prepare=False)


def _pause(seconds: float) -> None:
    time.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - spreads processes that started together


# ---- errors ----------------------------------------------------------------------------------------------


def _foreign(schema: str, *tables: str) -> SchemaMismatch:
    names = ", ".join(tables[:5]) + (", ..." if len(tables) > 5 else "")
    return SchemaMismatch(
        f"schema {schema!r} holds tables that are not dbdurable's ({names}): choose a schema of its own with "
        "schema= or DBDURABLE_SCHEMA"
    )


@contextmanager
def _explained(conn: Connection[Any], schema: str) -> Iterator[None]:
    """Errors of PostgreSQL as sentences; those that `migrate` or a developer must see pass."""
    try:
        if conn.info.server_version < SERVER_VERSION_MIN * 10_000:
            version = conn.info.parameter_status("server_version")
            raise DatabaseUnavailable(f"PostgreSQL {version} is too old: dbdurable needs {SERVER_VERSION_MIN} or newer")
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise _not_allowed(conn, schema, error) from None
    except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.AdminShutdown) as error:
        raise connection_error(error, conn.info.dsn) from None
    except psycopg.OperationalError as error:
        if conn.closed:
            raise connection_error(error, conn.info.dsn) from None
        raise


def _not_allowed(conn: Connection[Any], schema: str, error: psycopg.Error) -> DurableError:
    reason = error.diag.message_primary or "permission denied"
    return SchemaMismatch(
        f"role {conn.info.user!r} may not migrate schema {schema!r} in database {conn.info.dbname!r} "
        f"({reason}): let the database's owner run `dbdurable migrate --sql --schema {schema} | "
        f"psql {conn.info.dbname}`, and grant this role usage of the schema and the privileges on its tables"
    )
