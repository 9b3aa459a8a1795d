"""The connection breaks at every point, or an answer is lost: the same process goes on by itself."""

from __future__ import annotations

import psycopg
import pytest

from dbdurable.testing.crash import Point
from tests.crash.actors import Job, inject, run
from tests.crash.conftest import Note
from tests.crash.faults import of_programs, sample
from tests.crash.oracle import blamed_on, check_house, check_same, traces
from tests.crash.programs import PROGRAMS
from tests.crash.proxy import Proxy

ANSWERED = (
    "start", "start_here", "start_here_unkeyed", "start_child", "append", "finish", "record_fenced",
    "park", "look", "end_wait", "keep_wait", "send", "send_recorded", "receive", "set_event", "complete_recorded",
    "wake_waiters", "put_event",
)  # fmt: skip
"""What changes something, besides commits: its answer can be lost after it has taken effect."""


def changes_something(point: str) -> bool:
    what = point.removeprefix("before ")
    return what != point and (what in ANSWERED or what.endswith(" + commit"))


SHORT = [
    "mixed",
    "async",
    "parent",
    "method",
    "naps",
    "talks",
    "async talks",
    "cancelled",
    "async cancelled",
    "cascades",
]
LONG = list(PROGRAMS)


def break_at(
    url: str, connection: psycopg.Connection, program: str, action: str, wanted: int | None, keyed: bool = True
) -> tuple[list[Point], list[Point]]:
    """Breaks one run at each point; every one of them has to end by itself as the golden one did."""
    golden = run(Job(url, program, runs=("golden",), idle=True, keyed=keyed))
    assert golden.exitcode == 0, golden.error
    every = of_programs(golden.points)
    if action == "lose":
        every = [point for point in every if changes_something(point.name)]
    chosen = sample(every, wanted, f"{action} {program}")
    with Proxy(url) as proxy:
        job = Job(proxy.url if action == "lose" else url, program, idle=True, keyed=keyed)
        runs = inject(job, chosen, action, at_once=1, proxy=proxy)
    for it in runs:
        with blamed_on(f"{action} at {it.at}"):
            assert it.report.exitcode == 0, it.report.error
            assert it.report.results[it.run] == golden.results["golden"], "result"
            check_same(traces(connection, "golden"), traces(connection, it.run))
    check_house(connection)
    return [it.at for it in runs], every


@pytest.mark.parametrize("program", SHORT)
def test_a_broken_connection_is_not_noticed_outside(
    program: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    tried, every = break_at(database_url, prepared, program, "cut", wanted=8)
    points_tried(program, "cut", tried, len(every))


@pytest.mark.parametrize("program", SHORT)
def test_a_lost_answer_is_not_noticed_outside(
    program: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    tried, every = break_at(database_url, prepared, program, "lose", wanted=6)
    points_tried(program, "lose", tried, len(every))


@pytest.mark.parametrize("program", ["transactions", "mixed", "steps", "async"])
def test_a_lost_answer_without_a_key_starts_nothing_twice(
    program: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    tried, every = break_at(database_url, prepared, program, "lose", wanted=5, keyed=False)
    points_tried(f"{program} without key", "lose", tried, len(every))
    runs = "select input::json ->> 'run' from dbdurable.workflow"
    assert prepared.execute(f"{runs} group by 1 having count(*) > 1".encode()).fetchall() == []
    assert len(prepared.execute(runs.encode()).fetchall()) > len(tried)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("action", ["cut", "lose"])
@pytest.mark.parametrize("program", LONG)
def test_broken_at_every_single_point(
    program: str, action: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    tried, every = break_at(database_url, prepared, program, action, wanted=None)
    points_tried(program, action, tried, len(every))
