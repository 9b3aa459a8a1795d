"""Tests of the tests: each wrong version of the library has to make one of them fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from dbdurable.testing.crash import Point
from tests.crash.mutants import MUTANTS
from tests.crash.test_freeze import cancel, freeze_at, overtake_at, pause, take_over
from tests.crash.test_kill import kill_at

Connection = psycopg.Connection[Any]


def last(name: str) -> Callable[[list[Point]], list[Point]]:
    """The last point of that name."""
    return lambda every: [[at for at in every if at.name == name][-1]]


COMMIT = last("before record_in_transaction + commit")


def kill(url: str, connection: Connection, mutant: str | None) -> None:
    # Only there: a victim may also take over what another one left, and be killed in that.
    kill_at(url, connection, "transactions", wanted=None, mutant=mutant, name="between commit and record")


def kill_without_patience(url: str, connection: Connection, mutant: str | None) -> None:
    kill_at(url, connection, "transactions", wanted=6, mutant=mutant, patience_s=-2)


def zombie(url: str, connection: Connection, mutant: str | None) -> None:
    freeze_at(url, connection, "transactions", take_over, COMMIT, mutant)


def paused(url: str, connection: Connection, mutant: str | None) -> None:
    freeze_at(url, connection, "transactions", pause, COMMIT, mutant)


def cancelled(url: str, connection: Connection, mutant: str | None) -> None:
    freeze_at(url, connection, "transactions", cancel, COMMIT, mutant)


def overtaken(url: str, connection: Connection, mutant: str | None) -> None:
    overtake_at(url, connection, "transactions", COMMIT, mutant)


def zombie_outside(url: str, connection: Connection, mutant: str | None) -> None:
    freeze_at(url, connection, "mixed", take_over, last("before append"), mutant)


def taken_over_by_a_mutant(url: str, connection: Connection, mutant: str | None) -> None:
    """Here the replica that takes over is the wrong one: in this process, for this test."""
    from dbdurable._sql.statement import ALL

    texts = {statement: statement.text for statement in ALL.values()}
    try:
        if mutant is not None:
            MUTANTS[mutant].apply()
        freeze_at(url, connection, "transactions", take_over, COMMIT, mutant)
    finally:
        for statement, text in texts.items():
            statement.text = text  # type: ignore[assignment]


COMMITTED = "committed by a zombie"
KILLERS = {
    "no fence": [(zombie, COMMITTED), (paused, "committed while paused"), (cancelled, COMMITTED)],
    "record after commit": [(kill, "killed at .* between commit and record")],
    "no owner, no new epoch": [(taken_over_by_a_mutant, "a new epoch")],
    "no new epoch": [(taken_over_by_a_mutant, "a new epoch")],
    "overwritten records": [(overtaken, "frozen at .*: effects of transactions")],
    "status ignored": [(paused, "committed while paused")],
    "errors of zombies": [(zombie_outside, COMMITTED)],
    "no recovery": [(kill_without_patience, "said nothing for")],
}


@pytest.mark.parametrize(
    ("mutant", "test", "why"),
    [(mutant, test, why) for mutant, killers in KILLERS.items() for test, why in killers],
)
def test_a_mutant_is_noticed(mutant: str, test: Any, why: str, database_url: str, prepared: Connection) -> None:
    # For the right reason: a mutant that cannot even run would be noticed by anything.
    with pytest.raises(AssertionError, match=why):
        test(database_url, prepared, mutant)


@pytest.mark.parametrize("test", [zombie, paused, cancelled, overtaken, zombie_outside])
def test_the_same_tests_pass_without_a_mutant(test: Any, database_url: str, prepared: Connection) -> None:
    test(database_url, prepared, None)


def test_each_mutant_has_a_test() -> None:
    assert KILLERS.keys() == MUTANTS.keys()
