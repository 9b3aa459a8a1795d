"""The transaction of a step on a session or connection of SQLAlchemy's: what ends it, and how the record goes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

import psycopg
from psycopg import AsyncCursor, AsyncRawCursor, Cursor, RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from dbdurable._io.flight import Statements
from dbdurable._io.guard import refuse
from dbdurable._io.source import check_open
from dbdurable.errors import NotInTransaction

__all__ = ["AsyncSessionUnit", "SessionUnit", "aquietly", "quietly"]

logger = logging.getLogger("dbdurable")

Owner = TypeVar("Owner", bound=Session | Connection | AsyncSession | AsyncConnection)

_SESSION_CALLS = ("commit", "rollback", "close", "reset", "invalidate", "prepare")
_CONNECTION_CALLS = ("commit", "rollback", "close", "detach")
_DRIVER_CALLS = ("commit", "rollback", "close")

_ROLLED_BACK = (
    "SQLAlchemy has rolled the transaction back after an error that the body caught, so nothing in it can commit. "
    "Put what may fail into `with session.begin_nested():` (a savepoint), or let the error out."
)


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
        _unshadow(self.connection, *_DRIVER_CALLS)
        _unshadow(self._core, *_CONNECTION_CALLS)
        if self._session is not None:
            _unshadow(self._session, *_SESSION_CALLS)

    def _rollback_of_driver(self) -> Any:
        """SQLAlchemy rolls back after a flush that failed: allowed, and then there is nothing to commit any more.

        Afterwards it may lend the connection to others: the shadows go first.
        """
        self._rolled_back = True
        _unshadow(self.connection, *_DRIVER_CALLS)
        return self.connection.rollback()

    def _close_of_driver(self) -> Any:
        """The pool closes what is broken; nobody closes what is not."""
        if not self.connection.closed:
            refuse("close", self._step)
        _unshadow(self.connection, *_DRIVER_CALLS)
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


class SessionUnit(_Borrowed[Session | Connection]):
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
        quietly(self._owner.close)
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
            quietly(self._owner.rollback)  # for its hooks
        elif not alive:
            quietly(self._owner.invalidate)
        quietly(self._owner.close)
        if not self._core.closed:  # the session has lost it
            quietly(self._lent.close)
        return alive

    def cancel(self) -> None:
        """Ends the statement that runs now; from another thread."""
        self.connection.cancel_safe(timeout=1.0)


class AsyncSessionUnit(_Borrowed[AsyncSession | AsyncConnection]):
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
        await aquietly(self._owner.close)
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
            await aquietly(self._owner.rollback)
        elif not alive:
            await aquietly(self._owner.invalidate)
        await aquietly(self._owner.close)
        if not self._core.closed:
            await aquietly(self._lent.close)
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


# -- the end of it --------------------------------------------------------------------------------------------


def _number(row: tuple[Any, ...] | None) -> int | None:
    """What the last record returned."""
    return None if row is None else int(row[0])


def quietly(function: Callable[[], Any]) -> None:
    """Gives something back: what goes wrong with that must not hide why."""
    try:
        function()
    except Exception:
        logger.debug("SQLAlchemy, while a connection was given back", exc_info=True)


async def aquietly(function: Callable[[], Any]) -> None:
    """The same for `async def`."""
    try:
        await function()
    except Exception:
        logger.debug("SQLAlchemy, while a connection was given back", exc_info=True)
