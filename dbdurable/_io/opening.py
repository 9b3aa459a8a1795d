"""How BEGIN travels: in one write with the first statement of the body, so that a step waits for it only once.

A connection that is to open a transaction keeps that to itself (`opening`) until something is executed on it. A
statement with parameters goes out behind BEGIN in a pipeline that is closed by the same write: the server ends it
"idle in transaction", as if each had been sent alone. Everything else (several statements in one text, COPY,
psycopg's own pipelines) gets an exchange for BEGIN in front, as psycopg itself does it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg import errors, generators
from psycopg._cursor_base import BaseCursor  # a part of psycopg that it may change: see _HOOKED
from psycopg._preparing import Prepare
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn

from dbdurable._io.flight import arrival, as_text, distrust, exchange, next_result, send

_IDLE: Final = int(TransactionStatus.IDLE)
_READABLE: Final = 1  # psycopg.waiting.Ready.R, without an enum's price


def opened(connection: Any) -> Generator[Any, Any, None]:
    """Opens the transaction, in an exchange of its own."""
    opening, connection.opening = connection.opening, None
    trusted = connection.prepared is not None
    try:
        yield from exchange(connection, opening)
    except psycopg.Error:
        if not trusted or connection.prepared is not None:
            raise
        yield from exchange(connection, opening)  # as text
    check_writable(connection)


def opened_by(connection: Any, statement: Generator[Any, Any, None]) -> Generator[Any, Any, None]:
    """Opens the transaction in one write with `statement`: a generator of psycopg's that sends one, then reads."""
    opening, connection.opening = connection.opening, None
    pgconn: PGconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    send(pgconn, opening, [as_text(params) for _, _, params in opening], connection.prepared or ())
    connection.closes_pipeline = True
    failed: BaseException | None = None
    try:
        try:
            awaited = next(statement)  # it has sent its own, and the pipeline's end with it
        finally:
            close_pipeline(connection)  # where it has sent nothing
            yield from generators.send(pgconn)
            for _ in opening:
                result = yield from next_result(pgconn)
                if result.status == ExecStatus.FATAL_ERROR:
                    raise errors.error_from_result(result, encoding=connection.info.encoding)
        while True:
            ready = (yield awaited) if pgconn.is_busy() else _READABLE
            awaited = statement.send(ready)
    except StopIteration:
        pass
    except psycopg.Error as error:
        failed = error
    ended = False
    while not ended:
        yield from arrival(pgconn)  # raises when the session ends in front of the last answer
        last = pgconn.get_result()
        if last is not None and last.status == ExecStatus.FATAL_ERROR:
            failed = failed or errors.error_from_result(last, encoding=connection.info.encoding)
        ended = connection.closed or (last is not None and last.status == ExecStatus.PIPELINE_SYNC)
    if connection.closed:
        raise failed or psycopg.OperationalError("the server ended the session behind a statement")
    pgconn.exit_pipeline_mode()
    check_writable(connection)
    if failed is not None:
        raise failed


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

    def _execute_gen(self, query: Any, params: Any = None, **options: Any) -> Generator[Any, Any, None]:
        connection = self._conn  # type: ignore[attr-defined]  # the cursor's, behind us
        if connection.opening is not None and not _HOOKED:
            yield from opened(connection)
        yield from super()._execute_gen(query, params, **options)  # type: ignore[misc]

    def _maybe_prepare_gen(self, pgq: Any, *, prepare: Any = None, binary: Any = None) -> Generator[Any, Any, None]:
        connection = self._conn  # type: ignore[attr-defined]
        statement = super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)  # type: ignore[misc]
        if connection.opening is None:
            yield from statement
        elif pgq.params and self._get_prepared(pgq, prepare)[0] is not Prepare.SHOULD:  # type: ignore[attr-defined]
            opening = connection.opening
            try:
                yield from opened_by(connection, statement)
            except psycopg.Error as error:
                if not (connection.pgconn.transaction_status == _IDLE and distrust(connection, error)):
                    raise
                connection.opening = opening  # BEGIN itself was refused: as text it will do
                yield from self._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        else:  # a text that may hold several statements, or one that is prepared first
            yield from opened(connection)
            yield from statement

    def _execute_send(self, *args: Any, **options: Any) -> None:
        super()._execute_send(*args, **options)  # type: ignore[misc]
        close_pipeline(self._conn)  # type: ignore[attr-defined]

    def _send_query_prepared(self, *args: Any, **options: Any) -> None:
        super()._send_query_prepared(*args, **options)  # type: ignore[misc]
        close_pipeline(self._conn)  # type: ignore[attr-defined]


OPENS: Final = Joins._execute_gen.__code__
"""The code of generators that see to BEGIN themselves."""


class StepCursor(Joins, psycopg.Cursor[Any]):
    """The cursor of a step's connection."""


class AsyncStepCursor(Joins, psycopg.AsyncCursor[Any]):
    """The same for `async def`."""
