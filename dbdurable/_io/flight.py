"""What the library sends, each in one write: the record of a step with COMMIT, a service's flight.

All are driven by the connection's `wait`, below its cursors: a cursor costs more than BEGIN itself, and
psycopg's own pipeline mode sends statement by statement. What went out in one write the server carries to its
end, whatever becomes of this process meanwhile: nobody who is frozen half-way keeps locks. A statement that
fails leaves the rest unexecuted: the server skips to the end of the pipeline.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

import psycopg
from psycopg import DataError, errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Wait

Statements: TypeAlias = Sequence[tuple[str, str, tuple[Any, ...]]]
"""Name, text and parameters of each; one name stands for one text, whoever has prepared it. No name: text always."""

_READABLE: Final = Wait.R
_SYNC: Final = int(ExecStatus.PIPELINE_SYNC)  # as numbers: an enum's member costs ten times as much to look up
_FAILED: Final = int(ExecStatus.FATAL_ERROR)
_DONE: Final = int(ExecStatus.COMMAND_OK)
_COMMIT: Final = ("dbdurable_commit", "commit", ())


def ending(connection: Any, records: Statements) -> Generator[Any, Any, list[PGresult]]:
    """Sends the records and COMMIT, then reads all answers. Where nothing was executed yet, BEGIN goes in front.

    Raises the psycopg error of whichever failed; the transaction is then in error, or over.
    """
    opening, connection.opening = connection.opening, None
    statements = (*(opening or ()), *records, _COMMIT)
    return exchange(connection, statements, (*records, _COMMIT, *connection.begins))


def ended(results: list[PGresult]) -> tuple[bool, int | None]:
    """Of what `ending` has read: whether it was committed, and what the last record returned: when it was written."""
    *_, record, commit = results
    written_us = int(record.get_value(0, 0) or 0) if record.ntuples else None
    return commit.command_status == b"COMMIT", written_us


def fly(connection: Any, statements: Statements) -> Generator[Any, Any, list[list[tuple[Any, ...]]]]:
    """Sends statements of a transaction of their own, then reads all answers; returns the rows of each.

    Outside of a transaction a pipeline is one by itself: all of its statements commit at its end, or none.
    """
    results = yield from exchange(connection, statements, statements)
    transformer, answers = Transformer(connection), []
    for result in results:
        rows: list[tuple[Any, ...]] = []
        if result.ntuples:
            transformer.set_pgresult(result)
            rows = transformer.load_rows(0, result.ntuples, tuple)
        answers.append(rows)
    return answers


def exchange(connection: Any, statements: Statements, learnt: Statements = ()) -> Generator[Any, Any, list[PGresult]]:
    """One write, one answer: the result of each statement.

    Those `learnt` are prepared on the connection's first use of them, unless a pooler stands between. That goes out
    in front, as an exchange of its own: libpq hands the kernel 8 kB at a time, texts are long, and a process that is
    frozen in the middle of them must not leave the first statements executed, with their locks.
    """
    pgconn: PGconn = connection.pgconn
    known: set[str] | None = connection.prepared
    values = [as_text(params) if params else [] for _, _, params in statements]  # all, before anything is sent
    pgconn.enter_pipeline_mode()
    taught: list[str] = []
    if known is not None and not known.issuperset([name for name, _, _ in learnt]):
        taught = yield from _teach(pgconn, learnt, known)
    send(pgconn, statements, values, {*(known or ()), *taught} if taught else known or ())
    pgconn.pipeline_sync()
    lessons: list[PGresult] = []
    if taught:
        lessons = yield from answers(pgconn)
        for name, result in zip(taught, lessons, strict=False):
            if known is not None and result.status == _DONE:
                known.add(name)  # no rollback undoes it: not even when the statement is refused
    results = yield from answers(pgconn, sent=not taught)
    pgconn.exit_pipeline_mode()
    failed = first_failure(results)
    if failed is not None:
        # In a transaction, a lesson that is refused has spoilt what comes behind it.
        error = errors.error_from_result(first_failure(lessons) or failed, encoding=connection.info.encoding)
        distrust(connection, error)  # and meaning() has this one sent once more
        raise error
    return results


def _teach(pgconn: PGconn, learnt: Statements, known: Container[str]) -> Generator[Any, Any, list[str]]:
    """Sends what the session does not know yet, to be prepared, and says what; the answers are still to come."""
    texts = {name: text for name, text, _ in learnt if name not in known}
    for name, text in texts.items():
        pgconn.send_prepare(name.encode(), text.encode())
    pgconn.pipeline_sync()
    yield from generators.send(pgconn)
    return list(texts)


def answers(pgconn: PGconn, sent: bool = True) -> Generator[Any, Any, list[PGresult]]:
    """Sends what is left to send of a pipeline, then reads the answers to all of it.

    `sent`: nothing of it can be there yet. As few calls as will do: among threads each one that gives up the GIL, as
    psycopg's `fetch` and libpq's look at what has been read do, may cost more than the answer.
    """
    if pgconn.flush():  # the kernel did not take all of it at once
        yield from generators.send(pgconn)
    if sent:
        yield _READABLE
        pgconn.consume_input()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield _READABLE
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            raise _gone(results)
        if result.status == _SYNC:
            return results
        results.append(result)
        pgconn.get_result()  # behind the answer to a statement there is a None, which nobody has to wait for


def _gone(results: list[PGresult]) -> psycopg.Error:
    """The server has ended the session: the reason, if it has said one."""
    said = first_failure(results)
    return (
        errors.error_from_result(said)
        if said is not None
        else psycopg.OperationalError("the server ended the session behind a statement")
    )


def first_failure(results: Iterable[PGresult]) -> PGresult | None:
    """The answer to the statement that failed; what stood behind it in its pipeline was not executed."""
    for result in results:
        if result.status == _FAILED:
            return result
    return None


def send(pgconn: PGconn, statements: Statements, values: Iterable[list[bytes | None]], known: Container[str]) -> None:
    """Queues statements in a pipeline: by name where the session knows it."""
    for (name, text, _), parameters in zip(statements, values, strict=True):
        if name in known:
            pgconn.send_query_prepared(name.encode(), parameters)
        else:
            pgconn.send_query_params(text.encode(), parameters)


def distrust(connection: Any, error: psycopg.Error) -> bool:
    """Whether the session turns out not to know its statements; from here on it gets the text each time.

    There is a pooler that nobody has told us of, or the body ran DEALLOCATE ALL.
    """
    if not isinstance(error, errors.InvalidSqlStatementName | errors.DuplicatePreparedStatement):
        return False
    connection.prepared = None
    return True


def as_text(params: Iterable[Any]) -> list[bytes | None]:
    """Parameters in PostgreSQL's text format; the type of each is the statement's cast."""
    texts: list[bytes | None] = []
    for value in params:
        kind = type(value)
        if kind is str:
            if "\0" in value:
                raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            texts.append(value.encode())
        elif kind is int:
            texts.append(b"%d" % value)
        elif kind is UUID:
            texts.append(b"%032x" % value.int)
        elif value is None:
            texts.append(None)
        elif isinstance(value, str):
            texts += as_text((str(value),))
        elif kind is list:
            texts.append(b"{%s}" % b",".join(map(_element, as_text(value))))
        elif kind is bytes:
            texts.append(b"\\x%s" % value.hex().encode())
        else:
            texts.append(str(value).encode())
    return texts


def _element(text: bytes | None) -> bytes:
    """One element of an array; lists of lists have no use here."""
    return b"NULL" if text is None else b'"%s"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
