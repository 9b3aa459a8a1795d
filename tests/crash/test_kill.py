"""SIGKILL at every point of every kind of workflow; another process finishes as if nothing had happened."""

from __future__ import annotations

import psycopg
import pytest

from dbdurable.testing.crash import Point
from tests.crash.actors import Injected, Job, Report, inject, run
from tests.crash.conftest import Note
from tests.crash.faults import of_programs, sample
from tests.crash.oracle import NOTHING, blamed_on, check_house, check_killed, check_same, expire_all, traces
from tests.crash.programs import PROGRAMS


def kill_at(
    url: str,
    connection: psycopg.Connection,
    program: str,
    wanted: int | None,
    mutant: str | None = None,
    patience_s: float = 30.0,
    name: str | None = None,
) -> tuple[list[Point], list[Point]]:
    """Kills a process at each point (of that name); another takes over all of them. Points tried, and all there are."""
    golden = run(Job(url, program, runs=("golden",), idle=True, mutant=mutant))
    assert golden.exitcode == 0, golden.error
    expected = traces(connection, "golden")
    every = [at for at in of_programs(golden.points) if name in (None, at.name)]
    chosen = sample(every, wanted, program)

    victims = inject(Job(url, program, idle=True, mutant=mutant), chosen, "kill")
    for victim in victims:
        check_killed(victim.report)
    expire_all(connection)
    # Whoever got no answer asks again, under the same key; whatever was started is taken over.
    names = tuple(victim.run for victim in victims)
    rescued = run(Job(url, program, runs=names, idle=True, mutant=mutant, patience_s=patience_s))

    check_rescued(connection, rescued, golden, victims)
    assert expected == traces(connection, "golden")
    return [victim.at for victim in victims], every


def check_rescued(connection: psycopg.Connection, rescued: Report, golden: Report, victims: list[Injected]) -> None:
    """Every victim's run ended as the golden one did."""
    assert rescued.exitcode == 0, rescued.error
    for victim in victims:
        with blamed_on(f"killed at {victim.at}"):
            assert rescued.results[victim.run] == golden.results["golden"], "result"
            check_same(traces(connection, "golden"), traces(connection, victim.run))
    check_house(connection)


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_anywhere_it_ends_as_if_nothing_had_happened(
    program: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    tried, every = kill_at(database_url, prepared, program, wanted=10)
    points_tried(program, "kill", tried, len(every))


@pytest.mark.parametrize("program", ["transactions", "steps", "mixed", "async"])
def test_killed_without_a_key_it_is_done_by_others_or_never_was(
    program: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    """Nobody asks again here: what has left any trace is taken over, outside effects included."""
    golden = run(Job(database_url, program, runs=("golden",), idle=True, keyed=False))
    expected, every = traces(prepared, "golden"), of_programs(golden.points)
    chosen = sample(every, 10, f"no key {program}")
    victims = inject(Job(database_url, program, keyed=False), chosen, "kill")
    for victim in victims:
        check_killed(victim.report)
    expire_all(prepared)
    rescued = run(Job(database_url, program, idle=True))

    assert rescued.exitcode == 0, rescued.error
    for victim in victims:
        found = traces(prepared, victim.run)
        if found != NOTHING:
            with blamed_on(f"killed at {victim.at}"):
                check_same(expected, found)
    check_house(prepared)
    points_tried(f"{program} without key", "kill", [victim.at for victim in victims], len(every))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_at_every_single_point(
    program: str, database_url: str, prepared: psycopg.Connection, points_tried: Note
) -> None:
    tried, every = kill_at(database_url, prepared, program, wanted=None)
    points_tried(program, "kill", tried, len(every))
