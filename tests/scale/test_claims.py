"""A claim touches as many pages among a million queued workflows as among a thousand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.scale.claimer import Claimer, backlog

Connection = psycopg.Connection[Any]
Make = Callable[..., Claimer]
MILLION = pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])
FEW, LIMIT = 1_000, 64

DEEPER = 3 * LIMIT
"""An index that is a thousand times larger is one level deeper: a page more for each ticket and each workflow."""


def cost(claimer: Claimer, connection: Connection) -> int:
    """Pages of one look that claims as many as it may."""
    before = len(claimer.claimed)
    pages = claimer.blocks(connection, claimer.look)
    assert len(claimer.claimed) - before == LIMIT
    return pages


def costs(claimer: Claimer, connection: Connection) -> tuple[int, int]:
    """Of a look from the beginning, and of the worst of the next ones."""
    full = cost(claimer, connection)
    assert claimer.was_full
    claimer.look_ahead_only()
    ahead = [cost(claimer, connection) for _ in range(5)]
    assert not claimer.was_full
    return full, max(ahead)


@pytest.mark.parametrize("many", [100_000, MILLION])
def test_a_claim_costs_the_same_however_many_are_queued(
    many: int, connection: Connection, database_url: str, claimer: Make
) -> None:
    backlog(connection, FEW)
    of_few = costs(claimer("work"), connection)
    backlog(connection, many - FEW)
    of_many = costs(claimer("work"), connection)
    print(f"pages of a claim of {LIMIT}, from the beginning and ahead: {of_few} of {FEW:,}, {of_many} of {many:,}")
    assert of_many[0] <= of_few[0] + DEEPER
    assert of_many[1] <= of_few[1] + DEEPER


@pytest.mark.parametrize("many", [30_000, pytest.param(300_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_work_that_nobody_here_knows_stands_in_nobodys_way(many: int, connection: Connection, claimer: Make) -> None:
    """In front of what this executor knows. Only the look from the beginning, now and then, walks past it."""
    backlog(connection, FEW)
    alone = costs(claimer("work"), connection)
    connection.execute("update dbdurable.ready set at = at + interval '1 hour'")
    backlog(connection, many, "somebody else's")
    full, ahead = costs(claimer("work"), connection)
    print(f"pages of a claim behind {many:,} foreign tickets: {full} from the beginning, {ahead} ahead ({alone} alone)")
    assert ahead <= alone[1] + DEEPER


def test_where_all_is_foreign_only_the_first_look_walks_it(connection: Connection, claimer: Make) -> None:
    """An idle executor does not read somebody else's backlog again and again, and finds what comes after it."""
    backlog(connection, 20_000, "somebody else's")
    connection.execute("update dbdurable.ready set at = at - interval '1 minute'")
    connection.execute("vacuum dbdurable.ready")
    idle = claimer("work")
    first = idle.blocks(connection, idle.look)
    idle.look_ahead_only()
    later = max(idle.blocks(connection, idle.look) for _ in range(3))
    print(f"pages of a look that finds nothing: {first}, then {later}")
    assert first > 200, "void: the backlog was not walked"
    assert later <= 100
    backlog(connection, 3)
    assert idle.look() == 3


def test_one_partition_is_found_among_very_many(connection: Connection, claimer: Make) -> None:
    """A claim of a limited queue looks at so many partitions and no more, however much lies in them."""
    connection.execute("insert into dbdurable.queue (name, per_partition) values ('default', 1)")
    backlog(connection, 2_000, partitions=1_000)
    of_few = cost(claimer("work"), connection)
    backlog(connection, 40_000, partitions=1_000)
    of_many = cost(claimer("work"), connection)
    print(f"pages of a claim of {LIMIT} in 1,000 partitions: {of_few} of 2,000, {of_many} of 42,000")
    assert of_many <= of_few * 1.2


def test_a_held_snapshot_makes_no_claim_dearer(
    connection: Connection, claimer: Make, held_snapshot: psycopg.Connection[Any]
) -> None:
    """Claimed tickets stay as dead rows while anybody has a transaction open: claims go on behind them."""
    backlog(connection, 12_000)
    worker = claimer("work")
    worker.look()
    worker.look_ahead_only()
    first = [cost(worker, connection) for _ in range(5)]
    while len(worker.claimed) < 11_000:
        worker.look()
    last = [cost(worker, connection) for _ in range(5)]
    worker.look_from_the_beginning()
    from_the_beginning = worker.blocks(connection, worker.look)
    print(f"pages: {first} at first, {last} behind 11,000 dead tickets; {from_the_beginning} from the beginning")
    assert from_the_beginning > last[-1] + 100, "void: nothing dead was in the way"
    assert sum(last) <= 1.2 * sum(first)


@pytest.mark.parametrize("limited", [False, True], ids=["without a limit", "many partitions"])
def test_a_plan_that_was_made_for_empty_tables_serves_a_backlog(
    limited: bool, connection: Connection, claimer: Make
) -> None:
    """A session plans a claim once, and nothing analyses the tables afterwards."""
    if limited:
        connection.execute("insert into dbdurable.queue (name, per_partition) values ('default', 1)")
        connection.execute("alter table dbdurable.limit_key set (autovacuum_enabled = off)")
    early = claimer("work")
    assert [early.look() for _ in range(10)] == [0] * 10
    backlog(connection, 20_000, partitions=5_000 if limited else 1)
    if limited:
        connection.execute(
            "insert into dbdurable.limit_key (queue, partition) "
            "select 'default', n::text from generate_series(0, 4999) n"
        )
    late = claimer("work")
    pages = []
    for each in (early, late, early, late):
        each.look_from_the_beginning()
        pages.append(cost(each, connection))
    print(f"pages of a claim of {LIMIT} by the early and the late one, twice: {pages}")
    assert max(pages[0], pages[2]) <= 1.2 * max(pages[1], pages[3])
