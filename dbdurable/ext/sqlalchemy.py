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

import logging
import typing
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, cast

import psycopg
from psycopg import AsyncCursor, AsyncRawCursor, Cursor, RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from dbdurable._io.flight import Statements
from dbdurable._io.guard import refuse
from dbdurable._io.opening import check_writable
from dbdurable._io.source import AsyncUnit, SyncUnit, check_open
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

__all__ = ["SQLAlchemy"]

logger = logging.getLogger("dbdurable")

Target: TypeAlias = sessionmaker[Any] | async_sessionmaker[Any] | scoped_session[Any] | Engine | AsyncEngine
Owner = TypeVar("Owner", bound=Session | Connection | AsyncSession | AsyncConnection)

_SESSION_CALLS = ("commit", "rollback", "close", "reset", "invalidate", "prepare")
_CONNECTION_CALLS = ("commit", "rollback", "close", "detach")

_ROLLED_BACK = (
    "SQLAlchemy has rolled the transaction back after an error that the body caught, so nothing in it can commit. "
    "Put what may fail into `with session.begin_nested():` (a savepoint), or let the error out."
)


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

    def begin(self, database: Any, isolation: str | None, row_factory: Any, path: str, step: str) -> SyncUnit:
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
                cursor = RawCursor(driver, row_factory=tuple_row).execute(database.text(NOTE_STEP), (path,))
            _note_backend(driver, cursor.fetchone())
            check_writable(driver)
        except BaseException as error:
            _quietly(owner.close)
            raise _of_the_driver(error) from error
        return _Unit(owner, connection, connection, driver, step, self._registry)

    async def abegin(self, database: Any, isolation: str | None, row_factory: Any, path: str, step: str) -> AsyncUnit:
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
                await cursor.execute(database.text(NOTE_STEP), (path,))
            _note_backend(driver, await cursor.fetchone())
            check_writable(driver)
        except BaseException as error:
            await _aquietly(owner.close)
            raise _of_the_driver(error) from error
        return _AsyncUnit(owner, connection, connection.sync_connection, driver, step, None)


