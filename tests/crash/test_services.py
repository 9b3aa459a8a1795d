"""SIGKILL inside the services of an executor: registering, beating, claiming, recovering."""

from __future__ import annotations

from fnmatch import fnmatch

import psycopg
import pytest

from dbdurable.testing.crash import Point
from tests.crash.actors import Job, acting, run, run_all
from tests.crash.conftest import Note
from tests.crash.oracle import check_house, check_killed, check_same, expire_all, traces
from tests.support.wait import wait_until

PROGRAM = "queued"
MIDDLE = Point("workflow", "after a statement of write", 2)


def first_points(points: list[Point], role: str, until: str) -> list[Point]:
    """The points of a service up to the first of that name: behind it come polls, at any time."""
    of_role = [point for point in points if point.role == role]
    found = [number for number, point in enumerate(of_role) if fnmatch(point.name, until)]
    assert found, [point.name for point in of_role]
    return of_role[: found[0] + 1]


def leave_work(url: str, connection: psycopg.Connection, runs: list[str]) -> None:
    """For each run, a process that dies in the middle of it."""
    reports = run_all([Job(url, PROGRAM, runs=(name,), fault=(MIDDLE, "kill")) for name in runs])
    for report in reports:
        check_killed(report)
    expire_all(connection)


@pytest.mark.parametrize(
    ("role", "until"),
    [
        ("control", "after * + claim + claimed_journals + claimed_waits + queues"),
        ("heartbeat", "after session"),
    ],
)
def test_killed_in_a_service_strands_nothing(
    role: str, until: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    golden = run(Job(database_url, PROGRAM, runs=("golden",), idle=True))
    points = first_points(golden.points, role, until)
    runs = [f"run-{n:03}" for n in range(len(points))]
    leave_work(database_url, prepared, runs)

    # Each of them finds what the dead left: it is killed while it registers, beats, recovers or claims.
    reports = []
    for at in points:
        reports.append(run(Job(database_url, PROGRAM, fault=(at, "kill"), claims=tuple(runs), stay=True)))
        check_killed(reports[-1])
        expire_all(prepared)
    rescued = run(Job(database_url, PROGRAM, runs=tuple(runs), idle=True))

    assert rescued.exitcode == 0, rescued.error
    for name in runs:
        assert rescued.results[name] == golden.results["golden"]
        check_same(traces(prepared, "golden"), traces(prepared, name))
    check_house(prepared)
    points_tried(role, "kill", [report.fired for report in reports], len(points))


def test_several_replicas_recover_at_once(database_url: str, prepared: psycopg.Connection) -> None:
    run(Job(database_url, PROGRAM, runs=("golden",), idle=True))
    runs = [f"run-{number}" for number in range(24)]
    leave_work(database_url, prepared, runs)

    rescuers = run_all([Job(database_url, PROGRAM, claims=tuple(runs), idle=True) for _ in range(4)], at_once=4)

    assert [report.exitcode for report in rescuers] == [0] * 4, [report.error for report in rescuers]
    for name in runs:
        check_same(traces(prepared, "golden"), traces(prepared, name))
    check_house(prepared)
    # Each of them was charged once and begun anew once: nobody recovered what another one had recovered.
    assert prepared.execute(
        "select distinct epoch from dbdurable.workflow where input::json ->> 'run' <> 'golden'"
    ).fetchall() == [(3,)]


def test_a_dead_executor_with_many_finished_lease_rows_does_not_delay_recovery(
    database_url: str, prepared: psycopg.Connection
) -> None:
    """Direct calls leave a lease row each until the next beat: recovery walks past them in one go."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """
            insert into dbdurable.lease (executor_id, batch, ids)
            select '00000000-0000-0000-0000-00000000dead', n, array[gen_random_uuid()] from generate_series(1, 200) n
            """
        )
    left = "select count(*) from dbdurable.lease where executor_id = '00000000-0000-0000-0000-00000000dead'"
    with acting(Job(database_url, PROGRAM, stay=True)):
        # 25 batches: one at a time, a second apart, they would take longer.
        wait_until(lambda: prepared.execute(left).fetchone() == (0,), 10, "the lease rows to be cleared")
    run(Job(database_url, PROGRAM, runs=("one",), idle=True))
