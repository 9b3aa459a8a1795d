"""Databases with much in them, and a claimer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.scale.claimer import Claimer


@pytest.fixture
def claimer(database_url: str) -> Iterator[Callable[..., Claimer]]:
    """Makes claimers for the test's database."""
    made: list[Claimer] = []

    def make(*names: str, queues: tuple[str, ...] = ("default",), free: int = 64) -> Claimer:
        made.append(Claimer(database_url, list(queues), list(names), free))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def held_snapshot(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody's open transaction: nothing that died since may be vacuumed."""
    with psycopg.connect(database_url) as other:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select count(*) from dbdurable.ready")
        yield other
        other.rollback()
