"""Scripts: names do not depend on how a module is run, and a process ends when it is told to."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.frameworks.conftest import Run


def statuses(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    return connection.execute("select name, status::text from dbdurable.workflow order by created_at, name").fetchall()


@pytest.mark.parametrize("how", [["flows.py"], ["-m", "flows"]])
def test_what_a_script_starts_is_claimed_by_a_worker_that_imports_it(
    run: Run, connection: psycopg.Connection[Any], how: list[str]
) -> None:
    started = run(*how, "start")
    assert (started.code, started.err) == (0, "")
    assert statuses(connection) == [("work", "queued"), ("awork", "queued")]
    worked = run("-c", "import flows; flows.main('worker')")
    assert (worked.code, worked.err) == (0, "")
    assert statuses(connection) == [("work", "succeeded"), ("awork", "succeeded")]


@pytest.mark.parametrize("how", [["flows.py"], ["-m", "flows"]])
def test_a_script_runs_its_own_workflows(run: Run, how: list[str]) -> None:
    ended = run(*how, "run")
    assert (ended.code, ended.out, ended.err) == (0, "3 5\n", "")


EXITS = {
    "left_open": (0, "3 5\n"),
    "left_open_with_work": (0, "hanging\n"),
    "started_only": (0, "started\n"),
    "never_used": (0, "imported\n"),
    "exits_inside": (3, "3\n"),
    "async_left_open": (0, "3 5\n"),
    "async_starts_only": (0, "started\nstarted\n"),
    "in_a_thread": (0, "3 5\n"),
}


@pytest.mark.parametrize("program", EXITS)
def test_the_interpreter_ends_with_an_open_executor(run: Run, program: str) -> None:
    ended = run("exits.py", program)
    assert (ended.code, ended.out, ended.err) == (*EXITS[program], "")


def test_a_loop_that_ends_under_an_executor_hands_its_workflows_back(
    run: Run, connection: psycopg.Connection[Any]
) -> None:
    ended = run("exits.py", "async_loop_died")
    assert (ended.code, ended.out) == (0, "hanging\n")
    assert "Traceback" not in ended.err
    # Handed back, unless it was being claimed again at that moment: then its lease is a dead process's.
    assert statuses(connection) in ([("ahang", "queued")], [("ahang", "running")])
