"""What a workflow costs, in exact counts: commits, round trips, WAL bytes, heap-only updates."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from dbdurable import Durable
from tests.support.wait import wait_until

STEPS = 10


class Points:
    """A seam that counts the exchanges of user workflows."""

    def __init__(self) -> None:
        self.reached_points: list[str] = []

    def reached(self, point: str, connection: Any) -> None:
        self.reached_points.append(point)

    def count(self) -> Counter[str]:
        return Counter(point.removeprefix("before ") for point in self.reached_points if point.startswith("before "))


@pytest.fixture
def durable(database_url: str) -> Iterator[Durable]:
    durable = Durable(database_url)
    yield durable
    durable.close()


def ten_transactions(durable: Durable) -> Any:
    @durable.transaction
    def put(tx: Connection, n: int) -> int:
        tx.execute("insert into app (n) values (%s)", [n])
        return n

    @durable.workflow
    def ten() -> None:
        for n in range(STEPS):
            put(n)

    return ten


def test_ten_transactional_steps(durable: Durable, connection: psycopg.Connection) -> None:
    connection.execute("create table app (n int)")
    ten = ten_transactions(durable)
    with durable.executor():
        ten()  # prepares statements, fills caches
        points = Points()
        durable._runtime.database.seam = points
        before = _wal_bytes(connection)
        for _ in range(20):
            ten()
        wal_bytes = (_wal_bytes(connection) - before) / 20
        durable._runtime.database.seam = None
    exchanges = {point: count / 20 for point, count in points.count().items()}
    services = {"beat + held + release_batches", "claim_plan + claim + claimed_journals"}
    mine = {p: n for p, n in exchanges.items() if p not in services and not p.startswith(("suspects", "recover"))}
    # One commit a step, the first of which carries the start, and one for the finish; no look-up before a step.
    assert mine == {
        "begin put": STEPS,
        "call put": STEPS,
        "start_here_unkeyed + record_in_transaction + commit": 1,
        "record_in_transaction + commit": STEPS - 1,
        "finish": 1,
        "call ": 1,
    }
    print(f"WAL: {wal_bytes:.0f} bytes a workflow of {STEPS} transactional steps")
    assert wal_bytes <= 5_000


def test_a_replay_costs_one_round_trip(durable: Durable, connection: psycopg.Connection) -> None:
    @durable.step
    def note(n: int) -> int:
        return n

    @durable.workflow
    def many(steps: int) -> int:
        return sum(note(n) for n in range(steps))

    with durable.executor():
        handle = many.start(200)
        assert handle.result(timeout=60) == sum(range(200))
    # As if its executor had died just before the finish: everything but the outcome is recorded.
    connection.execute("update dbdurable.workflow set status = 'queued', executor_id = null, output = null")
    connection.execute(
        "insert into dbdurable.ready (queue, partition, rank, workflow_id, name) values ('default', '', 0, %s, 'many')",
        [handle.id],
    )
    points = Points()
    durable._runtime.database.seam = points
    with durable.executor():
        assert handle.result(timeout=60) == sum(range(200))
    counts = points.count()
    assert counts["append"] == 0
    assert counts["read_step"] == counts["read_journal"] == 0
    assert counts["finish"] == 1


def test_queue_cycles_update_in_place(durable: Durable, connection: psycopg.Connection) -> None:
    @durable.workflow
    def nothing(n: int) -> None:
        pass

    with durable.executor():
        handles = [nothing.start(n) for n in range(200)]
        for handle in handles:
            handle.result(timeout=60)
    durable.close()  # sessions report their statistics when they end
    wait_until(
        lambda: _updates(connection)[0] >= 400, what="the claim and the finish of 200 workflows in the statistics"
    )
    updates, in_place = _updates(connection)
    assert in_place / updates >= 0.95


def _updates(connection: psycopg.Connection) -> tuple[int, int]:
    row = connection.execute(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables"
        " where schemaname = 'dbdurable' and relname = 'workflow'"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _wal_bytes(connection: psycopg.Connection) -> int:
    row = connection.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])
