"""The record and its COMMIT in one exchange: both are sent, then both answers are read.

psycopg's own pipeline mode turns around four times where this turns around once; the statements and their
order are the same. A failed record leaves COMMIT unexecuted: the server skips to the end of the pipeline.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from uuid import UUID

from psycopg import errors, generators
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

_COMMIT = b"commit"


def record_and_commit(connection: Any, name: str, text: str, params: tuple[Any, ...]) -> Generator[Any, Any, str]:
    """Driven by `connection.wait`; the answer is COMMIT's command tag.

    `name` names the prepared statement: it is prepared on the connection's first use of it. Raises the
    psycopg error of whichever failed; the transaction is then in error, or over.
    """
    pgconn: PGconn = connection.pgconn
    known: set[str] = connection.prepared
    pgconn.enter_pipeline_mode()
    preparing = name not in known
    if preparing:
        pgconn.send_prepare(name.encode(), text.encode())
    pgconn.send_query_prepared(name.encode(), [_text(value) for value in params])
    pgconn.send_query_params(_COMMIT, None)
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    failed, tag = None, ""
    while True:
        result = yield from generators.fetch(pgconn)
        if result is None:
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            break
        if preparing:
            preparing = False
            if result.status == ExecStatus.COMMAND_OK:
                known.add(name)  # no rollback undoes it: not even when the record is refused
                continue
        if result.status == ExecStatus.FATAL_ERROR and failed is None:
            failed = result
        elif result.command_status:
            tag = result.command_status.decode()
    pgconn.exit_pipeline_mode()
    if failed is not None:
        error = errors.error_from_result(failed, encoding=connection.info.encoding)
        if isinstance(error, errors.InvalidSqlStatementName):
            known.discard(name)  # the body ran DEALLOCATE ALL; meaning() has it run again
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
