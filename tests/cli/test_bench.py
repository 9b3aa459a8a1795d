"""`dbdurable bench`: it measures, says what that means, and leaves nothing behind."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from dbdurable.cli.bench import verdict
from dbdurable.cli.bench_loads import Figure
from tests.cli.conftest import Cli

LOADS = [
    "round_trip", "commit", "transaction", "transactions", "steps", "steps_async", "enqueue", "jobs", "latency",
]  # fmt: skip


def schemas(connection: psycopg.Connection[Any]) -> list[str]:
    rows = connection.execute("select nspname from pg_namespace where nspname like 'dbdurable%'").fetchall()
    return [name for (name,) in rows]


def test_every_load_is_measured_and_nothing_stays(
    cli: Cli, database_url: str, connection: psycopg.Connection[Any]
) -> None:
    before = schemas(connection)
    run = cli("bench", database_url, "--seconds", "5", "--threads", "4", "--tasks", "8", "--json")
    assert run.exit_code == 0, run.stderr
    said = json.loads(run.stdout)
    assert list(said["figures"]) == LOADS
    assert all(figure["value"] > 0 for figure in said["figures"].values())
    assert said["about"]["PostgreSQL"]
    assert len(said["verdict"]) >= 2
    assert schemas(connection) == before


def test_a_database_that_is_not_there(cli: Cli) -> None:
    run = cli("bench", "postgresql://localhost:1/nowhere", "--seconds", "5")
    assert run.exit_code == 2
    assert run.stdout == ""
    assert "Connection refused" in run.stderr


def figures(trip: float, commit: float) -> list[Figure]:
    return [Figure("round_trip", "", trip, "ms"), Figure("commit", "", commit, "ms")]


def test_the_verdict_is_about_what_was_measured() -> None:
    assert "is near" in verdict(figures(0.1, 0.5))[0]
    assert "one workflow alone is slow" in verdict(figures(1.5, 2))[0]
    assert "run workers next to it" in verdict(figures(20, 21))[0]
    assert "Commits are slow" in verdict(figures(0.1, 9))[1]
