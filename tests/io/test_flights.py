"""A service's flight: one write that the server carries to its end, one round trip, one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dbdurable._io.database import Database
from dbdurable._io.drive import SyncDriver
from dbdurable._io.drive_async import AsyncDriver
from dbdurable._io.flight import exchange, fly
from dbdurable._io.pool import OwnConnection
from dbdurable._protocol.effects import Query, flight, query
from dbdurable._sql.executor import CLOCK
from dbdurable._sql.statement import ALL, Statement
from tests.crash.proxy import Proxy
from tests.support.wait import wait_until


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(lambda: database_url, "dbdurable", auto_migrate=False)
    yield database
    database.close()


@pytest.fixture
def own(database: Database) -> Iterator[OwnConnection]:
    own = database.own_connection()
    yield own
    own.close()


@pytest.fixture
def table(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    connection.execute("create table mark (what text)")
    return connection


def said(*texts: str) -> list[tuple[str, str, tuple[Any, ...]]]:
    return [(f"mark_{number}", text, ()) for number, text in enumerate(texts)]


def marks(connection: psycopg.Connection[Any]) -> list[str]:
    return [what for (what,) in connection.execute("select what from mark order by 1")]


def test_it_ends_without_its_client(own: OwnConnection, table: psycopg.Connection[Any]) -> None:
    """As one sees it who is frozen from the moment on when all was sent: nothing stays locked."""
    connection = own.getconn()
    going = fly(connection, said("insert into mark values ('one')", "insert into mark values ('two')"))
    next(going)  # it waits for the socket; what there was to send is sent
    wait_until(lambda: marks(table) == ["one", "two"], 5, "the server to finish what nobody reads")
    table.execute("set lock_timeout = '1s'")
    table.execute("truncate mark")  # takes the strongest lock


@pytest.mark.parametrize("prepare", ["auto", "never"])
def test_all_or_nothing(prepare: Any, database_url: str, table: psycopg.Connection[Any]) -> None:
    database = Database(lambda: database_url, "dbdurable", auto_migrate=False, prepare=prepare)
    own = database.own_connection()
    connection = own.getconn()
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.wait(fly(connection, said("insert into mark values ('one')", "select 1/0", "select 2")))
    assert marks(table) == []
    assert connection.wait(fly(connection, [("next", "select 3", ())])) == [[(3,)]]
    own.close()


def test_the_same_statement_twice_in_one_flight(own: OwnConnection, database: Database) -> None:
    driver = SyncDriver(database, pool=own)
    for _ in range(2):
        assert len(driver.run(flight(Query(CLOCK, ()), Query(CLOCK, ())))) == 2
    assert own.getconn().prepared, "it is trusted with prepared statements still"


def test_what_the_session_knows_already_is_told_as_what_spoilt_the_transaction(own: OwnConnection) -> None:
    """Behind a pooler another application may have taught it: the body did nothing wrong, and is tried again."""
    connection = own.getconn()
    connection.pgconn.prepare(b"mark_0", b"select 1")
    connection.execute("begin")
    with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
        connection.wait(exchange(connection, said("select 1"), said("select 1")))
    assert connection.prepared is None, "from here on it gets the text"
    connection.rollback()
    connection.execute("begin")
    assert len(connection.wait(exchange(connection, said("select 1"), said("select 1")))) == 1
    connection.rollback()


def test_a_flight_takes_one_round_trip(database_url: str) -> None:
    with Proxy(database_url) as proxy:
        database = Database(lambda: proxy.url, "dbdurable", auto_migrate=False)
        own = database.own_connection()
        driver = SyncDriver(database, pool=own)
        own.getconn()
        driver.run(query(CLOCK))  # prepares: whether that is seen as an exchange of its own, chance decides
        before = proxy.round_trips.copy()
        for _ in range(10):
            driver.run(flight(*[Query(CLOCK, ())] * 5))
            driver.run(query(CLOCK))
        assert sum((proxy.round_trips - before).values()) == 20
        own.close()


async def test_a_flight_takes_one_round_trip_async(database_url: str) -> None:
    with Proxy(database_url) as proxy:
        database = Database(lambda: proxy.url, "dbdurable", auto_migrate=False)
        driver = AsyncDriver(database)
        await driver.run(query(CLOCK))
        before = proxy.round_trips.copy()
        for _ in range(10):
            await driver.run(flight(*[Query(CLOCK, ())] * 5))
        assert sum((proxy.round_trips - before).values()) == 10
        await database.aclose()


@pytest.fixture
def echo() -> Iterator[Statement]:
    """Gives back what it got, of every type that a statement of ours takes."""
    statement = Statement(
        "echo_for_a_test",
        """
        select $1::text, $2::uuid, $3::int, $4::float8, $5::boolean, $6::timestamptz, $7::text[], $8::uuid[],
               $9::float8[], $10::timestamptz[], $11::bytea
        """,
    )
    yield statement
    del ALL[statement.name]


@pytest.mark.parametrize(
    "text", ["", "plain", 'quo"te', "back\\slash", "{brace,comma}", "NULL", "žluťoučký 🐎", "new\nline", " "]
)
def test_parameters_arrive_as_they_were_given(text: str, echo: Statement, database: Database) -> None:
    id, at = UUID(int=7), datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    given = (text, id, -5, 1e-7, True, at, [text, None, text], [id, None], [1.5, None, -1e300], [at], b"\0\xff")
    assert SyncDriver(database).run(query(echo, *given)) == [given]
    nothing = (None,) * 11
    assert SyncDriver(database).run(query(echo, *nothing)) == [nothing]
    empty = (*nothing[:6], [], [], [], [], b"")
    assert SyncDriver(database).run(query(echo, *empty)) == [empty]


@pytest.mark.parametrize("bad", ["nul \0", ["in a list \0"]])
def test_nul_is_refused_before_anything_is_sent(
    bad: Any, echo: Statement, own: OwnConnection, database: Database
) -> None:
    params = [None] * 11
    params[0 if isinstance(bad, str) else 6] = bad
    with pytest.raises(psycopg.DataError, match="NUL"):
        SyncDriver(database, pool=own).run(query(echo, *params))
    assert own.generation == 1
    assert SyncDriver(database, pool=own).run(query(CLOCK))
    assert own.generation == 1, "the connection was of no more use"
