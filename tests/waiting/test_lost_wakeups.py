"""No wake-up is lost, however a wait and what ends it are interleaved; and each rule is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from dbdurable._sql import message, wait
from tests.waiting.interleave import World, lost, replace

KINDS = ["message", "event", "sleep", "retry"]


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_lost(world: World, kind: str, connection: psycopg.Connection) -> None:
    assert lost(world, kind, range(100)) == []
    assert world.woken > 30, "nothing was parked and woken: the test shows nothing"
    assert connection.execute("select count(*) from dbdurable.ready").fetchone() == (0,)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_none_is_lost_in_ten_thousand(world: World, kind: str) -> None:
    assert lost(world, kind, range(10_000)) == []
    assert world.woken > 3000


def without_the_look(world: World) -> None:
    """(c): who parks does not look once more."""
    world.texts[wait.LOOK] = "select $1::uuid"


def without_the_ticket(world: World) -> None:
    """(a): who sends writes a ticket only if it sees that somebody waits."""
    replace(world, message.SEND, "select", "with t as (insert into dbdurable.ready (queue, partition, rank, wake, "
            "workflow_id, name) select 'default', '', 0, true, w.id, w.name from dbdurable.workflow w "
            "where w.id = $1 and w.status = 'waiting'), m as (insert into dbdurable.message (workflow_id, id, topic, "
            "body) values ($1, gen_random_uuid(), $2::text, $3::json)) select $4::text --")  # fmt: skip


def with_the_read_before_the_commit(world: World) -> None:
    """(b): who sets an event reads in its own transaction who waits."""
    world.wake_in_transaction = True


def without_another_ring(world: World) -> None:
    """A wait rings once in its life: parking again does not set it, and nobody looks whether it is over."""
    replace(world, wait.PARK, "set rung = false,", "set rung = t.rung,")
    replace(world, wait.LOOK, "t.due <= clock_timestamp()", "false")


@pytest.mark.parametrize(
    ("kind", "mutant"),
    [
        ("message", without_the_look),
        ("message", without_the_ticket),
        ("event", without_the_look),
        ("event", with_the_read_before_the_commit),
        ("sleep", without_another_ring),
        ("retry", without_another_ring),
    ],
)
def test_each_rule_is_needed(world: World, kind: str, mutant: Callable[[World], None]) -> None:
    mutant(world)
    assert any(world.is_lost(kind, seed) for seed in range(300))
