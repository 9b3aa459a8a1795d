"""Executors die, freeze and lose their database under load: every workflow finishes, each write once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.crash.actors import Actor, Job, acting, run
from tests.crash.oracle import check_house
from tests.crash.workflows import durable, mixed
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]
WORKFLOWS = 60


@pytest.fixture
def started(database_url: str, prepared: Connection) -> Iterator[list[str]]:
    """A queue full of workflows, and nobody yet who runs them."""
    run(Job(database_url, "steps", claims=("load",)))  # the names and the queue are known from now on
    runs = [f"load-{number}" for number in range(WORKFLOWS)]
    durable.configure(url=database_url, migrate=False)
    for name in runs:
        mixed.options(key=name, queue="load").start(name)
    durable.close()
    yield runs
    check_all_done_once(prepared, runs)


def check_all_done_once(connection: Connection, runs: list[str]) -> None:
    check_house(connection)
    wrong = connection.execute(
        "select run, array_agg(what order by what) from effect group by run having count(*) <> 2"
    ).fetchall()
    assert wrong == [], "effects of transactions"
    keys = connection.execute(
        "select run, what, count(distinct key) from outside group by 1, 2 having count(distinct key) <> 1"
    ).fetchall()
    assert keys == [], "one idempotency key per step"
    assert connection.execute(
        "select status::text, output::text like '\"7 2 no money in %%', count(*) from dbdurable.workflow group by 1, 2"
    ).fetchall() == [("succeeded", True, len(runs))]


def done(connection: Connection) -> int:
    (count,) = connection.execute(
        "select count(*) from dbdurable.workflow where status in ('succeeded', 'failed', 'cancelled')"
    ).fetchone() or (0,)
    return int(count)


def work_on(url: str) -> Any:
    return acting(Job(url, "mixed", claims=("load",), stay=True))


def wait_some_done(connection: Connection, at_least: int) -> None:
    wait_until(lambda: done(connection) >= at_least, 30, f"{at_least} workflows done")


def wait_all_done(connection: Connection) -> None:
    wait_until(lambda: done(connection) == WORKFLOWS, 40, "all workflows done")


def begin(actor: Actor) -> Actor:
    actor.hear("staying")
    return actor


def test_killed_under_load_all_its_work_is_done_elsewhere(
    started: list[str], database_url: str, prepared: Connection
) -> None:
    with work_on(database_url) as victim, work_on(database_url) as survivor:
        begin(victim)
        begin(survivor)
        wait_some_done(prepared, 5)
        victim.kill()
        # Nobody expires it: that its session has ended is seen twice, a second apart.
        wait_all_done(prepared)


def test_killed_one_after_the_other(started: list[str], database_url: str, prepared: Connection) -> None:
    for round in range(3):
        with work_on(database_url) as victim:
            begin(victim)
            wait_some_done(prepared, 8 * (round + 1))
            victim.kill()
    with work_on(database_url):
        wait_all_done(prepared)


def test_frozen_under_load_and_back_again(started: list[str], database_url: str, prepared: Connection) -> None:
    with work_on(database_url) as zombie, work_on(database_url) as survivor:
        begin(zombie)
        begin(survivor)
        wait_some_done(prepared, 5)
        (zombie_id,) = prepared.execute(
            "select id from dbdurable.executor where pid = %s", [zombie.pid]
        ).fetchone() or (None,)
        zombie.freeze()
        prepared.execute(
            "update dbdurable.executor set expires_at = clock_timestamp() - interval '1 s' where id = %s", [zombie_id]
        )
        wait_all_done(prepared)
        zombie.thaw()
        # It learns from its next beat that its time is over, and goes on under a new identity.
        wait_until(
            lambda: (
                prepared.execute(
                    "select from dbdurable.executor where pid = %s and id <> %s", [zombie.pid, zombie_id]
                ).fetchone()
                is not None
            ),
            what="a new identity",
        )


def test_every_connection_is_ended_and_it_goes_on_by_itself(
    started: list[str], database_url: str, prepared: Connection
) -> None:
    with work_on(database_url) as actor:
        begin(actor)
        for round in range(4):
            wait_some_done(prepared, 6 * (round + 1))
            prepared.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = 'dbdurable'"
            )
        wait_all_done(prepared)
        assert actor.process.is_alive()
    # The same process did it all, under the same identity: nobody was declared dead.
    assert prepared.execute("select count(distinct executor_id) from dbdurable.workflow").fetchone() == (1,)
