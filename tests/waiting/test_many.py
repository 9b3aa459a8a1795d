"""Very many sleepers are rows and nothing else; when they are due, they are woken in bounded batches."""

from __future__ import annotations

import os
import time
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, sleep
from tests.integration.test_idle import FLIGHTS_PER_S_MAX, Counts, count_at_rest
from tests.support.processes import resident_kb
from tests.support.sleepers import put_to_sleep
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


def check(durable: Durable, connection: Connection, nap: Any, many: int, seam: Counts | None = None) -> None:
    put_to_sleep(connection, many)
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
