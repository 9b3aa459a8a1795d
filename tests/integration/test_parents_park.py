"""A parent whose child takes long is rows only: no thread, no memory; the child's end wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, Handle, aio, recv
from dbdurable.errors import WaitTimeout
from dbdurable.types import Status
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]


@pytest.fixture
def durable(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Durable]:
    monkeypatch.setenv("DBDURABLE_PARK_AFTER_S", "0.05")
    durable = Durable(database_url)
    yield durable
    durable.close()


def wait_parked(connection: Connection, name: str, many: int = 1) -> None:
    text = "select count(*) = %s from dbdurable.workflow where name = %s and status = 'waiting'"
    wait_until(lambda: connection.execute(text, [many, name]).fetchone() == (True,), 20, f"{many} {name} parked")


COLOURS = ["sync", "async", "async of sync", "sync of async"]


def define(durable: Durable, colour: str) -> tuple[Any, Any]:
    """A child and its parent; "async of sync" is an `async def` parent of a `def` child."""

    def child(topic: str) -> int:
        return recv(topic, int)

    async def achild(topic: str) -> int:
        return await aio.recv(topic, int)

    made: Any = durable.workflow(name="child")(child if colour in ("sync", "async of sync") else achild)

    def parent(many: int) -> list[int]:
        start = getattr(made, "sync", made).start
        handles = [start(f"answer-{n}") for n in range(many)]
        return [handle.result() for handle in handles]

    async def aparent(many: int) -> list[int]:
        start = getattr(made, "aio", made).start
        handles = [await start(f"answer-{n}") for n in range(many)]
        return list(await asyncio.gather(*(handle.result() for handle in handles)))

    wrap = durable.workflow(name="parent")
    return made, wrap(parent) if colour.startswith("sync") else wrap(aparent).sync


def answer(durable: Durable, connection: Connection, value: int) -> None:
    rows = connection.execute("select id, input ->> 'topic' from dbdurable.workflow where name = 'child'").fetchall()
    for id, topic in rows:
        durable.client.handle(id).send(topic, value)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_parent_parks_and_its_childs_end_wakes_it(durable: Durable, connection: Connection, colour: str) -> None:
    _, parent = define(durable, colour)
    with durable.executor(threads=2, tasks=2) as executor:
        handle: Handle[list[int]] = parent.start(1)
        wait_parked(connection, "child")
        wait_parked(connection, "parent")
        wait_until(lambda: executor.attempts.free(False) == 2 and executor.attempts.free(True) == 2)
        answer(durable, connection, 7)
        assert handle.result(30) == [7]
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)


@pytest.mark.parametrize("colour", COLOURS)
def test_more_parents_than_slots(durable: Durable, connection: Connection, colour: str) -> None:
    _, parent = define(durable, colour)
    with durable.executor(threads=2, tasks=2):
        handles = [parent.start(3) for _ in range(4)]
        wait_parked(connection, "child", 12)
        wait_parked(connection, "parent", 4)
        answer(durable, connection, 1)
        assert [handle.result(60) for handle in handles] == [[1, 1, 1]] * 4


def test_in_a_limited_queue_a_child_is_left_to_its_queue(durable: Durable, connection: Connection) -> None:
    queue = durable.queue("narrow", concurrency=1)

    @durable.workflow
    def child(n: int) -> int:
        return n

    @durable.workflow
    def parent(n: int) -> int:
        return child.options(queue=queue).start(n).result() + 1

    with durable.executor(threads=1):
        handles = [parent.start(n) for n in range(6)]
        assert [handle.result(60) for handle in handles] == [1, 2, 3, 4, 5, 6]
    assert connection.execute("select sum(used) from dbdurable.limit_key").fetchone() == (0,)


def test_the_time_for_a_child_outlives_a_crash(durable: Durable, connection: Connection) -> None:
    @durable.workflow
    def child() -> int:
        return recv("never", int)

    @durable.workflow
    def parent() -> str:
        try:
            child.start().result(timeout=3600)
        except WaitTimeout:
            return "too late"
        return "in time"

    with durable.executor(threads=2):
        handle = parent.start()
        wait_parked(connection, "parent")
    connection.execute("update dbdurable.wait set due = clock_timestamp() where kind = 'result'")
    with durable.executor(threads=2):
        assert handle.result(30) == "too late"


def test_whoever_ends_the_child_the_parent_hears_of_it(durable: Durable, connection: Connection) -> None:
    """Its executor dies between the child's end and the parent's wake-up: recovery makes up for it."""
    _, parent = define(durable, "sync")
    with durable.executor(threads=2):
        handle = parent.start(1)
        wait_parked(connection, "child")
        wait_parked(connection, "parent")
    (id,) = connection.execute("select id from dbdurable.workflow where name = 'child'").fetchone() or (None,)
    dead = "11111111-1111-1111-1111-111111111111"
    connection.execute("delete from dbdurable.ready")
    connection.execute("insert into dbdurable.lease values (%s, 1, array[%s])", [dead, id])
    connection.execute(
        "update dbdurable.workflow set status = 'succeeded', output = '5', executor_id = %s where id = %s", [dead, id]
    )
    assert handle.status() is Status.WAITING
    with durable.executor(threads=2):
        assert handle.result(30) == [5]
