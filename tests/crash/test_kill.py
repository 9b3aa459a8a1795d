"""SIGKILL at every point of every kind of workflow; another process finishes as if nothing had happened."""

from __future__ import annotations

import psycopg
import pytest

from tests.crash.actors import Job, Report, run, run_all
from tests.crash.oracle import check_house, check_killed, check_same, expire_all, traces
from tests.crash.programs import PROGRAMS, TABLES

ROLES = ("caller", "workflow")


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_anywhere_it_ends_as_if_nothing_had_happened(
    program: str, database_url: str, connection: psycopg.Connection, points_tried
) -> None:
    connection.execute(TABLES)
    golden = run(Job(database_url, program, runs=("golden",), idle=True))
    assert golden.exitcode == 0, golden.error
    expected = traces(connection, "golden")
    points = [point for point in golden.points if point.role in ROLES]

    victims = {f"run-{at.role}-{at.number}": at for at in points}
    reports = run_all(
        [
            Job(database_url, program, runs=(name,), fault=(at.role, at.number, "kill"), idle=True)
            for name, at in victims.items()
        ]
    )
    for report in reports:
        check_killed(report)
    expire_all(connection)
    rescued = run(Job(database_url, program, runs=tuple(victims), idle=True))

    assert rescued.exitcode == 0, rescued.error
    for name, at in victims.items():
        try:
            assert rescued.results[name] == golden.results["golden"], "result"
            check_same(expected, traces(connection, name))
        except AssertionError as difference:
            raise AssertionError(f"killed at {at}: {difference}") from difference
    check_house(connection)
    points_tried(program, "kill", [report.fired for report in reports])
