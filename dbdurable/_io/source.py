"""Where a transaction's first parameter comes from: psycopg's two connections are built in.

A source opens the transaction of a step and knows how to end it; `dbdurable.ext.sqlalchemy` is another.
"""

from __future__ import annotations

import typing
from typing import Any, Final, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory, dict_row, tuple_row

from dbdurable._core.control import Torn
from dbdurable._io.database import Database
from dbdurable._io.faults import ABORTED, is_lost
from dbdurable._io.flight import Statements, ended, ending
from dbdurable._io.guard import AsyncStepConnection, StepConnection
from dbdurable._io.opening import AsyncStepCursor, StepCursor, opening_of
from dbdurable._protocol.effects import Note
from dbdurable.errors import NotInTransaction

_INTRANS: Final = int(TransactionStatus.INTRANS)
ISOLATION_LEVELS = ("read committed", "repeatable read", "serializable")


class SyncUnit(Protocol):
    """One open transaction of a step, sync."""

    handle: Any
    connection: Any

    def enter(self) -> None:
        """User code is about to run, on this thread: from here on it must not end the transaction."""

    def leave(self) -> None:
        """User code is done, whatever came of it; called on its thread."""

    def settle(self) -> None:
        """Sends what is pending. Raises unless the transaction is still open and healthy."""

    def commit(self, records: Statements) -> int | None:
        """Writes the records and commits; the answer is the number that the last one returns."""

    def rollback(self) -> bool:
        """Undoes everything and gives the connection back; False when it is dead."""

    def cancel(self) -> None:
        """Asks the server to end the statement that runs now; from another thread."""


class AsyncUnit(Protocol):
    """One open transaction of a step, async."""

    handle: Any
    connection: Any

    def enter(self) -> None:
        """User code is about to run."""

    def leave(self) -> None:
        """User code is done, whatever came of it."""

    async def settle(self) -> None:
        """Sends what is pending. Raises unless the transaction is still open and healthy."""

    async def commit(self, records: Statements) -> int | None:
        """Writes the records and commits; the answer is the number that the last one returns."""

    async def rollback(self) -> bool:
        """Undoes everything and gives the connection back; False when it is dead."""


class Source(Protocol):
    """Fills the first parameter of transactions whose annotation it accepts."""

    def accepts(self, annotation: Any) -> bool:
        """Whether this source makes what the parameter is annotated with."""

    def begin(self, database: Any, isolation: str | None, row_factory: Any, note: Note, step: str) -> SyncUnit:
        """Opens a transaction for `def` code, with its note in it."""

    async def abegin(self, database: Any, isolation: str | None, row_factory: Any, note: Note, step: str) -> AsyncUnit:
        """Opens a transaction for `async def` code."""


def check_open(status: int, step: str, torn: bool = False) -> None:
    """Raises unless the transaction that a step was given is still open and can commit."""
    if status == _INTRANS and not torn:
        return
    if status == TransactionStatus.INERROR:
        raise NotInTransaction(f"transaction {step}: {ABORTED}")
    if status == TransactionStatus.UNKNOWN:
        raise psycopg.OperationalError(f"the connection of transaction {step} is lost")
    if status == TransactionStatus.IDLE or torn:
        raise Torn(f"transaction {step} ended its own transaction")
    left = TransactionStatus(status).name.lower()
    raise NotInTransaction(
        f"transaction {step} left its connection {left}: a statement, cursor or pipeline of it is still running; "
        "wait for its end before returning"
    )


