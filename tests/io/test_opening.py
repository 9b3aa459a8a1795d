"""BEGIN goes out with the body's first statement, whatever that is: all of it happens in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import dict_row

from dbdurable._io import opening as module
from dbdurable._io.database import Database
from dbdurable._io.opening import begins, opening_of
from dbdurable._protocol.effects import Note
from tests.crash.proxy import Proxy

Connection = psycopg.Connection[Any]
NOTE = Note("7", 1)
MARKED = "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory' and objid = 1"


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as opened:
        yield opened


@pytest.fixture
def database(proxy: Proxy) -> Iterator[Database]:
    database = Database(lambda: proxy.url, "dbdurable", auto_migrate=False, connections_max=2)
    yield database
    database.close()


@pytest.fixture
def tx(database: Database, connection: Connection) -> Connection:
    """A connection that is to open a transaction."""
    connection.execute("create table app (n int primary key)")
    lent = database.pool.getconn()
    lent.opening = opening_of(lent, None, NOTE)
    return lent


def count(proxy: Proxy, tx: Connection, work: Callable[[], Any]) -> int:
    before = proxy.round_trips[tx.info.backend_pid]
    work()
    return proxy.round_trips[tx.info.backend_pid] - before


def check_inside(tx: Connection) -> None:
    """It is in the transaction that was to be opened, and the server says so."""
    assert tx.info.transaction_status == TransactionStatus.INTRANS
    assert tx.pgconn.pipeline_status == PipelineStatus.OFF
    assert tx.execute("select current_setting('transaction_deferrable')").fetchone() == ("on",)
    assert tx.execute(MARKED).fetchone() == (1,)


def test_a_statement_with_parameters_opens_it_itself(proxy: Proxy, tx: Connection) -> None:
    assert count(proxy, tx, lambda: tx.execute("insert into app values (%s)", [1])) == 1
    check_inside(tx)
    tx.rollback()
    assert tx.execute("select n from app").fetchall() == []


@pytest.mark.parametrize("statement", ["select %s", "select 1"])
def test_a_session_carries_the_mark_of_one_executor(statement: str, proxy: Proxy, tx: Connection) -> None:
    held = "select objid::int from pg_locks where pid = pg_backend_pid() and locktype = 'advisory' order by 1"
    params = [1] if "%" in statement else None
    tx.mark = None  # type: ignore[attr-defined]  # what the fixture has noted is not sent
    for mark, statements in ((1, 2), (1, 1), (2, 2)):
        tx.opening = opening_of(tx, None, Note("7", mark))  # type: ignore[attr-defined]
        assert len(tx.opening) == statements  # type: ignore[attr-defined]
        tx.execute(statement, params)
        tx.commit()
        assert tx.execute(held).fetchall() == [(mark,)]


def test_its_rows_are_those_of_the_statement(tx: Connection) -> None:
    tx.row_factory = dict_row  # type: ignore[assignment]
    cursor = tx.execute("select n from generate_series(1, %s) n", [20_000])
    assert (cursor.rowcount, cursor.fetchone(), len(cursor.fetchall())) == (20_000, {"n": 1}, 19_999)
    tx.row_factory = psycopg.rows.tuple_row
    check_inside(tx)


def test_an_error_of_it_is_that_of_the_statement(proxy: Proxy, tx: Connection) -> None:
    with pytest.raises(errors.DivisionByZero):
        tx.execute("select 1 / %s", [0])
    assert tx.info.transaction_status == TransactionStatus.INERROR
    with pytest.raises(errors.InFailedSqlTransaction):
        tx.execute("select %s", [1])
    tx.rollback()
    assert tx.info.transaction_status == TransactionStatus.IDLE


def test_a_session_that_ends_behind_the_statement_is_noticed(proxy: Proxy, tx: Connection) -> None:
    """Not only when the step is recorded: it would look as if the body had broken its connection."""
    proxy.end_before_ready(tx.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        tx.execute("insert into app values (%s)", [1])
    assert tx.closed


@pytest.mark.parametrize("bad", [[1, 2], {"n": 1}])
def test_parameters_that_do_not_fit_send_nothing(bad: Any, proxy: Proxy, tx: Connection) -> None:
    def refused() -> None:
        with pytest.raises((psycopg.ProgrammingError, TypeError)):
            tx.execute("insert into app values (%s)", bad)

    assert count(proxy, tx, refused) == 0
    assert tx.info.transaction_status == TransactionStatus.IDLE
    tx.execute("insert into app values (%s)", [1])
    check_inside(tx)


def test_a_value_that_cannot_be_dumped_sends_nothing(tx: Connection) -> None:
    with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
        tx.execute("insert into app values (%s)", [object()])
    tx.execute("insert into app values (%s)", [1])
    check_inside(tx)


def several(tx: Connection) -> None:
    tx.execute("insert into app values (1); insert into app values (2)")


def unused_parameter(tx: Connection) -> None:
    tx.execute("insert into app values (1)", {"unused": 1})


def many(tx: Connection) -> None:
    tx.cursor().executemany("insert into app values (%s)", [[1], [2]])


def copy(tx: Connection) -> None:
    with tx.cursor().copy("copy app from stdin") as rows:
        rows.write_row([1])


def savepoint(tx: Connection) -> None:
    with tx.transaction():
        tx.execute("insert into app values (%s)", [1])


def pipeline(tx: Connection) -> None:
    with tx.pipeline():
        tx.execute("insert into app values (%s)", [1])
        tx.execute("insert into app values (%s)", [2])


def stream(tx: Connection) -> None:
    assert list(tx.cursor().stream("insert into app select generate_series(1, %s) returning n", [2])) == [(1,), (2,)]


def server_cursor(tx: Connection) -> None:
    tx.execute("insert into app values (%s)", [1])
    with tx.cursor("named") as named:
        assert named.execute("select n from app where n = %s", [1]).fetchall() == [(1,)]


def client_cursor(tx: Connection) -> None:
    psycopg.ClientCursor(tx).execute("insert into app values (%s)", [1])


def prepared_by_wish(tx: Connection) -> None:
    tx.execute("insert into app values (%s)", [1], prepare=True)


def binary(tx: Connection) -> None:
    assert tx.execute("insert into app values (%b) returning n", [1], binary=True).fetchone() == (1,)


FIRST = [several, unused_parameter, many, copy, savepoint, pipeline, stream, server_cursor, client_cursor]
FIRST += [prepared_by_wish, binary]


@pytest.mark.parametrize("first", FIRST)
def test_whatever_comes_first_is_inside(first: Callable[[Connection], None], tx: Connection) -> None:
    first(tx)
    check_inside(tx)
    tx.rollback()
    assert tx.execute("select n from app").fetchall() == []


@pytest.mark.parametrize("first", FIRST)
def test_if_psycopg_were_built_otherwise_begin_went_out_in_front(
    first: Callable[[Connection], None], tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module.Joins, "_maybe_prepare_gen")  # as if nobody ever called it
    monkeypatch.setattr(module, "_HOOKED", False)
    first(tx)
    check_inside(tx)


def test_a_statement_is_prepared_after_some_uses_and_stays_so(proxy: Proxy, tx: Connection) -> None:
    took = []
    for n in range(10):
        if n:
            tx.commit()  # psycopg forgets all of them after a rollback
            tx.opening = opening_of(tx, None, NOTE)  # type: ignore[attr-defined]
        took.append(count(proxy, tx, lambda n=n: tx.execute("insert into app values (%s)", [n])))
    check_inside(tx)
    # Once it is prepared: BEGIN, the text and the execution are three exchanges then.
    assert took == [1, 1, 1, 1, 1, 3, 1, 1, 1, 1]


def test_psycopg_forgets_statements_meanwhile(tx: Connection) -> None:
    """It sends DEALLOCATE behind a statement once it has prepared too many."""
    tx.prepare_threshold, tx.prepared_max = 0, 2
    for n in range(6):
        if n:
            tx.commit()
            tx.opening = opening_of(tx, None, NOTE)  # type: ignore[attr-defined]
        assert tx.execute(f"select {n} + %s::int", [0]).fetchone() == (n,)
        check_inside(tx)


@pytest.mark.parametrize(("statement", "params", "exchanges"), [("%s", [2], 2), ("2", None, 3)])
def test_a_session_that_has_forgotten_begin_gets_its_text(
    statement: str, params: Any, exchanges: int, proxy: Proxy, tx: Connection
) -> None:
    """As one behind a pooler of which nobody has told us may: the body does not notice."""
    tx.opening = tx.mark = None  # type: ignore[attr-defined]
    tx.pgconn.prepare(b"dbdurable_begin", b"begin deferrable")
    tx.prepared.add("dbdurable_begin")  # type: ignore[attr-defined]
    tx.opening = opening_of(tx, None, NOTE)  # type: ignore[attr-defined]
    assert count(proxy, tx, lambda: tx.execute("insert into app values (%s)", [1])) == 1
    check_inside(tx)
    tx.commit()
    tx.execute("deallocate all")
    tx.opening = opening_of(tx, None, NOTE)  # type: ignore[attr-defined]
    assert count(proxy, tx, lambda: tx.execute(f"insert into app values ({statement})", params)) == exchanges
    check_inside(tx)
    assert tx.prepared is None  # type: ignore[attr-defined]
    tx.rollback()
    assert tx.execute("select n from app").fetchall() == [(1,)]


@pytest.mark.parametrize(("statement", "params", "exchanges"), [("%s", [1], 3), ("1", None, 4)])
def test_a_session_that_knows_begin_and_not_the_note_gets_the_text_of_both(
    statement: str, params: Any, exchanges: int, proxy: Proxy, tx: Connection
) -> None:
    """Behind a pooler each transaction may get another session: one that another application has taught BEGIN."""
    tx.opening = tx.mark = None  # type: ignore[attr-defined]
    tx.begins = begins(pooled=True, deferrable=False)  # type: ignore[attr-defined]
    (begin, text, _), (note, *_) = tx.begins  # type: ignore[attr-defined]
    tx.pgconn.prepare(begin.encode(), text.encode())
    tx.prepared |= {begin, note}  # type: ignore[attr-defined]
    tx.opening = opening_of(tx, None, NOTE)  # type: ignore[attr-defined]
    assert count(proxy, tx, lambda: tx.execute(f"insert into app values ({statement})", params)) == exchanges
    assert tx.info.transaction_status == TransactionStatus.INTRANS
    assert tx.execute("select current_setting('dbdurable.step')").fetchone() == ("7",)
    assert tx.prepared is None  # type: ignore[attr-defined]
    tx.commit()
    assert tx.execute("select n from app").fetchall() == [(1,)]


async def test_in_the_other_colour(proxy: Proxy, connection: Connection) -> None:
    connection.execute("create table app (n int primary key)")
    database = Database(lambda: proxy.url, "dbdurable", auto_migrate=False)
    pool = await database.async_pool()
    tx = await pool.getconn()
    tx.opening = opening_of(tx, "serializable", NOTE)
    before = proxy.round_trips[tx.info.backend_pid]
    cursor = await tx.execute("select current_setting('transaction_isolation'), %s::int", [5])
    assert await cursor.fetchone() == ("serializable", 5)
    assert proxy.round_trips[tx.info.backend_pid] - before == 1
    assert tx.info.transaction_status == TransactionStatus.INTRANS
    await tx.rollback()
    tx.opening = opening_of(tx, None, NOTE)
    with pytest.raises(errors.DivisionByZero):
        await tx.execute("select 1 / %s", [0])
    assert tx.info.transaction_status == TransactionStatus.INERROR
    await tx.rollback()
    await pool.putconn(tx)
    await database.aclose()
