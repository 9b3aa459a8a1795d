"""The work whose cost the curves show, and what may lie beside it."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psycopg

from dbdurable import Durable, Handle
from dbdurable._executor.control import Control
from dbdurable._executor.executor import Executor
from dbdurable._executor.heartbeat import Heartbeat
from dbdurable._executor.timers import Timers
from dbdurable._executor.upkeep import Upkeep
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, flight
from dbdurable._sql.claim import CLAIM_PLAN
from tests.benchmarks.meter import Connection, Opened, Run
from tests.scale.claimer import Claimer
from tests.support.wait import wait_until

# ---- work ----------------------------------------------------------------------------------------------------

CLAIM = 64
"""Workflows of one claim, when so many are there."""


class Application:
    """What runs; its executor's services do nothing by themselves."""

    def __init__(self, url: str) -> None:
        self.durable = durable = Durable(url, migrate=False)

        @durable.transaction
        def put(tx: Connection, n: int) -> int:
            return n

        @durable.step
        def call(payload: str) -> str:
            return payload

        @durable.workflow
        def both(n: int, payload: str = "") -> int:
            call(payload)
            return put(n)

        @durable.workflow
        def long(steps: int) -> int:
            for n in range(steps):
                put(n)
            return steps

        self.both, self.long = both, long

    def warm(self) -> None:
        """Statements are prepared from the second time on."""
        for _ in range(8):
            self.both(0)


@contextmanager
def application(url: str) -> Iterator[tuple[Application, Executor]]:
    """Open, and still: nothing is claimed or tidied up unless somebody calls for it."""
    app = Application(url)
    try:
        with mock.patch.object(Control, "_run"), app.durable.executor(threads=4) as executor:
            executor.control._upkeep_at = math.inf
            wait_until(lambda: executor.heartbeat._session_of[1] >= 0, what="the first beat")
            yield app, executor
    finally:
        app.durable.close()


@contextmanager
def workflow(url: str) -> Iterator[Run]:
    """A direct call: start, an outside step, a transactional step, finish."""
    with application(url) as (app, _):
        app.warm()
        yield lambda units: [app.both(n) for n in range(units)]


