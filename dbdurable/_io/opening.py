"""How BEGIN travels: in one write with the first statement of the body, so that a step waits for it only once.

A connection that is to open a transaction keeps that to itself (`opening`) until something is executed on it. A
statement with parameters goes out behind BEGIN in a pipeline that is closed by the same write: the server ends it
"idle in transaction", as if each had been sent alone. Everything else (several statements in one text, COPY,
psycopg's own pipelines) gets an exchange for BEGIN in front, as psycopg itself does it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import errors, generators
from psycopg._cursor_base import BaseCursor  # a part of psycopg that it may change: see _HOOKED
from psycopg._preparing import Prepare
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from dbdurable._io.flight import FAILED, GONE, SYNC, arrival, as_text, distrust, exchange, send
from dbdurable._protocol.effects import Note
from dbdurable._sql.statement import session_name
from dbdurable._sql.step import MARK, NOTE

_IDLE: Final = int(TransactionStatus.IDLE)
_READABLE: Final = 1  # psycopg.waiting.Ready.R, without an enum's price


Opening: TypeAlias = tuple[tuple[str, str, tuple[Any, ...]], ...]
"""Statements that open a transaction: name, text and parameters of each."""

_BEGIN: Final = ("dbdurable_begin", "begin deferrable", ())
_BEGIN_WHERE_THAT_IS_THE_DEFAULT: Final = ("dbdurable_begin_not", "begin not deferrable", ())
_BEGIN_BEHIND_A_POOLER: Final = ("dbdurable_begin_plain", "begin", ())
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
        yield from exchange(connection, opening)  # as text
    check_writable(connection)


def opened_by(
    connection: Any, statement: Generator[Any, Any, None], again: Callable[[], Generator[Any, Any, None]]
) -> Generator[Any, Any, None]:
    """Opens the transaction in one write with `statement`: a generator of psycopg's that sends one, then reads.

    Where BEGIN itself is refused, it is sent once more, as text, in front of the statement `again`.
    """
    opening, connection.opening, connection.opener = connection.opening, None, None
    pgconn: PGconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    send(pgconn, opening, [as_text(params) for _, _, params in opening], connection.prepared or ())
    connection.closes_pipeline = True
    failed: psycopg.Error | None = None
    try:
        try:
            awaited = next(statement)  # it has sent its own, and the pipeline's end with it
        finally:
            close_pipeline(connection)  # where it has sent nothing
            if pgconn.flush():
                yield from generators.send(pgconn)
            for _ in opening:
                if pgconn.is_busy():
                    yield from arrival(pgconn)
                result = pgconn.get_result()
                if result is None:
                    raise psycopg.OperationalError(GONE)
                if result.status == FAILED:
                    connection.mark = None
                    raise errors.error_from_result(result, encoding=connection.info.encoding)
                pgconn.get_result()  # the None behind it
        while True:
            ready = (yield awaited) if pgconn.is_busy() else _READABLE
            awaited = statement.send(ready)
    except StopIteration:
        pass
    except psycopg.Error as error:
        failed = error
    ended = False
    while not ended:
        if pgconn.is_busy():
            yield from arrival(pgconn)  # raises when the session ends in front of the last answer
        last = pgconn.get_result()
        if last is not None and last.status == FAILED:
            failed = failed or errors.error_from_result(last, encoding=connection.info.encoding)
        ended = (last is not None and last.status == SYNC) or connection.closed
    if connection.closed:
        raise failed or psycopg.OperationalError(GONE)
    pgconn.exit_pipeline_mode()
    check_writable(connection)
    if failed is None:
        return
    if not (pgconn.transaction_status == _IDLE and distrust(connection, failed)):
        raise failed
    connection.opening = opening
    yield from opened_by(connection, again(), again)


def _behind(connection: Any, statement: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
    """The statement, after an exchange that opens the transaction."""
    yield from opened(connection)
    yield from statement


def close_pipeline(connection: Any) -> None:
    """Ends the pipeline of `opened_by` behind what is queued, once: all of it goes out now."""
    if connection.closes_pipeline:
        connection.closes_pipeline = False
        connection.pgconn.pipeline_sync()


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

    def _execute_gen(self, *args: Any, **options: Any) -> Generator[Any, Any, None]:
        statement = super()._execute_gen(*args, **options)  # type: ignore[misc]
        connection = self._conn  # type: ignore[attr-defined]  # the cursor's, behind us
        if connection.opening is not None and _HOOKED:
            connection.opener = statement
        return statement  # type: ignore[no-any-return]

    def _maybe_prepare_gen(self, pgq: Any, *, prepare: Any = None, binary: Any = None) -> Generator[Any, Any, None]:
        statement = super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)  # type: ignore[misc]
        connection = self._conn  # type: ignore[attr-defined]
        if connection.opening is None:
            return statement  # type: ignore[no-any-return]
        if pgq.params and self._get_prepared(pgq, prepare)[0] is not Prepare.SHOULD:  # type: ignore[attr-defined]
            again = partial(super()._maybe_prepare_gen, pgq, prepare=prepare, binary=binary)  # type: ignore[misc]
            return opened_by(connection, statement, again)
        return _behind(connection, statement)  # a text that may hold several statements, or one that is prepared first

    def _set_results(self, results: list[PGresult]) -> None:
        super()._set_results(results)  # type: ignore[misc]
        for result in results:
            if result.command_status == b"COMMIT":  # also COMMIT AND CHAIN, which keeps the mode
                self._conn.torn = True  # type: ignore[attr-defined]

    def _execute_send(self, *args: Any, **options: Any) -> None:
        super()._execute_send(*args, **options)  # type: ignore[misc]
        close_pipeline(self._conn)  # type: ignore[attr-defined]

    def _send_query_prepared(self, *args: Any, **options: Any) -> None:
        super()._send_query_prepared(*args, **options)  # type: ignore[misc]
        close_pipeline(self._conn)  # type: ignore[attr-defined]


class StepCursor(Joins, psycopg.Cursor[Any]):
    """The cursor of a step's connection."""


class AsyncStepCursor(Joins, psycopg.AsyncCursor[Any]):
    """The same for `async def`."""
