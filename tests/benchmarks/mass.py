"""Very many sleepers that are due at the same moment, woken by one worker process with default settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.benchmarks.contest import Opened, Run, Spent
from tests.benchmarks.peers import durable
from tests.benchmarks.queues import finished_jobs
from tests.benchmarks.workers import crew
from tests.support.sleepers import put_to_sleep
from tests.support.wait import wait_until

LEAD_S, ROWS_A_SECOND = 5.0, 30_000
"""So long before their time they are put to sleep, and so many SQL makes at least."""

DUE = "select max(due), extract(epoch from max(due) - clock_timestamp())::float8 from dbdurable.wait"
TOOK = "select extract(epoch from max(finished_at) - %s)::float8 from dbdurable.workflow"
LATE = "select extract(epoch from finished_at - %s)::float8 from dbdurable.step where finished_at >= %s"
COMMITS = "select xact_commit from pg_stat_database where datname = current_database()"


def due_at_once(name: str) -> Opened:
    """Each is late by what is worked off before it; none may cost the process more memory."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with psycopg.connect(url, autocommit=True) as connection, finished_jobs(url, durable.DONE) as finished:

            def run(total: int) -> Spent:
                earlier = finished()
                with crew(durable.__name__, "work", url, 1) as worker:
                    put_to_sleep(connection, total, name, LEAD_S + total / ROWS_A_SECOND)
                    due, left_s = _one(connection, DUE)
                    worker.go()
                    time.sleep(max(0.0, float(left_s)))
                    (commits,) = _one(connection, COMMITS)
                    facts = {"worker MB at first": worker.memory_mb()}
                    for part, many in (("half-way", total // 2), ("at the end", total)):
                        worker.wait(many, timeout_s=7200)
                        facts[f"worker MB {part}"] = worker.memory_mb()
                    wait_until(lambda: finished() >= earlier + total, timeout_s=60, what="all of them are finished")
                    cpu_s = worker.cpu_s()
                (took_s,) = _one(connection, TOOK, due)
                samples = [late_s for (late_s,) in connection.execute(LATE.encode(), [due, due])]
                facts["woken/s"] = total / took_s
                facts["commits each"] = (_one(connection, COMMITS)[0] - commits) / total
                return Spent({"waking": took_s}, cpu_s, samples, facts)

            yield run

    return opened


def _one(connection: psycopg.Connection[Any], query: str, *params: Any) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), params or None).fetchone()
    assert row is not None
    return row