def payload(size: int) -> Opened:
    """The same with an argument of so many characters, which is the step's argument and its result, too."""

    @contextmanager
    def opened(url: str) -> Iterator[Run]:
        with application(url) as (app, _):
            app.warm()
            yield lambda units: [app.both(n, random.randbytes(size // 2).hex()) for n in range(units)]

    return opened


@contextmanager
def long(url: str) -> Iterator[Run]:
    """One workflow with so many steps as units are asked for."""
    with application(url) as (app, _):
        app.warm()
        yield app.long


@contextmanager
def start(url: str) -> Iterator[Run]:
    """`.start()`: a row and a ticket. Nobody is told of it: that goes by the clock, and by a connection of its own."""
    app = Application(url)
    try:
        with mock.patch.dict(os.environ, {"DBDURABLE_LISTEN_URL": "never"}):
            for _ in range(8):
                app.both.start(0)
        yield lambda units: [app.both.start(n) for n in range(units)]
    finally:
        app.durable.close()


RECORDED = """
    insert into dbdurable.step (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
    select %(id)s, n::text, n, 'transaction', 'put', 1, 1, now(), now(), to_json(n - 1)
      from generate_series(1, %(steps)s) n
"""


def replay(steps: int) -> Opened:
    """The claim of a workflow with so many recorded steps, until its body has run to its end."""

    @contextmanager
    def opened(url: str) -> Iterator[Run]:
        with application(url) as (app, executor), psycopg.connect(url, autocommit=True) as connection:

            def claim(units: int) -> None:
                executor.control.look()
                assert executor.attempts.wait_empty(300)

            def queued(steps: int) -> Handle[int]:
                handle = app.long.start(steps)
                connection.execute(RECORDED.encode(), {"id": handle.id, "steps": steps})
                return handle

            for _ in range(8):
                queued(3)
                claim(1)
            handle = queued(steps)
            run = list[int]()

            def once(units: int) -> None:
                assert units == 1
                run.append(units)
                claim(units)

            yield once
            left = connection.execute("delete from dbdurable.ready").rowcount
            assert (left == 0) is bool(run)
            if run:
                assert handle.result(timeout=60) == steps

    return opened


@contextmanager
def claim(url: str) -> Iterator[Run]:
    """Looks that claim 64 each, the first of them from the beginning of the queue."""
    yield from _claims(url, from_the_beginning=False)


@contextmanager
def claim_from_the_beginning(url: str) -> Iterator[Run]:
    """The same where every look walks the queue from its beginning, as about one in twenty does."""
    yield from _claims(url, from_the_beginning=True)


DONE_WITH = """
    with w as (update dbdurable.workflow set status = 'succeeded' where status = 'running' and name = 'work')
    delete from dbdurable.lease l where not exists (select from dbdurable.executor e where e.id = l.executor_id)
"""
"""What the claimer has only written down; nobody may find it stranded."""


def _claims(url: str, *, from_the_beginning: bool) -> Iterator[Run]:
    claimer = Claimer(url, ["default"], ["work"], CLAIM)

    def look(units: int) -> None:
        for _ in range(units):
            if from_the_beginning:
                claimer.look_from_the_beginning()
            assert claimer.look() == CLAIM

    try:
        look(1)
        claimer.look_ahead_only()
        look(1)
        yield look
    finally:
        claimer.close()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(DONE_WITH)


@contextmanager
def heart_of(executor: Executor) -> Iterator[Heartbeat]:
    """One more, that beats when told to: only the executor's own thread may use the connection of its own heart."""
    heart = Heartbeat(executor)
    try:
        yield heart
    finally:
        heart._connection.close()


@contextmanager
def beat(url: str) -> Iterator[Run]:
    """A heartbeat of an executor that holds nothing."""
    with application(url) as (_, executor), heart_of(executor) as heart:
        for _ in range(8):
            heart.beat()
        yield lambda units: [heart.beat() for _ in range(units)]


@contextmanager
def upkeep(url: str) -> Iterator[Run]:
    """What every executor does for all about once a second, and finds nothing to do."""
    app = Application(url)
    database = app.durable._runtime.database
    connection = database.own_connection()
    driver, timers = SyncDriver(database, pool=connection), Timers()
    own = Upkeep(driver, connection, 3600, lambda: False, lambda: None)

    def rounds(units: int) -> None:
        for _ in range(units):
            asked = own.ask(["default"])
            found = driver.run(flight(*asked, Query(CLAIM_PLAN, ()), *timers.ask(also_others=True)))
            assert not own.take(found[: len(asked)])

    try:
        rounds(8)
        yield rounds
    finally:
        connection.close()
        app.durable.close()


# ---- what lies beside it -------------------------------------------------------------------------------------

WORKFLOWS = """
    insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input, status,
                                    epoch, executor_id, attempt, started_at, finished_at, output)
    select dbdurable.uuid7(), 'beside', 'default', '', 0, 20, now(), '{"n": 1}', %(status)s::dbdurable.status,
           1, %(executor)s::uuid, 1, now(), case when %(status)s in ('succeeded', 'failed') then now() end, '1'
      from generate_series(1, %(many)s) n
    returning id
"""
STEPS, LEASES, HELD = 3, 16, 2
"""Recorded steps of a finished workflow; rows in `lease` of an executor, and workflows of each."""


def _workflows(connection: Connection, many: int, status: str, then: str, executor: Any = None) -> None:
    given = {"many": many, "status": status, "executor": executor}
    connection.execute(f"with w as ({WORKFLOWS}) {then}".encode(), given)


def finished(connection: Connection, many: int) -> None:
    """Workflows of three steps that have succeeded."""
    _workflows(
        connection, many, "succeeded",
        f"""insert into dbdurable.step
                (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
            select w.id, n::text, n, 'step', 'call', 1, 1, now(), now(), '1' from w, generate_series(1, {STEPS}) n""",
    )  # fmt: skip


def failed(connection: Connection, many: int) -> None:
    """Workflows that have failed: each has a row in the list of those that somebody should look at."""
    _workflows(
        connection, many, "failed",
        "insert into dbdurable.attention (workflow_id, status, reason) select id, 'failed', 'ValueError' from w",
    )  # fmt: skip


def waiting(connection: Connection, many: int) -> None:
    """Workflows that sleep for a month, one half, or wait for a message without end."""
    _workflows(
        connection, many, "waiting",
        """insert into dbdurable.wait (workflow_id, path, kind, subject, due)
           select id, '1', case when n % 2 = 0 then 'sleep' else 'message' end::dbdurable.wait_kind,
                  case when n % 2 = 0 then '' else id || ':topic' end,
                  case when n % 2 = 0 then now() + interval '30 days' end
             from (select id, row_number() over () as n from w) w""".replace("%", "%%"),
    )  # fmt: skip


def executors(connection: Connection, many: int) -> None:
    """Executors that are alive, each with 32 workflows that run in 16 lease rows. One session stands for all."""
    added = connection.execute(
        """insert into dbdurable.executor
               (id, expires_at, session_pid, session_start, names, queues, host, pid, version)
           select dbdurable.uuid7(), now() + interval '1 day', s.pid, s.backend_start, '{beside}', '{default}', 'host',
                  n, '1'
             from generate_series(1, %s) n cross join (
                  select pid, backend_start from pg_stat_activity where datname = 'postgres' limit 1) s
           returning id""",
        [many],
    ).fetchall()
    for (executor,) in added:
        _workflows(
            connection, LEASES * HELD, "running",
            f"""insert into dbdurable.lease (executor_id, batch, ids)
                select '{executor}', n % {LEASES}, array_agg(id) from (select id, row_number() over () as n from w) w
                 group by 2""".replace("%", "%%"),
            executor,
        )  # fmt: skip