class _Borrowed(Generic[Owner]):
    """A session or connection of the user's, in a step's transaction, and the psycopg connection under it.

    While the step's function runs, the calls that would end the transaction are shadowed on the objects
    themselves: this catches them whatever way they are reached, and before SQLAlchemy changes its own state.
    """

    def __init__(self, owner: Owner, lent: Any, core: Any, driver: Any, step: str, registry: Any) -> None:
        self.handle: Any = owner
        self.connection: Any = driver
        self._owner: Owner = owner
        self._session: Session | None = getattr(owner, "sync_session", owner if isinstance(owner, Session) else None)
        self._lent = lent
        self._core: Connection = core
        self._root = core.get_transaction()
        self._step = step
        self._registry = registry
        self._before: Any = None
        self._rolled_back = False
        self._committed = False
        self._written_us: int | None = None
        self._failure: BaseException | None = None

    # -- around the step's function ----------------------------------------------------------------------

    def enter(self) -> None:
        """Forbids what would end the transaction; global sessions are this one from here on."""
        if self._session is not None:
            _shadow(self._session, **{name: _refusal(f"session.{name}", self._step) for name in _SESSION_CALLS})
        _shadow(self._core, **{name: _refusal(f"connection.{name}", self._step) for name in _CONNECTION_CALLS})
        _shadow(
            self.connection,
            commit=_refusal("commit", self._step),
            close=self._close_of_driver,
            rollback=self._rollback_of_driver,
        )
        if self._registry is not None:
            self._before = self._registry() if self._registry.has() else None
            self._registry.set(self._session)

    def leave(self) -> None:
        """Undoes `enter`."""
        self._unshadow()
        if self._registry is not None:
            if self._before is None:
                self._registry.clear()
            else:
                self._registry.set(self._before)

    def _unshadow(self) -> None:
        _unshadow(self.connection, "commit", "close", "rollback")
        _unshadow(self._core, *_CONNECTION_CALLS)
        if self._session is not None:
            _unshadow(self._session, *_SESSION_CALLS)

    def _rollback_of_driver(self) -> Any:
        """SQLAlchemy rolls back after a flush that failed: allowed, and then there is nothing to commit any more.

        Afterwards it may lend the connection to others: the shadows go first.
        """
        self._rolled_back = True
        _unshadow(self.connection, "commit", "close", "rollback")
        return self.connection.rollback()

    def _close_of_driver(self) -> Any:
        """The pool closes what is broken; nobody closes what is not."""
        if not self.connection.closed:
            refuse("close", self._step)
        _unshadow(self.connection, "commit", "close", "rollback")
        return self.connection.close()

    def _check(self) -> None:
        """Raises unless the transaction is the one that was begun, open and healthy."""
        status = self.connection.info.transaction_status
        gone = self._rolled_back or self._core.closed or self._core.invalidated
        if gone or status == TransactionStatus.INERROR:
            raise NotInTransaction(f"transaction {self._step}: {_ROLLED_BACK}")
        check_open(status, self._step)
        if self._root is None or not self._root.is_active or self._core.get_transaction() is not self._root:
            raise NotInTransaction(f"transaction {self._step}: {_ROLLED_BACK}")

    # -- the end -----------------------------------------------------------------------------------------

    def _check_ended(self, statusmessage: str | None) -> None:
        """The server's answer to COMMIT."""
        if statusmessage != "COMMIT":
            raise NotInTransaction(f"transaction {self._step}: {_ROLLED_BACK}")
        self._committed = True

    def _after_commit(self, error: Exception | None) -> None:
        """What an error from SQLAlchemy's commit means, now that the record may be there."""
        if self._committed:
            if error is not None:
                # The commit is a fact: an error of a hook behind it must not make the step one that failed.
                logger.error("transaction %s has committed; a hook behind it failed", self._step, exc_info=error)
            return
        if self._failure is not None:
            raise self._failure from error
        if error is not None:
            raise error
        raise NotInTransaction(
            f"transaction {self._step}: its session's commit() committed nothing. A session that is bound to a "
            "connection with a transaction of its own cannot carry a step: bind the sessionmaker to an engine"
        )


class _Unit(_Borrowed[Session | Connection]):
    """The transaction of a step on a `Session` or `Connection`."""

    def settle(self) -> None:
        """Writes what the session still holds back, and looks whether all can commit."""
        self._check()
        if self._session is not None:
            self._session.flush()
            self._check()

    def commit(self, records: Statements) -> int | None:
        """Lets SQLAlchemy commit; its COMMIT carries the record."""
        driver: psycopg.Connection[Any] = self.connection

        def record_and_commit() -> None:
            _unshadow(driver, "commit")  # first: once this returns, the pool may lend the connection
            try:
                with driver.pipeline():
                    for _, text, params in records:
                        answer = RawCursor(driver, row_factory=tuple_row).execute(text, params)
                    ended = Cursor(driver).execute("commit", prepare=False)
                self._check_ended(ended.statusmessage)
                self._written_us = _number(answer.fetchone())
            except BaseException as error:
                self._failure = error
                raise

        _shadow(driver, commit=record_and_commit)
        caught: Exception | None = None
        try:
            self._owner.commit()
        except Exception as error:
            caught = error
        finally:
            if not self._committed:
                _unshadow(driver, "commit")
        self._after_commit(caught)
        _quietly(self._owner.close)
        return self._written_us

    def rollback(self) -> bool:
        """Undoes everything and gives the connection back to its pool; False when it is dead."""
        driver: psycopg.Connection[Any] = self.connection
        self._unshadow()
        if not self._core.closed:
            try:
                driver.rollback()
            except psycopg.Error:
                driver.close()
        alive = self._core.closed or not driver.closed
        if self._core.invalidated and not driver.closed:
            driver.close()
        if alive and self._root is not None and self._root.is_active:
            _quietly(self._owner.rollback)  # for its hooks
        elif not alive:
            _quietly(self._owner.invalidate)
        _quietly(self._owner.close)
        if not self._core.closed:  # the session has lost it
            _quietly(self._lent.close)
        return alive

    def cancel(self) -> None:
        """Ends the statement that runs now; from another thread."""
        self.connection.cancel_safe(timeout=1.0)


