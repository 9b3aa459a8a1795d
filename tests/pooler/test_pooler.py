"""What the library does differently behind a pooler in transaction mode, and what it leaves behind there: nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from dbdurable import Client, Durable, Status
from dbdurable._core.control import Transient
from dbdurable._io.database import Database
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import query
from dbdurable._sql.executor import CLOCK
from dbdurable._sql.upkeep import DECLARE_EXPIRED
from dbdurable.errors import WorkflowCancelled
from tests.pooler.conftest import POOL_SIZE, PgBouncer
from tests.support.wait import wait_until
from tests.support.workflows import LIMIT_S, Gate

INTERVAL = "client_connection_check_interval"


class Shop:
    """One application: both colours, transactions and steps."""

    def __init__(self, url: str, **options: Any) -> None:
        self.durable = durable = Durable(url, **options)
        self.holding = False

        @durable.transaction
        def book(tx: Connection, number: int) -> int:
            for _ in range(7):  # psycopg prepares what runs more than five times
                tx.execute("insert into booking values (%s)", [number])
            return number

        @durable.transaction
        async def abook(tx: AsyncConnection, number: int) -> int:
            for _ in range(7):
                await tx.execute("insert into booking values (%s)", [number])
            return number

        @durable.step
        def tell(number: int) -> int:
            return number * 2

        @durable.workflow
        def order(number: int) -> int:
            return tell(book(number))

        @durable.workflow
        async def aorder(number: int) -> int:
            return int(sum(await asyncio.gather(abook(number), tell.aio(number))))

        @durable.workflow
        def patient(number: int) -> int:
            while True:
                self.holding = True
                tell(number)

        self.order, self.aorder, self.patient, self.book = order, aorder, patient, book


@pytest.fixture
def prepared(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The application's table; a connection without the pooler."""
    connection.execute("create table booking (number integer)")
    return connection


@contextlib.contextmanager
def opened(shop: Shop) -> Iterator[Any]:
    with shop.durable.executor(threads=8, tasks=8) as executor:
        yield executor
    shop.durable.close()


