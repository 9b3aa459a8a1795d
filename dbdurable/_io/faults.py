"""What a driver's error means to the protocol: the one place that reads SQLSTATEs."""

from __future__ import annotations

from typing import Any, NoReturn

import psycopg
from psycopg.pq import TransactionStatus

from dbdurable._core.control import ConnectionLost, Duplicate, Fenced, Torn, Transient
from dbdurable._core.retry import sqlstate
from dbdurable._io.connect import READ_ONLY
from dbdurable.errors import (
    BadArgument,
    KeyConflict,
    NotInTransaction,
    PromiseCompleted,
    QueueFull,
    SchemaMismatch,
    UnknownPromise,
    UnknownQueue,
    UnknownWorkflow,
    WorkflowFinished,
)

_TRANSIENT = frozenset({"40001", "40P01", "55P03", "26000", "42P05"})
"""The last two: the session does not know a prepared statement, or knew it before; `flight` sends text from then on."""
_MISSING = frozenset({"3F000", "42P01", "42883", "42703", "42704"})


def raise_meaning(error: psycopg.Error, connection: Any, schema: str) -> NoReturn:
    """Raises what an error of a statement of the library's own means."""
    found = meaning(error, connection, schema)
    if found is error:
        raise error
    raise found from error


def meaning(error: psycopg.Error, connection: Any, schema: str) -> BaseException:
    """The error to raise for one that a statement of the library's own met."""
    state = error.sqlstate
    text = error.diag.message_primary or str(error)
    if state is not None and state.startswith("DD"):
        return _private(state, text, error.diag.message_hint)
    if state == "23505" and error.diag.schema_name == schema and error.diag.table_name == "step":
        return Duplicate(text)
    if state in _TRANSIENT:
        return Transient(text)
    if state == "25P02":
        return NotInTransaction(ABORTED)
    if drop_read_only(error, connection):
        return ConnectionLost(READ_ONLY)
    if state == "25006":
        return NotInTransaction(
            "the body made its transaction read-only, so that its record cannot be written: remove SET TRANSACTION "
            "READ ONLY; what only reads can be a step with a connection of its own"
        )
    if state in _MISSING:
        return SchemaMismatch(
            f"the tables of schema {schema!r} are missing or of another version ({text}); "
            "run `dbdurable migrate`, or check the URL and the schema's name"
        )
    if is_lost(error, connection):
        return ConnectionLost(text, getattr(connection, "backend", None))
    return error


ABORTED = (
    "the body caught a database error: PostgreSQL has aborted the transaction, so nothing in it can commit. "
    "Put statements that may fail into `with connection.transaction():` (a savepoint), or let the error out."
)


def drop_read_only(error: BaseException, connection: Any) -> bool:
    """Whether the server takes no writes any more; closes the connection, so that the next one may find the primary.

    A step's transaction is looked at when it begins (`check_writable`): what becomes read-only later was made so by
    its body. Only behind a pooler nobody can tell.
    """
    if sqlstate(error) != "25006":
        return False
    if connection is not None and not connection.closed:
        if connection.info.transaction_status == TransactionStatus.INERROR and connection.backend is not None:
            return False
        connection.pgconn.finish()
    return True


def is_lost(error: psycopg.Error, connection: Any) -> bool:
    """Whether the connection is gone, or answers that it is about to."""
    state = error.sqlstate or ""
    if state.startswith("08") or state in ("57P01", "57P02", "57P03", "57P05"):
        return True
    if connection is None:
        return isinstance(error, psycopg.OperationalError)
    return bool(connection.closed) or (isinstance(error, psycopg.OperationalError) and not state)


def _private(state: str, text: str, hint: str | None) -> BaseException:
    said = f"{text}; {hint}" if hint else text
    match state:
        case "DD001":
            return Fenced(text)
        case "DD002":
            return Torn(text)
        case "DD003":
            return KeyConflict(f"{text}; use another key, or the same arguments")
        case "DD004" | "DD006":
            return UnknownWorkflow(said)
        case "DD007":
            return QueueFull(f"{said}; nothing was started")
        case "DD008":
            return UnknownQueue(f"{said}; declare it, durable.queue(...), or start an executor that serves it")
        case "DD011":
            return WorkflowFinished(said)
        case "DD012":
            return UnknownPromise(said)
        case "DD013":
            return PromiseCompleted(said)
        case _:
            return BadArgument(said)


__all__ = ["ABORTED", "drop_read_only", "is_lost", "meaning", "raise_meaning"]
