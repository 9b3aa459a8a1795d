"""Running a statement in a transaction that the caller owns: psycopg's, or SQLAlchemy's on psycopg."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncRawCursor, RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from dbdurable._io.faults import meaning
from dbdurable.errors import BadArgument, NotInTransaction

_OTHER_DRIVER = (
    "tx= takes a psycopg 3 connection, or a SQLAlchemy session or connection on psycopg 3, not {what}. With "
    "another driver, run the SQL function in your transaction: select dbdurable.start('name', '{{\"argument\": 1}}')"
)


def run_in(tx: Any, text: str, params: tuple[Any, ...], schema: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in the caller's transaction, sync."""
    connection = _driver_connection(tx)
    if not isinstance(connection, psycopg.Connection):
        raise BadArgument(_OTHER_DRIVER.format(what=_what(tx, connection)))
    _check_in_transaction(connection)
    try:
        # A cursor of our own: the host's adapters and row factory may be any.
        return RawCursor(connection, row_factory=tuple_row).execute(text, params).fetchall()
    except psycopg.Error as error:
        raise meaning(error, connection, schema) from error


async def arun_in(tx: Any, text: str, params: tuple[Any, ...], schema: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in the caller's transaction, async."""
    connection = await _async_driver_connection(tx)
    if not isinstance(connection, psycopg.AsyncConnection):
        raise BadArgument(_OTHER_DRIVER.format(what=_what(tx, connection)))
    _check_in_transaction(connection)
    try:
        cursor = await AsyncRawCursor(connection, row_factory=tuple_row).execute(text, params)
        return await cursor.fetchall()
    except psycopg.Error as error:
        raise meaning(error, connection, schema) from error


def _driver_connection(tx: Any) -> Any:
    if type(tx).__module__.startswith("sqlalchemy."):
        owner = tx.connection() if callable(getattr(tx, "connection", None)) else tx
        return owner.connection.driver_connection
    return tx


async def _async_driver_connection(tx: Any) -> Any:
    if type(tx).__module__.startswith("sqlalchemy."):
        owner = await tx.connection() if callable(getattr(tx, "connection", None)) else tx
        return (await owner.get_raw_connection()).driver_connection
    return tx


def _check_in_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """An autocommit connection without a transaction would commit the start alone."""
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise NotInTransaction(
            "tx= was given an autocommit connection that is in no transaction: the start would commit alone. Open "
            "one first, `with connection.transaction():`, or leave tx= out"
        )


def _what(tx: Any, connection: Any) -> str:
    kind = f"{type(tx).__module__}.{type(tx).__qualname__}"
    return kind if connection is tx else f"{kind} on {type(connection).__module__}"
