"""Very many sleepers are rows and nothing else; when they are due, they are woken in bounded batches."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, sleep
from dbdurable._executor.timers import BATCH_MAX
from dbdurable._sql.claim import CLAIM_PLAN
from dbdurable._sql.wait import WAKE_DUE
from tests.integration.test_idle import FLIGHTS_PER_S_MAX, Counts, count_at_rest
from tests.support.processes import resident_kb
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]
MANY = int(os.environ.get("DBDURABLE_TEST_SLEEPERS") or 100_000)
"""Of the long form; 1,000,000 take some minutes to make."""


@pytest.fixture
def nap(durable: Durable) -> Any:
    @durable.workflow
    def nap(number: int) -> int:
        sleep(3600)
        return number

    return nap


def put_to_sleep(connection: Connection, many: int) -> None:
    """Workflows that were parked in their first call, made by SQL."""
    connection.execute(
        """
        with w as (
            insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                            status, epoch, executor_id, attempt, started_at)
            select dbdurable.uuid7(), 'nap', 'default', '', 0, 20, now(), json_build_object('number', n),
                   'waiting', 1, gen_random_uuid(), 1, now()
              from generate_series((select count(*) from dbdurable.workflow) + 1,
                                   (select count(*) from dbdurable.workflow) + %s) n
            returning id)
        insert into dbdurable.wait (workflow_id, path, kind, due)
        select id, '1', 'sleep', clock_timestamp() + interval '1 hour' from w
        """,
        [many],
    )


def pages_of_a_look(connection: Connection) -> int:
    """What the statement of the timers reads, whoever sleeps."""
    text = WAKE_DUE.render("dbdurable").replace("$1::int", str(BATCH_MAX))
    with connection.transaction(force_rollback=True):
        connection.execute(CLAIM_PLAN.render("dbdurable"))  # type: ignore[call-overload]
        (found,) = connection.execute(f"explain (analyze, buffers, format json) {text}").fetchone() or ([],)  # type: ignore[call-overload]
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def check(durable: Durable, connection: Connection, nap: Any, many: int, seam: Counts | None = None) -> None:
    put_to_sleep(connection, 10)
    few = pages_of_a_look(connection)
    put_to_sleep(connection, many - 10)
    assert pages_of_a_look(connection) <= few + 10, "a look at the timers costs more, the more there are"
    with durable.executor(threads=4) as executor:
        before = resident_kb(os.getpid())
        wait_until(lambda: 60 < executor.control.timers.due_in_s() < 4000, what="the timers to be known")
        if seam is not None:
            counted, took_s = count_at_rest(seam)
            print(f"{many} asleep: {resident_kb(os.getpid())} kB, {counted.total()} flights in {took_s:.1f} s")
            assert 0 < counted.total() <= FLIGHTS_PER_S_MAX * took_s + 2, "more than an executor without sleepers"
        assert resident_kb(os.getpid()) - before < 20_000, "what sleeps takes memory"
        connection.execute("update dbdurable.wait set due = clock_timestamp()")
        since = time.monotonic()

        def left() -> Any:
            return connection.execute("select count(*) from dbdurable.wait").fetchone()

        wait_until(lambda: left() == (0,), 20 + many / 100, "all to wake")
        executor.wait_idle(60)
        print(f"{many} woken in {time.monotonic() - since:.0f} s: {resident_kb(os.getpid())} kB")
        assert resident_kb(os.getpid()) - before < 60_000
    awake = "select count(*), count(distinct output::text) from dbdurable.workflow where status = 'succeeded'"
    assert connection.execute(awake).fetchone() == (many, many)
    assert connection.execute("select count(*) from dbdurable.step").fetchone() == (many,)


def test_a_thousand_sleepers(durable: Durable, connection: Connection, nap: Any) -> None:
    check(durable, connection, nap, 1000)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_very_many_sleepers(durable: Durable, connection: Connection, nap: Any) -> None:
    durable._runtime.database.seam = seam = Counts()
    check(durable, connection, nap, MANY, seam)


def test_due_timers_are_rung_in_bounded_batches(durable: Durable, connection: Connection) -> None:
    put_to_sleep(connection, 2 * BATCH_MAX + 7)
    connection.execute("update dbdurable.wait set due = clock_timestamp()")
    text = WAKE_DUE.render("dbdurable").replace("$1::int", str(BATCH_MAX))
    rung = [connection.execute(text).fetchone() for _ in range(4)]  # type: ignore[call-overload]
    assert [row and row[0] for row in rung] == [BATCH_MAX, BATCH_MAX, 7, 0]
    assert connection.execute("select count(*), count(distinct workflow_id) from dbdurable.ready").fetchone() == (
        2 * BATCH_MAX + 7, 2 * BATCH_MAX + 7
    )  # fmt: skip
    assert connection.execute("select count(*) from dbdurable.wait where rung").fetchone() == (2 * BATCH_MAX + 7,)