class _AsyncUnit(_Borrowed[AsyncSession | AsyncConnection]):
    """The same for `async def`."""

    async def settle(self) -> None:
        """Writes what the session still holds back, and looks whether all can commit."""
        self._check()
        if isinstance(self._owner, AsyncSession):
            await self._owner.flush()
            self._check()

    async def commit(self, records: Statements) -> int | None:
        """Lets SQLAlchemy commit; its COMMIT carries the record."""
        driver: psycopg.AsyncConnection[Any] = self.connection

        async def record_and_commit() -> None:
            _unshadow(driver, "commit")
            try:
                async with driver.pipeline():
                    for _, text, params in records:
                        answer = await AsyncRawCursor(driver, row_factory=tuple_row).execute(text, params)
                    ended = await AsyncCursor(driver).execute("commit", prepare=False)
                self._check_ended(ended.statusmessage)
                self._written_us = _number(await answer.fetchone())
            except BaseException as error:
                self._failure = error
                raise

        _shadow(driver, commit=record_and_commit)
        caught: Exception | None = None
        try:
            await self._owner.commit()
        except Exception as error:
            caught = error
        finally:
            if not self._committed:
                _unshadow(driver, "commit")
        self._after_commit(caught)
        await _aquietly(self._owner.close)
        return self._written_us

    async def rollback(self) -> bool:
        """Undoes everything and gives the connection back to its pool; False when it is dead."""
        driver: psycopg.AsyncConnection[Any] = self.connection
        self._unshadow()
        if not self._core.closed:
            try:
                await driver.rollback()
            except psycopg.Error:
                await driver.close()
        alive = self._core.closed or not driver.closed
        if self._core.invalidated and not driver.closed:
            await driver.close()
        if alive and self._root is not None and self._root.is_active:
            await _aquietly(self._owner.rollback)
        elif not alive:
            await _aquietly(self._owner.invalidate)
        await _aquietly(self._owner.close)
        if not self._core.closed:
            await _aquietly(self._lent.close)
        return alive


# -- shadows: attributes of one object in front of its class's methods ----------------------------------------


def _shadow(thing: object, **methods: Callable[..., Any]) -> None:
    vars(thing).update(methods)


def _unshadow(thing: object, *names: str) -> None:
    for name in names:
        vars(thing).pop(name, None)


def _refusal(call: str, step: str) -> Callable[..., NoReturn]:
    def refused(*args: object, **kwargs: object) -> NoReturn:
        refuse(call, step, "session.begin_nested()")

    return refused


# -- checks and errors ----------------------------------------------------------------------------------------


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
    driver.backend = row if row is not None and row[0] == driver.info.backend_pid else None


def _number(row: tuple[Any, ...] | None) -> int | None:
    """What the last record returned."""
    return None if row is None else int(row[0])


def _execution_options(isolation: str | None) -> Any:
    return {} if isolation is None else {"isolation_level": isolation.upper()}


def _of_the_driver(error: BaseException) -> BaseException:
    """The error as psycopg raised it: the protocol knows what those mean."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error):
        return error.orig
    if isinstance(error, PoolTimeout):  # no connection to be had: as psycopg's pool says it
        return psycopg.OperationalError(str(error))
    return error


def _quietly(function: Callable[[], Any]) -> None:
    try:
        function()
    except Exception:
        logger.debug("SQLAlchemy, while a connection was given back", exc_info=True)


async def _aquietly(function: Callable[[], Any]) -> None:
    try:
        await function()
    except Exception:
        logger.debug("SQLAlchemy, while a connection was given back", exc_info=True)
