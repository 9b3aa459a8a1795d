"""`dbdurable demo`: a killed worker, a killed demo, and every row once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from dbdurable.cli.demo_store import Store
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "dbdurable", "demo", *options]


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "DBDURABLE_DATABASE_URL": url}


def demo(url: str, *options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*options), env=environment(url), capture_output=True, text=True, timeout=100)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def outcome_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def assert_each_city_once(connection: Connection, rows: int) -> None:
    """Counted here again: not with the demo's own statements."""
    for table in ("reservation", "ledger", "carrier_shipment"):
        cities = [city for (city,) in connection.execute(f"select city_id from dbdurable_demo_app.{table}".encode())]
        assert len(cities) == len(set(cities)) == rows, table
    assert one(connection, "select array_agg(distinct status) from dbdurable_demo.workflows") == ["succeeded"]
    assert one(connection, "select count(distinct input ->> 'city_id') from dbdurable_demo.workflows") == rows


def test_a_killed_worker_loses_and_repeats_nothing(database_url: str, connection: Connection):
    outcome = outcome_of(demo(database_url, "--rows", "200", "--json"))
    assert outcome["ok"]
    assert [check for check in outcome["checks"] if not check["ok"]] == []
    assert outcome["resumed_at"] is None

    killed = outcome["killed"]  # without somebody killed with work in hand, the test would say nothing
    assert 80 <= killed["at_done"] < 200
    assert killed["held"] > 0
    assert outcome["changed_hands"] >= killed["held"]
    assert 0 < killed["finished_elsewhere_after_s"] < 15
    taken_over = "select count(*) from dbdurable_demo.workflows where epoch > 1"
    assert one(connection, taken_over) == outcome["changed_hands"]

    assert_each_city_once(connection, 200)
    assert one(connection, "select count(*) from dbdurable.workflows") == 0  # the user's own: untouched
    assert one(connection, "select count(*) from pg_tables where schemaname = 'public'") == 0


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("select to_regclass('dbdurable_demo_app.run') is not null", id="tables made"),
        pytest.param("select count(*) > 200 from dbdurable_demo.workflows where finished_at is not null", id="middle"),
    ],
)
def test_a_killed_demo_goes_on(database_url: str, connection: Connection, moment: str):
    rows = 500

    def reached() -> bool:
        try:
            return bool(one(connection, moment))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return False

    with subprocess.Popen(command("--rows", str(rows), "--json"), env=environment(database_url)) as process:
        wait_until(reached, 60, moment)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert one(connection, "select finished_at is null from dbdurable_demo_app.run"), "killed too late"
    workers = f"select count(*) = 0 from pg_stat_activity where application_name like 'dbdurable-demo-{process.pid}-%'"
    wait_until(lambda: one(connection, workers), 10, "the workers end with the demo")

    outcome = outcome_of(demo(database_url, "--rows", "300", "--json"))  # the interrupted run's rows count
    assert outcome["ok"]
    assert outcome["rows"] == rows
    assert (outcome["resumed_at"] > 200) == ("> 200" in moment)
    assert outcome["resumed_at"] < rows
    assert_each_city_once(connection, rows)


def test_a_finished_run_begins_anew_and_the_output_is_plain_text(empty_database_url: str):
    for rows in (10, 20):
        lines = demo(empty_database_url, "--rows", str(rows), "--no-kill", "--workers", "1").stdout
        assert "\x1b" not in lines
        assert re.search(rf"^{rows} workflows done", lines, re.MULTILINE)
        assert re.search(rf"cities in the application's table +{rows} +{rows} +ok", lines)
        assert "Every city was supplied exactly once." in lines
        assert "select count(*) from dbdurable_demo.workflows where status = 'succeeded';" in lines


def test_the_table_at_the_end_can_say_no(database_url: str, connection: Connection):
    outcome = outcome_of(demo(database_url, "--rows", "10", "--no-kill", "--json"))
    assert outcome["ok"]
    connection.execute("insert into dbdurable_demo_app.ledger select * from dbdurable_demo_app.ledger limit 1")
    wrong = [check.what for check in Store(connection).checks(kill=True) if not check.ok]
    assert wrong == [
        "cities not booked exactly once",
        "transactions in the workflows' journal",
        "litres booked in the ledger",
        "of the killed worker's, done by another",  # nobody was killed: that proves nothing
    ]


def test_schemas_of_that_name_that_are_not_the_demos_are_left_alone(database_url: str, connection: Connection):
    connection.execute("create schema dbdurable_demo_app; create table dbdurable_demo_app.precious ()")
    done = demo(database_url, "--json", status=2)
    assert "did not make" in done.stderr
    assert "Traceback" not in done.stderr
    assert one(connection, "select to_regclass('dbdurable_demo_app.precious')") is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--rows", "50"], "--no-kill"), (["--rows", "5001"], "5,000"), (["--workers", "0"], "--workers")],
)
def test_options_that_cannot_work_are_refused(options: list[str], said: str):
    done = demo("postgresql://nobody@nowhere.invalid/", *options, status=2)
    assert said in re.sub(r"\s+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_no_database(tmp_path: object):
    done = demo(f"postgresql://nobody@/nothing?host={tmp_path}", "--json", status=2)
    assert "start PostgreSQL" in done.stderr
    assert "Traceback" not in done.stderr
