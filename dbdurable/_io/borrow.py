"""Running a statement in a transaction that the caller owns: psycopg's, or SQLAlchemy's on psycopg."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import psycopg
from psycopg import AsyncRawCursor, RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from dbdurable._core.control import ConnectionLost, Fault
from dbdurable._io.connect import READ_ONLY
from dbdurable._io.faults import meaning
from dbdurable.errors import BadArgument, DatabaseUnavailable, NotInTransaction, WrongColour

_OTHER_DRIVER = (
    "tx= takes a psycopg 3 connection, or a SQLAlchemy session or connection on psycopg 3, not {what}. With "
    "another driver, run the SQL function in your transaction: select dbdurable.start('name', '{{\"argument\": 1}}')"
)


def run_in(tx: Any, text: str, params: tuple[Any, ...], schema: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in the caller's transaction, sync."""
    if inspect.iscoroutinefunction(getattr(type(tx), "commit", None)):
        raise WrongColour(f"tx= was given an async {type(tx).__name__}: write `await f.aio.options(tx=...).start(...)`")
    connection = _driver_connection(tx)
    if not isinstance(connection, psycopg.Connection):
        raise BadArgument(_OTHER_DRIVER.format(what=_what(tx, connection)))
    _check_in_transaction(connection)
    try:
        # A cursor of our own: the host's adapters and row factory may be any.
        return RawCursor(connection, row_factory=tuple_row).execute(text, params).fetchall()
    except psycopg.Error as error:
        _raise_meaning(error, connection, schema)


async def arun_in(tx: Any, text: str, params: tuple[Any, ...], schema: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in the caller's transaction, async."""
    if inspect.isfunction(commit := getattr(type(tx), "commit", None)) and not inspect.iscoroutinefunction(commit):
        raise WrongColour(f"tx= was given a sync {type(tx).__name__}: give it an async one, or use `f.sync`")
    connection = await _async_driver_connection(tx)
    if not isinstance(connection, psycopg.AsyncConnection):
        raise BadArgument(_OTHER_DRIVER.format(what=_what(tx, connection)))
    _check_in_transaction(connection)
    try:
        cursor = await AsyncRawCursor(connection, row_factory=tuple_row).execute(text, params)
        return await cursor.fetchall()
    except psycopg.Error as error:
        _raise_meaning(error, connection, schema)


def _raise_meaning(error: psycopg.Error, connection: Any, schema: str) -> NoReturn:
    """In the caller's transaction, what is transient is the caller's to handle, as with statements of its own."""
    if error.sqlstate == "25006":
        raise DatabaseUnavailable(READ_ONLY) from error  # theirs: not ours to close
    found = meaning(error, connection, schema)
    if isinstance(found, ConnectionLost):
        raise DatabaseUnavailable(f"the connection that tx= was given is closed or broken: {error}") from error
    if isinstance(found, Fault) or found is error:
        raise error
    raise found from error


def _driver_connection(tx: Any) -> Any:
    if not _is_sqlalchemy(tx):
        return tx
    if _is_session(tx):
        return tx.connection().connection.driver_connection
    if not tx.in_transaction():
        tx.begin()  # else its commit() would not know that there is something to commit
    return tx.connection.driver_connection


async def _async_driver_connection(tx: Any) -> Any:
    if not _is_sqlalchemy(tx):
        return tx
    if _is_session(tx):
        return (await (await tx.connection()).get_raw_connection()).driver_connection
    if not tx.in_transaction():
        await tx.begin()
    return (await tx.get_raw_connection()).driver_connection


def _is_sqlalchemy(tx: Any) -> bool:
    """Its own classes, and those that applications and SQLModel derive from them."""
    return any(cls.__module__.startswith("sqlalchemy.") for cls in type(tx).__mro__)


def _is_session(tx: Any) -> bool:
    return hasattr(type(tx), "add_all")  # sessions and scoped sessions, not connections


def _check_in_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """An autocommit connection without a transaction would commit the start alone."""
    if getattr(connection, "opening", None) is not None:
        return  # a step's, whose first statement this is
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise NotInTransaction(
            "tx= was given an autocommit connection that is in no transaction: the start would commit alone. Open "
            "one first, `with connection.transaction():`, or leave tx= out"
        )


def _what(tx: Any, connection: Any) -> str:
    kind = f"{type(tx).__module__}.{type(tx).__qualname__}"
    return kind if connection is tx else f"{kind} on {type(connection).__module__}"
