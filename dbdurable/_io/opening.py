"""How BEGIN travels: in one write with the first statement of the body, so that a step waits for it only once.

A connection that is to open a transaction keeps that to itself (`opening`) until something is executed on it. A
statement with parameters goes out behind BEGIN in a pipeline that is closed by the same write: the server ends it
"idle in transaction", as if each had been sent alone. Everything else (several statements in one text, COPY,
psycopg's own pipelines) gets an exchange for BEGIN in front, as psycopg itself does it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import errors
from psycopg._cursor_base import BaseCursor  # a part of psycopg that it may change: see _HOOKED
from psycopg._preparing import Prepare
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from dbdurable._io.flight import answers, as_text, distrust, exchange, first_failure, send
from dbdurable._protocol.effects import Note
from dbdurable._sql.statement import session_name
from dbdurable._sql.step import MARK, NOTE

_IDLE: Final = int(TransactionStatus.IDLE)


Opening: TypeAlias = tuple[tuple[str, str, tuple[Any, ...]], ...]
"""Statements that open a transaction: name, text and parameters of each."""

_BEGIN: Final = ("dbdurable_begin", "begin deferrable", ())
_BEGIN_WHERE_THAT_IS_THE_DEFAULT: Final = ("dbdurable_begin_not", "begin not deferrable", ())
_BEGIN_BEHIND_A_POOLER: Final = ("dbdurable_begin_plain", "begin", ())
_ROLLBACK: Final = ("", "rollback", ())
_NOTE: Final = (session_name(NOTE.name, NOTE.text), NOTE.text)
_MARK: Final = ("", MARK.text)


def begins(pooled: bool, deferrable: bool) -> Opening:
    """What opens transactions on a session: BEGIN in a mode that nobody else asks for.

    The record looks whether it is in such a one: a body that ends it by SQL and begins another is found out so. What
    is not read-only waits for nothing in either mode. `deferrable`: the mode is the session's default already.
    Behind a pooler that is not known, and the note of the step's path is what the record looks for.
    """
    if pooled:
        return (_BEGIN_BEHIND_A_POOLER, (*_NOTE, Note("", 0)))
    return (_BEGIN_WHERE_THAT_IS_THE_DEFAULT if deferrable else _BEGIN,)


def opening_of(session: Any, isolation: str | None, note: Note) -> Opening:
    """What opens the transaction of a step on that session."""
    begin, *noting = session.begins
    if isolation is not None:
        mode = begin[1].removeprefix("begin")
        begin = ("", f"begin isolation level {isolation}{mode}", ())
    if noting:
        return (begin, (*_NOTE, note))
    if session.mark == note.mark:
        return (begin,)
    before, session.mark = session.mark, note.mark
    return (begin, (*_MARK, (note.mark, before)))


def opened(connection: Any) -> Generator[Any, Any, None]:
    """Opens the transaction, in an exchange of its own."""
    opening, connection.opening, connection.opener = connection.opening, None, None
    trusted = connection.prepared is not None
    try:
        yield from exchange(connection, opening)
    except psycopg.Error:
        if not trusted or connection.prepared is not None:
            connection.mark = None
            raise
        yield from _take_back(connection)
        yield from exchange(connection, opening)  # as text
    check_writable(connection)


def _take_back(connection: Any) -> Generator[Any, Any, None]:
    """Undoes what went well of an opening that was refused: a session may know BEGIN, and not what comes behind it."""
    if connection.pgconn.transaction_status != _IDLE:
        yield from exchange(connection, (_ROLLBACK,))


def _behind(connection: Any, statement: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
    """The statement, after an exchange that opens the transaction."""
    yield from opened(connection)
    yield from statement


def check_writable(connection: Any) -> None:
    """Raises ReadOnlySqlTransaction when the transaction that has just begun can write nothing, and hangs up.

    The server reports both settings by itself; a pooler does not.
    """
    pgconn: PGconn = connection.pgconn
    if b"on" in (pgconn.parameter_status(b"default_transaction_read_only"), pgconn.parameter_status(b"in_hot_standby")):
        pgconn.finish()
        raise errors.ReadOnlySqlTransaction("the server takes no writes")


_HOOKED: Final = "_maybe_prepare_gen" in BaseCursor._execute_gen.__code__.co_names
"""Whether psycopg sends a statement where `Joins` looks for it; if it ever moves, BEGIN goes out in front."""


class Joins:
    """A cursor whose statement opens the step's transaction where it is the first one; mixed into psycopg's."""

    _conn: Any
    _get_prepared: Any
    _check_results: Any

    def _execute_gen(self, *args: Any, **options: Any) -> Generator[Any, Any, None]:
        statement: Generator[Any, Any, None] = super()._execute_gen(*args, **options)  # type: ignore[misc]
        connection = self._conn
        if connection.opening is not None and _HOOKED:
            connection.opener = statement
        return statement

    def _maybe_prepare_gen(self, pgq: Any, *, prepare: Any = None, binary: Any = None) -> Generator[Any, Any, None]:
        if self._conn.opening is not None and pgq.params:
            prep, name = self._get_prepared(pgq, prepare)
            if prep is not Prepare.SHOULD:
                return self._open_and_execute(pgq, prep, name, binary)
        statement: Generator[Any, Any, None] = super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)  # type: ignore[misc]
        # In front of a text that may hold several statements, or one that is prepared first.
        return statement if self._conn.opening is None else _behind(self._conn, statement)

    def _open_and_execute(self, pgq: Any, prep: Prepare, name: bytes, binary: Any) -> Generator[Any, Any, None]:
        """What psycopg's own does, in one write with what opens the transaction."""
        connection, pgconn = self._conn, self._conn.pgconn
        opening, connection.opening, connection.opener = connection.opening, None, None
        pgconn.enter_pipeline_mode()
        send(pgconn, opening, [as_text(params) for _, _, params in opening], connection.prepared or ())
        if prep is Prepare.NO:
            self._execute_send(pgq, binary=binary)  # type: ignore[attr-defined]
        else:
            self._send_query_prepared(name, pgq, binary=binary)  # type: ignore[attr-defined]
        pgconn.pipeline_sync()
        results = yield from answers(pgconn)
        pgconn.exit_pipeline_mode()
        refused = first_failure(results[: len(opening)])
        if refused is not None:
            connection.mark = None
            error = errors.error_from_result(refused, encoding=connection.info.encoding)
            if not distrust(connection, error):
                raise error
            yield from _take_back(connection)
            connection.opening = opening  # as text it will do
            yield from self._open_and_execute(pgq, prep, name, binary)
            return
        check_writable(connection)
        own, prepared = results[len(opening) :], connection._prepared
        key = prepared.maybe_add_to_cache(pgq, prep, name)
        if key is not None:
            prepared.validate(key, prep, name, own)
        self._check_results(own)
        self._set_results(own)

    def _set_results(self, results: list[PGresult]) -> None:
        super()._set_results(results)  # type: ignore[misc]
        for result in results:
            if result.command_status == b"COMMIT":  # also COMMIT AND CHAIN, which keeps the mode
                self._conn.torn = True


class StepCursor(Joins, psycopg.Cursor[Any]):
    """The cursor of a step's connection."""


class AsyncStepCursor(Joins, psycopg.AsyncCursor[Any]):
    """The same for `async def`."""