class _SyncPsycopgUnit:
    """A transaction on a connection of the library's pool."""

    __slots__ = ("_pool", "_step", "connection", "handle")

    def __init__(self, pool: Any, connection: StepConnection, step: str) -> None:
        self._pool = pool
        self._step = step
        self.connection = self.handle = connection

    def enter(self) -> None:
        self.connection.step = self._step

    def leave(self) -> None:
        self.connection.step = None

    def settle(self) -> None:
        connection = self.connection
        if connection.opening is None:  # else the body sent no statement
            check_open(connection.pgconn.transaction_status, self._step, connection.torn)

    def commit(self, records: Statements) -> int | None:
        connection = self.connection
        with connection.lock:
            committed, written_us = ended(connection.wait(ending(connection, records)))
        if not committed:
            raise NotInTransaction(f"transaction {self._step}: {ABORTED}")
        self._release()
        return written_us

    def rollback(self) -> bool:
        connection = self.connection
        if connection.opening is not None:
            connection.mark = None  # what was to bring it has not been sent
        connection.step = connection.opening = None
        try:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.rollback()
        except psycopg.Error as error:
            if not is_lost(error, connection):
                connection.close()
        alive = not connection.closed
        self._release()
        return alive

    def cancel(self) -> None:
        self.connection.cancel_safe(timeout=1.0)

    def _release(self) -> None:
        self.connection.row_factory, self.connection.cursor_factory = tuple_row, StepCursor
        self._pool.putconn(self.connection)


class _AsyncPsycopgUnit:
    """The same for `async def`."""

    __slots__ = ("_pool", "_step", "connection", "handle")

    def __init__(self, pool: Any, connection: AsyncStepConnection, step: str) -> None:
        self._pool = pool
        self._step = step
        self.connection = self.handle = connection

    def enter(self) -> None:
        self.connection.step = self._step

    def leave(self) -> None:
        self.connection.step = None

    async def settle(self) -> None:
        connection = self.connection
        if connection.opening is None:  # else the body sent no statement
            check_open(connection.pgconn.transaction_status, self._step, connection.torn)

    async def commit(self, records: Statements) -> int | None:
        connection = self.connection
        async with connection.lock:
            committed, written_us = ended(await connection.wait(ending(connection, records)))
        if not committed:
            raise NotInTransaction(f"transaction {self._step}: {ABORTED}")
        await self._release()
        return written_us

    async def rollback(self) -> bool:
        connection = self.connection
        if connection.opening is not None:
            connection.mark = None  # what was to bring it has not been sent
        connection.step = connection.opening = None
        try:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.rollback()
        except psycopg.Error as error:
            if not is_lost(error, connection):
                await connection.close()
        finally:  # also where it is cancelled once more: the pool takes it back in whatever state it is
            alive = not connection.closed
            await self._release()
        return alive

    async def _release(self) -> None:
        self.connection.row_factory, self.connection.cursor_factory = tuple_row, AsyncStepCursor
        await self._pool.putconn(self.connection)


class PsycopgSource:
    """psycopg's `Connection` and `AsyncConnection`, from the library's own pools."""

    def accepts(self, annotation: Any) -> bool:
        """Whether the parameter is annotated with a psycopg connection, plain or with a row type."""
        origin = typing.get_origin(annotation) or annotation
        return isinstance(origin, type) and issubclass(origin, (psycopg.Connection, psycopg.AsyncConnection))

    def begin(self, database: Database, isolation: str | None, row_factory: Any, note: Note, step: str) -> SyncUnit:
        """Takes a connection of the pool and begins."""
        pool = database.pool
        connection = pool.getconn()
        connection.opening, connection.torn = opening_of(connection, isolation, note), False
        connection.row_factory = row_factory or tuple_row
        return _SyncPsycopgUnit(pool, connection, step)

    async def abegin(
        self, database: Database, isolation: str | None, row_factory: Any, note: Note, step: str
    ) -> AsyncUnit:
        """The same for `async def`."""
        pool = await database.async_pool()
        connection = await pool.getconn()
        connection.opening, connection.torn = opening_of(connection, isolation, note), False
        connection.row_factory = row_factory or tuple_row
        return _AsyncPsycopgUnit(pool, connection, step)


def row_factory_of(annotation: Any) -> RowFactory[Any] | None:
    """The row factory that a connection's annotation promises: `Connection[DictRow]` gives dictionaries.

    None where the annotation says nothing; raises TypeError where only `row_factory=` can tell.
    """
    arguments = typing.get_args(annotation)
    if not arguments or arguments[0] is Any or typing.get_origin(arguments[0]) is tuple:
        return None
    if typing.get_origin(arguments[0]) is dict:
        return dict_row
    raise TypeError(f"{annotation} names a row type that needs row_factory=")
