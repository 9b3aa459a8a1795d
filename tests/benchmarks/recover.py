"""Loads with a whole fleet: an executor is killed, and a million workflows sleep. Only dbdurable does them here.

DBOS leaves the work of a dead process to its next start or to its paid part, Absurd to a claim timeout of two
minutes, Procrastinate to the operator, PgQueuer to a heartbeat timeout of 30 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.benchmarks import recovery
from tests.benchmarks.contest import Run, Spent
from tests.benchmarks.peers import durable
from tests.benchmarks.workers import crew
from tests.support.wait import wait_until

WORKERS = 3


def _one(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def killed(url: str, lanes: int) -> Iterator[Run]:
    """SIGKILL for one of three busy workers, so often: how long until each of its workflows runs elsewhere."""
    recovery.durable.configure(url=url)
    fleet = recovery.Fleet(url, WORKERS)
    try:

        def run(total: int) -> Spent:
            samples = [took_s for _ in range(total) for took_s in fleet.kill_one()]
            return Spent({"recovering": sum(samples)}, samples=samples)

        yield run
    finally:
        fleet.close()


@contextmanager
def asleep(url: str, lanes: int) -> Iterator[Run]:
    """So many are started and sleep for a month; the memory of the process that put them to sleep."""
    enqueue = durable.in_bulk("sleeper")

    def run(total: int) -> Spent:
        with (
            enqueue(url) as put,
            psycopg.connect(url, autocommit=True) as connection,
            crew(durable.__name__, "work", url, 1) as worker,
        ):
            waiting = "select count(*) from dbdurable.workflow where status = 'waiting'"
            before = _one(connection, waiting)
            begun = time.perf_counter()
            put(total)
            started = time.perf_counter()
            memory = worker.memory_mb()
            worker.go()
            worker.wait(total, timeout_s=7200)  # to count them over and over again would be most of the server's work
            wait_until(lambda: _one(connection, waiting) == before + total, timeout_s=60, what="all of them sleep")
            asleep = time.perf_counter()
            facts = {"worker MB before": memory, "worker MB with all asleep": worker.memory_mb()}
            return Spent({"start": started - begun, "park": asleep - started}, worker.cpu_s(), facts=facts)

    yield run
