"""The plan of a claim among a million queued workflows, and behind what nobody here knows: whatever is analysed.

It walks the tickets along their index, in its order, skips what is locked, and stops below the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from dbdurable._executor.claims import PARTITIONS_MAX
from tests.scale.claimer import Claimer, backlog
from tests.support.plans import Node, below, scans, show

Connection = psycopg.Connection[Any]
Make = Callable[..., Claimer]
LONG = [pytest.mark.long, pytest.mark.timeout(900)]
LIMIT, OWN = 64, 1_000
MODES = ("force_custom_plan", "force_generic_plan")
"""A prepared statement has plans of both kinds."""

AGAINST_THE_ORDER = {"Sort", "Incremental Sort", "Seq Scan", "Bitmap Heap Scan", "Hash Join", "Merge Join"}


def rows(node: Node, what: str = "Actual Rows") -> int:
    """Of all its loops; EXPLAIN says how many of one."""
    return round(node.get(what, 0) * node["Actual Loops"])


def rounded(nodes: list[Node]) -> int:
    """By how much that may be wrong: before PostgreSQL 18 EXPLAIN rounds the rows of a loop."""
    return sum(node["Actual Loops"] // 2 for node in nodes if isinstance(node["Actual Rows"], int))


def check(found: list[Node], foreign: int = 0) -> None:
    """The shape of a claim's plan, and that it read as many tickets as it may take, after so many foreign ones."""
    ends = [node for node in found if node["Node Type"] == "LockRows" and scans(list(below(node)), "ready")]
    limits = [node for node in found if node["Node Type"] == "Limit" and node["Plans"][-1] in ends]
    assert ends, show(found)
    assert len(limits) == len(ends), f"tickets are locked that nobody takes: {show(found)}"
    walks = []
    for end in ends:
        (join,) = end["Plans"]
        walk, workflow = join["Plans"]
        assert join["Node Type"] == "Nested Loop"
        assert (walk["Node Type"], walk["Index Name"], walk["Scan Direction"]) == (
            "Index Scan",
            "ready_order",
            "Forward",
        )
        assert all(column in walk["Index Cond"] for column in ("queue = ", "partition = ")), walk["Index Cond"]
        assert (workflow["Node Type"], workflow["Index Name"]) == ("Index Scan", "workflow_pkey")
        assert abs(rows(workflow) - rows(walk)) <= rounded([workflow, walk])
        walks.append(walk)
    assert abs(sum(map(rows, walks)) - LIMIT) <= rounded(walks), show(walks)
    assert sum(rows(walk, "Rows Removed by Filter") for walk in walks) == foreign, show(walks)
    # Windows over what was picked may sort it; nothing may that has tickets or workflows below it.
    against = [node for node in found if node["Node Type"] in AGAINST_THE_ORDER]
    tables = ("ready", "workflow", "limit_key")
    wrong = [node for node in against if any(scans([node, *below(node)], table) for table in tables)]
    assert not wrong, show(wrong)
    assert all(rows(node) <= LIMIT for node in scans(found, "workflow")), show(scans(found, "workflow"))


def check_both(connection: Connection, claimer: Claimer, name: str, foreign: int = 0) -> None:
    for mode in MODES:
        check(claimer.plans(connection, mode)[name], foreign)


def twice(connection: Connection, look: Callable[[], None]) -> None:
    """With tables that nobody ever analysed, and with such as were."""
    look()
    connection.execute("analyze dbdurable.workflow, dbdurable.ready, dbdurable.lease, dbdurable.limit_key")
    look()


def limit(connection: Connection, what: str) -> None:
    """The queue gets a limit that lets everything through."""
    connection.execute("alter table dbdurable.limit_key set (autovacuum_enabled = off)")
    connection.execute(f"insert into dbdurable.queue (name, {what}) values ('default', 1000)".encode())


@pytest.mark.parametrize("many", [20_000, pytest.param(1_000_000, marks=LONG)])
def test_the_plan_of_a_claim(many: int, connection: Connection, claimer: Make) -> None:
    backlog(connection, many)

    def look() -> None:
        of_all, of_next = claimer("work"), claimer("work")
        check_both(connection, of_all, "claim")
        assert of_next.look() == LIMIT
        of_next.look_ahead_only()
        check_both(connection, of_next, "claim_ahead")

    twice(connection, look)
    limit(connection, "concurrency")
    check_both(connection, claimer("work"), "claim_limited")


@pytest.mark.parametrize("many", [6_000, pytest.param(300_000, marks=LONG)])
def test_the_plan_of_a_claim_behind_what_nobody_here_knows(many: int, connection: Connection, claimer: Make) -> None:
    """The look from the beginning reads each foreign ticket once and no workflow of them; the next looks none."""
    backlog(connection, many, "somebody else's")
    connection.execute("update dbdurable.ready set at = at - interval '1 hour'")
    backlog(connection, OWN)

    def look() -> None:
        of_all, of_next = claimer("work"), claimer("work")
        check_both(connection, of_all, "claim", foreign=many)
        assert of_next.look() == LIMIT
        of_next.look_ahead_only()
        check_both(connection, of_next, "claim_ahead")

    twice(connection, look)
    limit(connection, "concurrency")
    check_both(connection, claimer("work"), "claim_limited", foreign=many)


@pytest.mark.parametrize(
    ("many", "partitions"), [(20_000, 2_000), pytest.param(1_000_000, 20_000, marks=LONG)], ids=["short", "long"]
)
def test_the_plan_of_a_claim_in_very_many_partitions(
    many: int, partitions: int, connection: Connection, claimer: Make
) -> None:
    """Of so many rows of limits it reads those of the partitions that it asks for, each by its key."""
    backlog(connection, many, partitions=partitions)
    limit(connection, "per_partition")
    connection.execute(
        "insert into dbdurable.limit_key (queue, partition) "
        "select 'default', n::text from generate_series(0, %s - 1) n",
        [partitions],
    )

    def look() -> None:
        for mode in MODES:
            plans = claimer("work").plans(connection, mode)
            check(plans["claim_limited"])
            for found in plans["ensure_keys"], plans["claim_limited"]:
                keys = scans(found, "limit_key")
                assert keys, show(found)
                assert all(rows(node) <= PARTITIONS_MAX + 1 for node in keys), show(keys)
                assert all(rows(node, "Rows Removed by Filter") == 0 for node in keys), show(keys)

    twice(connection, look)