def booked(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute("select number, count(*) from booking group by 1 order by 1").fetchall()


def sessions(url: str) -> list[tuple[Any, ...]]:
    """What is set and prepared in every session of the pooler: all are held at once."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(psycopg.connect(url)) for _ in range(POOL_SIZE)]
        return [
            connection.execute(
                "select pg_backend_pid(), current_setting(%s), (select array_agg(name) from pg_prepared_statements)",
                [INTERVAL],
                prepare=False,
            ).fetchone()
            or ()
            for connection in held
        ]


def test_all_of_it_works_and_nothing_stays_behind(pooled_url: str, prepared: psycopg.Connection[Any]) -> None:
    shop = Shop(pooled_url)
    with opened(shop) as executor:
        handles = [shop.order.start(n) for n in range(30)] + [shop.aorder.sync.start(100 + n) for n in range(30)]
        direct = [shop.order(200 + n) for n in range(5)]
        assert direct == [2 * (200 + n) for n in range(5)]
        assert [handle.result(30) for handle in handles] == [
            *(2 * n for n in range(30)),
            *(3 * (100 + n) for n in range(30)),
        ]
        with Client(pooled_url) as client:
            assert client.workflow("order", returns=int).start(number=300).result(30) == 600
            assert len(client.workflows(limit=1000)) == 66
            stuck = shop.patient.start(1)
            wait_until(lambda: shop.holding)
            client.handle(stuck.id).cancel("enough")
            with pytest.raises(WorkflowCancelled, match="enough"):
                stuck.result(30)
        assert prepared.execute("select session_pid, session_start from dbdurable.executor").fetchall() == [
            (None, None)
        ]
        executor.wait_idle(30)
    numbers = [*range(30), *range(100, 130), *range(200, 205), 300]
    assert booked(prepared) == [(number, 7) for number in numbers]
    found = sessions(pooled_url)
    assert len({pid for pid, *_ in found}) == POOL_SIZE
    assert {setting for _, setting, _ in found} == set(prepared.execute(f"show {INTERVAL}").fetchone() or ())
    assert {names for _, _, names in found} == {None}


async def test_on_the_callers_loop(pooled_url: str, prepared: psycopg.Connection[Any]) -> None:
    shop = Shop(pooled_url)
    async with shop.durable.executor(threads=4, tasks=8):
        assert await asyncio.gather(*(shop.aorder(n) for n in range(20))) == [3 * n for n in range(20)]
        handle = await shop.order.aio.start(50)
        assert await handle.result(30) == 100
    shop.durable.close()
    assert booked(prepared) == [(n, 7) for n in [*range(20), 50]]


def test_the_tables_are_made_through_it(empty_pooled_url: str, empty_connection: psycopg.Connection[Any]) -> None:
    empty_connection.execute("create table booking (number integer)")
    shop = Shop(empty_pooled_url)
    with opened(shop):
        assert shop.order(1) == 2


def test_a_start_in_the_callers_transaction(pooled_url: str, prepared: psycopg.Connection[Any]) -> None:
    shop = Shop(pooled_url)
    with opened(shop):
        with psycopg.connect(pooled_url) as tx:
            tx.execute("insert into booking values (7)")
            handle = shop.order.options(tx=tx).start(8)
        assert handle.result(30) == 16
    assert booked(prepared) == [(7, 1), (8, 7)]


@pytest.mark.parametrize("prepare", ["auto", "never", "always"])
def test_prepared_statements_by_setting(
    prepare: str, pooled_url: str, direct_url: str, prepared: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBDURABLE_PREPARE", prepare)
    shop = Shop(direct_url)
    with opened(shop):
        shop.order(1)
        pool = shop.durable._runtime.database.pool
        session = pool.getconn()
        names = session.execute("select name from pg_prepared_statements where name like 'finish%'").fetchall()
        pool.putconn(session)
    assert len(names) == (prepare != "never")


def test_a_pooler_that_forgets_statements_is_found_out(pooled_url: str) -> None:
    """Told to prepare behind a pooler that does not keep up with it: a connection errs once, then it sends texts."""
    database = Database(lambda: pooled_url, "dbdurable", prepare="always")
    driver, answers, faults = SyncDriver(database), 0, 0
    for number in range(20):
        with contextlib.ExitStack() as stack:
            for _ in range(number % POOL_SIZE):  # open transactions of others: ours gets another session each time
                stack.enter_context(psycopg.connect(pooled_url)).execute("select 1")
            try:
                answers += len(driver.run(query(CLOCK)))
            except Transient as fault:
                faults += 1
                assert "prepared statement" in str(fault)  # noqa: PT017  (which of them errs is PgBouncer's choice)
    database.close()
    assert (answers, faults) == (19, 1)


def test_applications_that_share_a_pooler_never_run_each_others_statements(
    pooled_url: str, prepared: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where both were told to prepare: a statement's name holds a hash of its text."""
    monkeypatch.setenv("DBDURABLE_PREPARE", "always")
    one, other = Shop(pooled_url), Shop(pooled_url, schema="other")
    with opened(one), opened(other):
        for number in range(20):
            assert one.order.options(key=f"{number}").start(number).result(30) == 2 * number
            assert other.order.options(key=f"{number}").start(100 + number).result(30) == 2 * (100 + number)
    for schema, first in (("dbdurable", 0), ("other", 100)):
        rows = prepared.execute(f"select (input->>'number')::int from {schema}.workflow order by 1").fetchall()  # type: ignore[arg-type]
        assert rows == [(first + number,) for number in range(20)]
    assert booked(prepared) == [(n, 7) for n in [*range(20), *range(100, 120)]]


def test_what_the_dead_have_begun_is_ended(
    pooled_url: str, prepared: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark goes with the transaction, whichever session the pooler has lent."""
    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "0.2")
    durable, gate = Durable(pooled_url), Gate()

    @durable.transaction
    def book(tx: Connection) -> None:
        tx.execute("insert into booking values (%s)", [1])
        gate.wait()

    with durable.executor():
        handle = book.start()
        gate.wait_reached()
        prepared.execute("update dbdurable.executor set expires_at = clock_timestamp() - interval '1 s'")
        declared = prepared.execute(DECLARE_EXPIRED.render("dbdurable")).fetchall()
        assert [ended for *_, ended in declared] == [1]
        gate.go.set()
        handle.result(LIMIT_S)
    durable.close()
    assert prepared.execute("select number from booking").fetchall() == [(1,)]


def test_the_pooler_is_restarted(pooled_url: str, pgbouncer: PgBouncer, prepared: psycopg.Connection[Any]) -> None:
    shop = Shop(pooled_url)
    with opened(shop):
        (before,) = prepared.execute("select id from dbdurable.executor").fetchone() or (None,)
        handles = [shop.order.start(n) for n in range(10)]
        pgbouncer.stop()
        pgbouncer.start()
        handles += [shop.order.start(n) for n in range(10, 20)]
        assert [handle.result(30) for handle in handles] == [2 * n for n in range(20)]
        assert [handle.status() for handle in handles] == [Status.SUCCEEDED] * 20
        assert prepared.execute("select id from dbdurable.executor").fetchall() == [(before,)]
    assert booked(prepared) == [(n, 7) for n in range(20)]
