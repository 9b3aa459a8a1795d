"""What sleeps costs nothing, however much it is; what is due at once is woken in batches that cost the same."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dbdurable import Durable, aio, sleep
from dbdurable._executor.timers import BATCH_MAX, BEGINNING, Timers
from dbdurable._executor.upkeep import FORGET_KEYS_EVERY, Upkeep
from dbdurable._protocol.effects import Query
from dbdurable._sql import executor as beat
from dbdurable._sql.claim import CLAIM_PLAN
from dbdurable._sql.message import WAKE_ENDED
from dbdurable._sql.upkeep import RECOVER, UPKEEP_PLAN
from dbdurable._sql.wait import WAKE_DUE
from tests.scale.claimer import Claimer
from tests.support.plans import explained, pages
from tests.support.sleepers import put_to_sleep
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]
Make = Callable[..., Claimer]
MILLION = pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])
ME = UUID(int=0xE1)
FEW = 1_000
DEEPER = 10
"""Pages: an index that is a thousand times larger is a level deeper, and a look enters several."""


def unattended(connection: Connection) -> None:
    """Nothing analyses or vacuums the tables, unless the test does."""
    for table in ("workflow", "wait", "ready", "lease", "step"):
        connection.execute(f"alter table dbdurable.{table} set (autovacuum_enabled = off)".encode())


# ---- asleep ------------------------------------------------------------------------------------------------


def costs(connection: Connection, claims: Claimer) -> Counter[str]:
    """Pages of each statement that an executor sends by the clock; none of it stays done."""
    upkeep = Upkeep.__new__(Upkeep)
    upkeep._rounds = FORGET_KEYS_EVERY - 1  # the round in which all of them are asked
    timers, tells = Timers().ask(also_others=True), [Query(WAKE_ENDED, ([ME],))]
    looks = [*upkeep.ask(["default"]), Query(CLAIM_PLAN, ()), *tells, *claims.claims.ask(), *timers]
    beats = [Query(beat.BEAT, (ME, 15.0)), Query(beat.HELD, (ME,))]
    found = Counter[str]()
    for queries in looks, beats:
        with connection.transaction(force_rollback=True):
            for query in queries:
                if query.statement in (UPKEEP_PLAN, CLAIM_PLAN):
                    connection.execute(query.statement.render("dbdurable").encode())
                else:
                    found[query.statement.name] = pages(explained(connection, query.statement, query.params))
    return found


def dearer(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    return {name: (before[name], after[name]) for name in after if after[name] > before[name] + DEEPER}


@pytest.mark.parametrize("many", [50_000, MILLION])
def test_no_statement_costs_more_for_those_who_sleep(many: int, connection: Connection, claimer: Make) -> None:
    """Nor for those who have a deadline or expire, however few have looked at the statistics."""
    unattended(connection)
    claims = claimer("nap")
    put_to_sleep(connection, FEW)
    ends = """
        insert into dbdurable.wait (workflow_id, path, kind, due)
        select workflow_id, '~', 'deadline', now() + interval '1 day' from dbdurable.wait on conflict do nothing
    """
    connection.execute(ends)
    few = costs(connection, claims)
    put_to_sleep(connection, many - FEW)
    connection.execute(ends)
    assert dearer(few, costs(connection, claims)) == {}
    connection.execute("analyze dbdurable.workflow, dbdurable.wait, dbdurable.ready, dbdurable.lease, dbdurable.step")
    assert dearer(few, costs(connection, claims)) == {}


def test_what_is_due_makes_only_the_ringing_dearer(connection: Connection, claimer: Make) -> None:
    unattended(connection)
    claims = claimer("nap")
    put_to_sleep(connection, 20_000)
    asleep = costs(connection, claims)
    connection.execute("update dbdurable.wait set due = now()")
    connection.execute("vacuum dbdurable.wait")
    assert set(dearer(asleep, costs(connection, claims))) == {WAKE_DUE.name}


# ---- due ---------------------------------------------------------------------------------------------------


def test_a_mass_is_rung_in_batches_that_cost_the_same(
    connection: Connection, claimer: Make, held_snapshot: psycopg.Connection[Any]
) -> None:
    """Also while somebody holds a snapshot: what was rung before stays as dead rows, and is not walked again."""
    unattended(connection)
    put_to_sleep(connection, 20 * BATCH_MAX + 7, due_s=0)
    ringer, timers, rung, cost = claimer("nap"), Timers(), list[int](), list[int]()
    for _ in range(21):
        cost.append(ringer.blocks(connection, lambda: rung.append(ringer.ring(timers))))
    timers._again_at = math.inf
    ahead = ringer.blocks(connection, lambda: rung.append(ringer.ring(timers)))
    timers._again_at = 0.0
    all_of_it = ringer.blocks(connection, lambda: rung.append(ringer.ring(timers)))
    print(f"pages of a batch: {cost}; of a look behind all of them {ahead}, and from the beginning {all_of_it}")
    assert rung == [BATCH_MAX] * 20 + [7, 0, 0]
    assert max(cost[:20]) <= 1.3 * cost[0]
    assert ahead <= 100 < all_of_it
    tickets = "select count(*), count(distinct workflow_id) from dbdurable.ready"
    assert connection.execute(tickets).fetchone() == (20 * BATCH_MAX + 7, 20 * BATCH_MAX + 7)
    assert connection.execute("select count(*) from dbdurable.wait where not rung").fetchone() == (0,)


def test_what_is_due_first_is_claimed_first(connection: Connection, claimer: Make) -> None:
    """Who becomes due while a mass is worked off comes right behind it, and nobody is left out."""
    put_to_sleep(connection, 2 * BATCH_MAX, due_s=-60)
    put_to_sleep(connection, 100, due_s=-120)
    put_to_sleep(connection, 100, due_s=3600)
    worker, timers = claimer("nap"), Timers()
    assert worker.ring(timers) == BATCH_MAX
    assert worker.look() == 64
    connection.execute("update dbdurable.wait set due = now() where due > now()")
    assert [worker.ring(timers) for _ in range(3)] == [BATCH_MAX, 200, 0]
    while worker.look():
        pass
    rows = connection.execute("select workflow_id from dbdurable.wait order by due, workflow_id").fetchall()
    wanted = [id for (id,) in rows]
    assert len(worker.claimed) == len(wanted) == 2 * BATCH_MAX + 200
    for at in range(0, len(wanted), 64):  # a claim's own rows come in any order
        assert set(worker.claimed[at : at + 64]) == set(wanted[at : at + 64])


def test_what_falls_due_behind_the_batch_is_rung_in_the_next_round(connection: Connection, claimer: Make) -> None:
    """A workflow may park with a time that is past, or commit late: before the place where a full batch ended."""
    put_to_sleep(connection, BATCH_MAX, due_s=-60)
    worker, timers = claimer("nap"), Timers()
    assert worker.ring(timers) == BATCH_MAX
    put_to_sleep(connection, 3, due_s=-120)
    timers._again_at = math.inf
    assert [worker.ring(timers) for _ in range(2)] == [0, 0], "void: it was not behind"
    timers._again_at = 0.0
    assert [worker.ring(timers) for _ in range(2)] == [3, 0]


def test_executors_share_what_is_due(connection: Connection, database_url: str) -> None:
    put_to_sleep(connection, 2 * BATCH_MAX + 7, due_s=0)
    text, params = WAKE_DUE.render("dbdurable").encode(), [BATCH_MAX, *BEGINNING]
    with (
        psycopg.connect(database_url, cursor_factory=psycopg.RawCursor) as one,
        psycopg.connect(database_url, cursor_factory=psycopg.RawCursor, autocommit=True) as other,
    ):
        rows = [ringer.execute(text, params).fetchone() for ringer in (one, other, other)]
        assert [row and row[0] for row in rows] == [BATCH_MAX, BATCH_MAX, 7]
    tickets = "select count(*), count(distinct workflow_id) from dbdurable.ready"
    assert connection.execute(tickets).fetchone() == (2 * BATCH_MAX + 7, 2 * BATCH_MAX + 7)


def test_starts_of_another_queue_go_on_while_a_mass_is_woken(connection: Connection, claimer: Make) -> None:
    """What is woken goes before starts, but only in its own queue: queues take turns."""
    put_to_sleep(connection, BATCH_MAX, due_s=0, queue="mass")
    starts = "select dbdurable.start('job', queue => 'other') from generate_series(1, 200)"
    connection.execute("insert into dbdurable.queue (name) values ('mass'), ('other')")
    connection.execute("insert into dbdurable.definition (name, queue, max_attempts) values ('job', 'other', 20)")
    connection.execute(starts)
    worker = claimer("nap", "job", queues=("mass", "other"), free=16)
    assert worker.ring(Timers()) == BATCH_MAX
    worker.look()
    worker.look_ahead_only()
    worker.look()
    served = []
    for _ in range(6):
        before = len(worker.claimed)
        worker.look()
        assert not worker.was_full
        of = connection.execute(
            "select queue, count(*) from dbdurable.workflow where id = any(%s) group by 1", [worker.claimed[before:]]
        )
        served.append(dict(of.fetchall()))
    assert sorted(served, key=str) == [{"mass": 16}] * 3 + [{"other": 16}] * 3


class Flights:
    """A seam that counts them by their statements, and what stands in front of each."""

    def __init__(self) -> None:
        self.by, self.behind = Counter[str](), Counter[tuple[str, str]]()
        self._lock = threading.Lock()

    def reached(self, point: str, connection: object) -> None:
        if point.startswith("before "):
            names = point.removeprefix("before ").split(" + ")
            with self._lock:
                self.by.update(set(names))
                self.behind.update((a, b) for a, b in combinations(names, 2))


@pytest.mark.parametrize("colour", ["def", "async def"])
def test_the_woken_share_their_commits(colour: str, connection: Connection, durable: Durable) -> None:
    @durable.workflow
    def nap(number: int) -> int:
        sleep(3600)
        return number

    @durable.workflow
    async def anap(number: int) -> int:
        await aio.sleep(3600)
        return number

    put_to_sleep(connection, FEW, name="nap" if colour == "def" else "anap", due_s=0)
    durable._runtime.database.seam = flights = Flights()
    finished = "select count(*), count(distinct output::text) from dbdurable.workflow where status = 'succeeded'"
    with durable.executor():
        wait_until(lambda: connection.execute(finished).fetchone() == (FEW, FEW), 60)
    print(f"{colour}: {flights.by}")
    assert flights.behind[CLAIM_PLAN.name, WAKE_DUE.name] == flights.by[WAKE_DUE.name] > 0
    assert flights.behind[UPKEEP_PLAN.name, RECOVER.name] == flights.by[RECOVER.name] > 0
    # How many gather behind a commit is chance; alone each would be a commit of its own.
    assert flights.by["end_wait"] + flights.by["end_wait_many"] < FEW
    assert flights.by["end_wait_many"] > 0
    assert connection.execute("select count(*) from dbdurable.step where kind = 'sleep'").fetchone() == (FEW,)
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)
