"""Exact counts: commits, round trips and bytes of WAL do not depend on the machine, so they belong in tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection

from dbdurable import Durable
from dbdurable._embedded import EmbeddedServer
from dbdurable._io.migrate import migrate
from dbdurable.testing.crash import Faults, Point
from tests.crash.proxy import Proxy
from tests.support.databases import scratch_directory
from tests.support.wait import wait_until

STEPS = 10


class Application:
    """Ten transactional steps, and what was counted while they ran."""

    def __init__(self, url: str) -> None:
        self.durable = Durable(url, migrate=False)
        self.faults = Faults()
        self.faults.install(self.durable)

        @self.durable.transaction
        def book(tx: Connection, number: int) -> int:
            tx.execute("insert into booking values (%s)", [number])
            return number

        @self.durable.step
        def nothing(number: int) -> int:
            return number

        @self.durable.workflow
        def ten() -> int:
            return sum(book(number) for number in range(STEPS))

        @self.durable.workflow
        def long(steps: int, fails: bool) -> int:
            total = sum(nothing(number) for number in range(steps))
            if fails and not self.seen:
                self.seen = True
                raise KeyboardInterrupt
            return total

        @self.durable.workflow
        def idle() -> None:
            pass

        self.ten, self.long, self.book, self.idle, self.seen = ten, long, book, idle, False


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedServer]:
    """WAL is counted by server, and room on pages depends on who looks: nobody else works on this one."""
    directory = scratch_directory() / f"dbdurable-counts-{uuid4().hex[:8]}"
    try:
        with EmbeddedServer(directory / "pg", durable=False, linger_s=0.2) as server:
            yield server
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def database_url(own_server: EmbeddedServer) -> str:
    name = f"counts_{uuid4().hex[:8]}"
    with psycopg.connect(own_server.url, autocommit=True) as administrator:
        administrator.execute(f"create database {name}")
    url = own_server.url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(url, autocommit=True) as connection:
        migrate(connection, "dbdurable")
    return url


@pytest.fixture
def prepared(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    connection.execute("create table booking (number integer)")
    return connection


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The services' own statements stay away while something is counted."""
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", "never")
    monkeypatch.setenv("DBDURABLE_LEASE_TTL_S", "3600")
    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "600")
    monkeypatch.setenv("DBDURABLE_POLL_INTERVAL_S_MAX", "600")


@pytest.fixture
def application(prepared: psycopg.Connection[Any], database_url: str, quiet: None) -> Iterator[Application]:
    application = Application(database_url)
    with application.durable.executor(threads=1):
        application.ten()  # connections are there, statements prepared
        application.ten()
        yield application
    application.durable.close()


def test_ten_transactional_steps_cost_eleven_commits_and_no_look_up(application: Application) -> None:
    before = len(application.faults.points)
    application.ten()
    points = [point for point in application.faults.points[before:] if point.role == "caller"]
    names = [point.name.removeprefix("before ") for point in points if point.name.startswith("before ")]
    statements = [name for name in names if not name.startswith(("call", "a statement of"))]
    assert statements == [
        *["begin book", "start_here_unkeyed + record_in_transaction + commit"],
        *["begin book", "record_in_transaction + commit"] * (STEPS - 1),
        "finish_succeeded",
    ]


def test_a_transactional_step_takes_two_round_trips(
    prepared: psycopg.Connection[Any], database_url: str, quiet: None
) -> None:
    """BEGIN with the user's statement, record with COMMIT; the start rides the first of them, a finish comes last."""
    with Proxy(database_url) as proxy:
        application = Application(proxy.url)
        with application.durable.executor(threads=1):
            application.ten()
            application.ten()
            counted = round_trips(proxy, application.ten)
        application.durable.close()
    assert counted == 2 * STEPS + 1


def round_trips(proxy: Proxy, work: Callable[[], Any]) -> int:
    """How often the session that did the work waited for the server."""
    before = proxy.round_trips.copy()
    work()
    return max((proxy.round_trips - before).values())  # of one session: the services have theirs


