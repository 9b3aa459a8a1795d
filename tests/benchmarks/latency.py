"""How long an idle queue takes: to the job's first line in another process, and from `start()` to `result()`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg

from dbdurable import Client
from tests.benchmarks.contest import Opened, Run, Spent
from tests.benchmarks.peers import dbos, durable
from tests.benchmarks.queues import Enqueue, finished_jobs
from tests.benchmarks.workers import crew
from tests.support.wait import wait_until

IDLE_S, IDLE_POLLING_S = (0.3, 0.6), (2.5, 4.0)
"""Pauses before a start, so that the queue is idle and polls come at any moment.

Polling of dbdurable reaches its longest interval about 2.3 s after the last claim.
"""
DURABLE = durable.__name__


def to_first_line(module: str, enqueue: Enqueue, done: str) -> Opened:
    """From the call that enqueues to the job's first line in another process; `done` selects the finished jobs."""

    @contextmanager
    def opened(url: str, processes: int) -> Iterator[Run]:
        with (
            enqueue(url) as put,
            finished_jobs(url, done) as finished,
            crew(module, "work", url, processes) as workers,
        ):
            workers.go()

            def run(total: int) -> Spent:
                samples, earlier = list[float](), finished()
                for _ in range(total):
                    time.sleep(random.uniform(*IDLE_S))
                    before, begun = workers.seen, time.perf_counter()
                    put(1)
                    samples.append(workers.wait(before + 1, timeout_s=60) - begun)
                wait_until(lambda: finished() >= earlier + total, timeout_s=60, what="the jobs are finished")
                return Spent({"waiting": sum(samples)}, samples=samples)

            yield run

    return opened


def _results(client: Client, idle_s: tuple[float, float]) -> Run:
    nothing = client.workflow("nothing", returns=int)

    def run(total: int) -> Spent:
        samples = list[float]()
        for number in range(total):
            time.sleep(random.uniform(*idle_s))
            begun = time.perf_counter()
            assert nothing.start(n=number).result(timeout=60) == number
            samples.append(time.perf_counter() - begun)
        return Spent({"waiting": sum(samples)}, samples=samples)

    return run


@contextmanager
def here(url: str, lanes: int) -> Iterator[Run]:
    """Start to result, run in the same process."""
    with durable.application(url) as app, app.durable.executor(threads=4):
        yield _results(app.durable.client, IDLE_S)


def elsewhere(*, listens: bool) -> Opened:
    """Start to result, run in another process."""

    @contextmanager
    def opened(url: str, processes: int) -> Iterator[Run]:
        work = "work" if listens else "work_polling"
        with Client(url) as client, crew(DURABLE, work, url, processes) as workers:
            workers.go()
            yield _results(client, IDLE_S if listens else IDLE_POLLING_S)

    return opened


LATENESS = """
    select extract(epoch from s.finished_at - (w.input ->> 'when')::timestamptz)::float8
      from dbdurable.workflow w join dbdurable.step s on s.workflow_id = w.id
     where w.name = 'alarm' and (w.input ->> 'when')::timestamptz >= %s order by 1
"""
APART_S, BEFORE_S = 0.2, 5.0


@contextmanager
def woken(url: str, lanes: int) -> Iterator[Run]:
    """Sleepers that are due one after the other, nothing else to do: from the due time to the record that it is over.

    Both times are the database's.
    """
    with (
        durable.application(url) as app,
        psycopg.connect(url, autocommit=True) as connection,
        app.durable.executor(threads=4),
    ):

        def run(total: int) -> Spent:
            ((now,),) = connection.execute("select clock_timestamp()").fetchall()
            first = now + timedelta(seconds=BEFORE_S)
            dues = [first + timedelta(seconds=APART_S * random.uniform(n, n + 1)) for n in range(total)]
            for handle in app.durable.client.start_many([app.alarm.bind(due) for due in dues]):
                handle.result(timeout=BEFORE_S + APART_S * total + 60)
            samples = [late_s for (late_s,) in connection.execute(LATENESS, [first])]
            return Spent({"waiting": sum(samples)}, samples=samples)

        yield run


@contextmanager
def dbos_here(url: str, lanes: int) -> Iterator[Run]:
    """DBOS, through its queue, in the same process."""
    with dbos.launched(url) as app:
        app.DBOS.register_queue(dbos.QUEUE)

        def run(total: int) -> Spent:
            samples = list[float]()
            for number in range(total):
                time.sleep(random.uniform(*IDLE_S))
                begun = time.perf_counter()
                assert app.DBOS.enqueue_workflow(dbos.QUEUE, app.nothing, number).get_result() == number
                samples.append(time.perf_counter() - begun)
            return Spent({"waiting": sum(samples)}, samples=samples)

        yield run
