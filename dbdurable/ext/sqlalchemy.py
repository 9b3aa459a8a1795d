"""Transactions on SQLAlchemy's sessions and connections: the ORM's writes commit together with the step's record.

    from dbdurable import Durable
    from dbdurable.ext.sqlalchemy import SQLAlchemy

    engine = create_engine("postgresql+psycopg://localhost/shop")
    durable = Durable(sources=[SQLAlchemy(sessionmaker(engine))])

    @durable.transaction
    def mark(session: Session, order_id: int, state: str) -> None:
        session.get_one(Order, order_id).state = state

The session is the user's own, made by his sessionmaker, and it does the committing. The library borrows the
psycopg connection under it: the record goes out with SQLAlchemy's own COMMIT, as the last statement before it.
"""

from __future__ import annotations

import typing
from typing import Any, TypeAlias, cast

import psycopg
from psycopg import AsyncRawCursor, RawCursor
from psycopg.rows import tuple_row

from dbdurable._io.opening import check_writable
from dbdurable._io.source import AsyncUnit, SyncUnit
from dbdurable._protocol.effects import Note
from dbdurable._sql.step import NOTE_STEP
from dbdurable.errors import BadConfiguration, NotInTransaction

try:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import TimeoutError as PoolTimeout
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, scoped_session, sessionmaker
except ImportError as error:  # pragma: no cover
    raise ImportError("dbdurable.ext.sqlalchemy needs SQLAlchemy: pip install 'dbdurable[sqlalchemy]'") from error

from dbdurable.ext._session import AsyncSessionUnit, SessionUnit, aquietly, quietly

__all__ = ["SQLAlchemy"]

Target: TypeAlias = sessionmaker[Any] | async_sessionmaker[Any] | scoped_session[Any] | Engine | AsyncEngine