def wal_bytes(connection: psycopg.Connection[Any], work: Callable[[], Any]) -> int:
    """What `work` adds to the WAL; pages that were written once before, so that no full page goes with it."""
    (before,) = connection.execute("select pg_current_wal_insert_lsn()").fetchone() or ("",)
    work()
    (grown,) = connection.execute("select pg_current_wal_insert_lsn() - %s::pg_lsn", [before]).fetchone() or (0,)
    return int(grown)


def test_a_workflow_of_ten_transactional_steps_writes_at_most_5_kb_of_wal(
    application: Application, prepared: psycopg.Connection[Any]
) -> None:
    for _ in range(20):
        application.ten()
    times = 100
    mean = wal_bytes(prepared, lambda: [application.ten() for _ in range(times)]) / times
    print(f"WAL of ten transactional steps: {mean:.0f} bytes, the application's rows included")
    assert mean <= 5_000


def test_two_hundred_recorded_steps_are_replayed_in_one_round_trip(
    prepared: psycopg.Connection[Any], database_url: str, quiet: None
) -> None:
    """The journal comes with the claim: replay asks the database for nothing."""
    application = Application(database_url)
    with application.durable.executor(queues=["other"], threads=1), pytest.raises(KeyboardInterrupt):
        application.long(200, True)  # handed back to the default queue, which this executor does not serve
    application.durable.close()

    again = Application(database_url)
    again.seen = True
    with again.durable.executor(threads=1) as executor:
        executor.wait_idle(10)
    again.durable.close()

    (steps, epochs) = prepared.execute("select count(*), count(distinct epoch) from dbdurable.step").fetchone() or (
        0,
        0,
    )
    assert (steps, epochs) == (200, 1), "the second process ran steps again"
    assert prepared.execute("select status::text from dbdurable.workflow").fetchall() == [("succeeded",)]
    of_workflow = [str_of(point) for point in again.faults.points if point.role == "workflow"]
    assert of_workflow == ["before call ", "after call ", "before finish_succeeded", "after finish_succeeded"]


def str_of(point: Point) -> str:
    return point.name


JOBS = 512


def queue_cycle(application: Application, in_bulk: bool) -> None:
    """Enqueue, claim, finish: jobs that do nothing, of a queue that nobody reads until all are there."""
    if in_bulk:
        application.durable.client.start_many(application.idle.bind() for _ in range(JOBS))
    else:
        for _ in range(JOBS):
            application.idle.start()
    with application.durable.executor(threads=64) as executor:
        executor.wait_idle(60)


@pytest.mark.parametrize("in_bulk", [False, True], ids=["one by one", "in bulk"])
def test_a_queued_job_writes_at_most_1600_bytes_of_wal_and_updates_in_place(
    in_bulk: bool, prepared: psycopg.Connection[Any], database_url: str, quiet: None
) -> None:
    application = Application(database_url)
    queue_cycle(application, in_bulk)
    mean = wal_bytes(prepared, lambda: queue_cycle(application, in_bulk)) / JOBS
    application.durable.close()
    updated, hot = updates_of_workflows(prepared, 2 * 2 * JOBS)
    print(f"a queued job, {'in bulk' if in_bulk else 'one by one'}: {mean:.0f} bytes of WAL, HOT {hot} of {updated}")
    assert mean <= 1_600
    assert hot >= 0.95 * updated


def updates_of_workflows(connection: psycopg.Connection[Any], at_least: int) -> tuple[int, int]:
    """How many there were, and how many of them heap-only. A session says what it has done when it ends."""

    def updates() -> tuple[int, int] | None:
        row = connection.execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_all_tables where relid = 'dbdurable.workflow'::regclass"
        ).fetchone()
        return row if row is not None and row[0] >= at_least else None

    return wait_until(updates) or (0, 0)


def test_updates_of_workflows_stay_on_their_page(prepared: psycopg.Connection[Any], database_url: str) -> None:
    """No index holds a column that changes, and pages keep room: 200 queue cycles, all of them heap-only."""
    application = Application(database_url)
    with application.durable.executor(threads=1) as executor:
        for number in range(200):
            application.book.start(number)
        executor.wait_idle(30)
    application.durable.close()

    updated, hot = updates_of_workflows(prepared, 400)
    print(f"HOT updates: {hot} of {updated}")
    assert hot >= 0.95 * updated
