"""What the library sends in a step's transaction: BEGIN ahead of the body, the record with its COMMIT after it.

Both are driven by the connection's `wait`, below its cursors: a cursor costs more than BEGIN itself, and
psycopg's own pipeline mode turns around four times where the commit turns around once. A failed record
leaves COMMIT unexecuted: the server skips to the end of the pipeline.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias
from uuid import UUID

from psycopg import errors, generators
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

Records: TypeAlias = Sequence[tuple[str, str, tuple[Any, ...]]]
"""Statements to run before COMMIT: name, text, parameters."""

_COMMIT = b"commit"


def send_begin(connection: Any, isolation: str | None, path: str) -> None:
    """Sends BEGIN, and notes the step's path in the transaction for its record to compare; waits for no answer.

    The server works on it while Python makes its way to the user's first statement; `opened` reads the answer.
    """
    level = f" isolation level {isolation}" if isolation else ""
    pgconn: PGconn = connection.pgconn
    pgconn.send_query(f"begin{level}; set local dbdurable.step = '{path}'".encode())
    pgconn.flush()
    connection.opening = True


def opened(connection: Any) -> Generator[Any, Any, None]:
    """Reads the answer to BEGIN: before anything else is sent."""
    connection.opening = False
    pgconn: PGconn = connection.pgconn
    yield from generators.send(pgconn)
    for result in (yield from generators.fetch_many(pgconn)):
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, encoding=connection.info.encoding)


def record_and_commit(connection: Any, records: Records) -> Generator[Any, Any, str]:
    """Sends the records and COMMIT, then reads all answers; returns COMMIT's command tag.

    A record is a statement's name, text and parameters; it is prepared on the connection's first use of it.
    Raises the psycopg error of whichever failed; the transaction is then in error, or over.
    """
    pgconn: PGconn = connection.pgconn
    known: set[str] = connection.prepared
    pgconn.enter_pipeline_mode()
    answers: list[str | None] = []  # what each answer is to: a statement that is being prepared, or something else
    for name, text, params in records:
        if name not in known:
            pgconn.send_prepare(name.encode(), text.encode())
            answers.append(name)
        pgconn.send_query_prepared(name.encode(), [_text(value) for value in params])
        answers.append(None)
    pgconn.send_query_params(_COMMIT, None)
    answers.append(None)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    failed, tag = None, ""
    while True:
        result = yield from generators.fetch(pgconn)
        if result is None:
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            break
        preparing = answers.pop(0)
        if result.status == ExecStatus.FATAL_ERROR and failed is None:
            failed = result
        elif preparing is not None and result.status == ExecStatus.COMMAND_OK:
            known.add(preparing)  # no rollback undoes it: not even when the record is refused
        elif result.command_status:
            tag = result.command_status.decode()
    pgconn.exit_pipeline_mode()
    if failed is not None:
        error = errors.error_from_result(failed, encoding=connection.info.encoding)
        if isinstance(error, errors.InvalidSqlStatementName):
            known.clear()  # the body ran DEALLOCATE ALL; meaning() has it run again
        raise error
    return tag


def _text(value: Any) -> bytes | None:
    """A parameter in PostgreSQL's text format; its type is the statement's cast."""
    if value is None:
        return None
    if type(value) is str:
        return value.encode()
    if type(value) is UUID:
        return value.hex.encode()
    return str(value).encode()