class SQLAlchemy:
    """A source for `Durable(sources=[...])`: what a transaction's first parameter is filled with.

    `target` decides: a `sessionmaker` or `scoped_session` makes a `Session` (or the subclass that it makes), an
    `async_sessionmaker` an `AsyncSession`, an `Engine` a `Connection`, an `AsyncEngine` an `AsyncConnection`.
    Give several sources to have several. With a `scoped_session`, the registry holds the step's session while
    the step's function runs, so that code that uses the global session writes in the step's transaction.

    Raises:
        BadConfiguration: The engine is not on psycopg 3, or `target` is none of these.
    """

    def __init__(self, target: Target) -> None:
        self._registry: Any = None
        self._make: Any
        self._made: type[Any]
        if isinstance(target, scoped_session):
            self._registry, self._make = target.registry, target.session_factory
            self._made = getattr(target.session_factory, "class_", Session)
        elif isinstance(target, (sessionmaker, async_sessionmaker)):
            self._make, self._made = target, target.class_
        elif isinstance(target, Engine):
            self._make, self._made = target.connect, Connection
        elif isinstance(target, AsyncEngine):
            self._make, self._made = target.connect, AsyncConnection
        else:
            raise BadConfiguration(
                "SQLAlchemy(...) takes a sessionmaker, async_sessionmaker, scoped_session, Engine or AsyncEngine, "
                f"not {type(target).__name__}"
            )
        bind = target if isinstance(target, (Engine, AsyncEngine)) else getattr(self._make, "kw", {}).get("bind")
        if isinstance(bind, (Engine, AsyncEngine)):
            _check_dialect(bind.dialect)

    def accepts(self, annotation: Any) -> bool:
        """Whether it makes what the parameter is annotated with."""
        wanted = typing.get_origin(annotation) or annotation
        bases = (Session, AsyncSession, Connection, AsyncConnection)
        return isinstance(wanted, type) and issubclass(wanted, bases) and issubclass(self._made, wanted)

    def begin(self, database: Any, isolation: str | None, row_factory: Any, note: Note, step: str) -> SyncUnit:
        """Opens a transaction on a connection of the engine's pool, through a session where one is wanted."""
        owner: Session | Connection = self._make()
        try:
            if isinstance(owner, Session):
                _check_session(owner)
                if not owner.in_transaction():
                    owner.begin()
                connection = owner.connection(execution_options=_execution_options(isolation))
            else:
                connection = owner.execution_options(**_execution_options(isolation))
                connection.begin()
            driver = connection.connection.driver_connection
            if not isinstance(driver, psycopg.Connection):
                _check_dialect(connection.dialect)
            driver = cast("psycopg.Connection[Any]", driver)
            _check_transactional(driver, step)
            with driver.pipeline():  # BEGIN travels along
                cursor = RawCursor(driver, row_factory=tuple_row).execute(database.text(NOTE_STEP), note)
            _note_backend(driver, cursor.fetchone())
            check_writable(driver)
        except BaseException as error:
            quietly(owner.close)
            raise _of_the_driver(error) from error
        return SessionUnit(owner, connection, connection, driver, step, self._registry)

    async def abegin(self, database: Any, isolation: str | None, row_factory: Any, note: Note, step: str) -> AsyncUnit:
        """The same for `async def`."""
        owner: AsyncSession | AsyncConnection = self._make()
        try:
            if isinstance(owner, AsyncSession):
                _check_session(owner.sync_session)
                if not owner.in_transaction():
                    await owner.begin()
                connection = await owner.connection(execution_options=_execution_options(isolation))
            else:
                await owner.start()
                connection = await owner.execution_options(**_execution_options(isolation))
                await connection.begin()
            driver = (await connection.get_raw_connection()).driver_connection
            if not isinstance(driver, psycopg.AsyncConnection):
                _check_dialect(connection.dialect)
            driver = cast("psycopg.AsyncConnection[Any]", driver)
            _check_transactional(driver, step)
            async with driver.pipeline():
                cursor = AsyncRawCursor(driver, row_factory=tuple_row)
                await cursor.execute(database.text(NOTE_STEP), note)
            _note_backend(driver, await cursor.fetchone())
            check_writable(driver)
        except BaseException as error:
            await aquietly(owner.close)
            raise _of_the_driver(error) from error
        return AsyncSessionUnit(owner, connection, connection.sync_connection, driver, step, None)


def _check_dialect(dialect: Any) -> None:
    if dialect.name != "postgresql" or dialect.driver not in ("psycopg", "psycopg_async"):
        raise BadConfiguration(
            f"SQLAlchemy(...) needs an engine on psycopg 3, `postgresql+psycopg://...`, not on {dialect.name}+"
            f"{dialect.driver}: a step's record commits on the connection of its writes. From other drivers, start "
            "workflows with the SQL function: select dbdurable.start('name', '{\"argument\": 1}')"
        )


def _check_session(session: Session) -> None:
    if session.twophase:
        raise BadConfiguration(
            "SQLAlchemy(...) takes sessions without twophase=True: a step's record commits on one connection"
        )


def _check_transactional(driver: Any, step: str) -> None:
    if driver.autocommit:
        raise NotInTransaction(
            f"transaction {step}: its engine has isolation_level='AUTOCOMMIT', where each statement commits alone; "
            "give the source an engine without it"
        )


def _note_backend(driver: Any, row: tuple[Any, ...] | None) -> None:
    """The session's identity, so that it can be ended after a COMMIT without an answer (not behind a pooler)."""
    driver.backend = row[:2] if row is not None and row[0] == driver.info.backend_pid else None


def _execution_options(isolation: str | None) -> Any:
    return {} if isolation is None else {"isolation_level": isolation.upper()}


def _of_the_driver(error: BaseException) -> BaseException:
    """The error as psycopg raised it: the protocol knows what those mean."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error):
        return error.orig
    if isinstance(error, PoolTimeout):  # no connection to be had: as psycopg's pool says it
        return psycopg.OperationalError(str(error))
    return error
