"""The load of a queue: enqueue with nobody there, then let the workers at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg

from tests.benchmarks.contest import Opened, Run, Spent
from tests.benchmarks.workers import crew
from tests.support.wait import wait_until

Enqueue = Callable[[str], AbstractContextManager[Run]]
"""`enqueue(url)` yields what puts so many jobs into the queue."""


@contextmanager
def finished_jobs(url: str, done: str) -> Iterator[Callable[[], int]]:
    """What asks for the number of finished jobs, which `done` selects."""
    with psycopg.connect(url, autocommit=True) as connection:

        def finished() -> int:
            row = connection.execute(done.encode()).fetchone()
            assert row is not None
            return int(row[0])

        yield finished


def through_queue(module: str, enqueue: Enqueue, done: str, work: str = "work") -> Opened:
    """A lane is a worker process."""

    @contextmanager
    def opened(url: str, processes: int) -> Iterator[Run]:
        with enqueue(url) as put, finished_jobs(url, done) as finished:

            def run(total: int) -> Spent:
                before = finished()
                with crew(module, work, url, processes) as workers:
                    begun = time.perf_counter()
                    put(total)
                    enqueued = time.perf_counter() - begun
                    cpu = workers.cpu_s()
                    workers.go()
                    first = workers.wait(1)  # how long workers take to open is not the queue's speed
                    workers.wait(total)
                    wait_until(lambda: finished() >= before + total, timeout_s=60, what="the jobs are finished")
                    drained = time.perf_counter() - first
                    return Spent({"enqueue": enqueued, "drain": drained}, cpu_s=workers.cpu_s() - cpu)

            yield run

    return opened
