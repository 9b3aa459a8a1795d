"""Somebody's open transaction that holds one workflow delays that workflow and nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from dbdurable import Durable, Handle
from tests.support.wait import wait_until

Stranger = psycopg.Connection[tuple[object, ...]]


class Application:
    """Workflows that do nothing, or stay until they are let go."""

    def __init__(self, url: str) -> None:
        self.durable = Durable(url)
        self.go, self.inside = threading.Event(), threading.Event()
        narrow = self.durable.queue("narrow", concurrency=2)
        lines = self.durable.queue("lines", per_partition=1)

        @self.durable.step
        def stay() -> None:
            self.inside.set()
            self.go.wait(30)

        @self.durable.workflow
        def quick(number: int) -> int:
            return number

        @self.durable.workflow
        def slow(number: int) -> int:
            stay()
            return number

        @self.durable.workflow
        async def aquick(number: int) -> int:
            return number

        @self.durable.workflow
        async def aslow(number: int) -> int:
            await stay.aio()
            return number

        self.quick, self.slow, self.narrow, self.lines = quick, slow, narrow, lines
        self.by_colour = {"def": (quick, slow), "async def": (aquick.sync, aslow.sync)}


@pytest.fixture
def application(database_url: str) -> Iterator[Application]:
    application = Application(database_url)
    with application.durable.executor(threads=4):
        application.quick(0)  # its names and queues are known from now on
    yield application
    application.go.set()
    application.durable.close()


@pytest.fixture
def stranger(database_url: str, application: Application) -> Iterator[Stranger]:
    """A console that somebody left open."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def hold(stranger: Stranger, handle: Handle[int]) -> None:
    stranger.execute("select dbdurable.cancel(%s, 'maybe')", [handle.id])


def statuses(connection: psycopg.Connection, handles: list[Handle[int]]) -> list[str]:
    ids = [handle.id for handle in handles]
    rows = connection.execute("select status::text from dbdurable.workflow where id = any(%s) order by id", [ids])
    return [status for (status,) in rows]


QUEUES = {"default": {}, "narrow": {}, "lines": {"partition": "held"}}


@pytest.mark.parametrize("queue", QUEUES)
def test_a_queued_one_that_is_held_is_passed_by(
    queue: str, application: Application, stranger: Stranger, connection: psycopg.Connection
) -> None:
    held = application.quick.options(queue=queue, **QUEUES[queue]).start(1)  # type: ignore[arg-type]
    others = [application.quick.options(queue=queue).start(number) for number in range(20)]
    hold(stranger, held)
    with application.durable.executor(threads=4):
        assert [other.result(timeout=10) for other in others] == list(range(20))
        assert statuses(connection, [held]) == ["queued"]
        stranger.rollback()
        assert held.result(timeout=10) == 1


@pytest.mark.parametrize("queue", ["default", "narrow"])
def test_a_running_one_that_is_held_holds_up_only_its_own_end(
    queue: str, application: Application, stranger: Stranger, connection: psycopg.Connection
) -> None:
    held = application.slow.options(queue=queue).start(1)
    with application.durable.executor(threads=4):
        assert application.inside.wait(10)
        others = [application.quick.options(queue=queue).start(number) for number in range(20)]
        hold(stranger, held)
        application.go.set()
        assert [other.result(timeout=10) for other in others] == list(range(20))
        # Its own finish waits for the stranger meanwhile, and then is what the stranger left.
        assert statuses(connection, [held]) == ["running"]
        stranger.rollback()
        assert held.result(timeout=10) == 1
    assert connection.execute("select coalesce(sum(used), 0) from dbdurable.limit_key").fetchone() == (0,)


@pytest.mark.parametrize("colour", ["def", "async def"])
def test_several_that_are_held_do_not_keep_the_flushes_from_others(
    colour: str, application: Application, stranger: Stranger, connection: psycopg.Connection
) -> None:
    quick, slow = application.by_colour[colour]
    held = [slow.start(number) for number in range(4)]
    with application.durable.executor(threads=8, tasks=8):
        wait_until(lambda: statuses(connection, held) == ["running"] * 4)
        assert application.inside.wait(10)
        for each in held:
            hold(stranger, each)
        application.go.set()
        blocked = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        wait_until(lambda: connection.execute(blocked).fetchone()[0] >= 2)  # type: ignore[index]
        others = [quick.start(number) for number in range(20)]
        assert [other.result(timeout=10) for other in others] == list(range(20))
        assert statuses(connection, held) == ["running"] * 4
        stranger.rollback()
        assert [each.result(timeout=10) for each in held] == list(range(4))


def test_a_dead_executors_work_is_recovered_around_the_one_that_is_held(
    application: Application, stranger: Stranger, connection: psycopg.Connection
) -> None:
    handles = [application.quick.start(number) for number in range(5)]
    dead, ids = uuid4(), [handle.id for handle in handles]
    connection.execute(
        "update dbdurable.workflow set status = 'running', epoch = 1, executor_id = %s where id = any(%s)", [dead, ids]
    )
    connection.execute("delete from dbdurable.ready")
    connection.execute("insert into dbdurable.lease values (%s, 1, %s)", [dead, ids])
    hold(stranger, handles[2])
    with application.durable.executor(threads=4):
        others = handles[:2] + handles[3:]
        assert [other.result(timeout=10) for other in others] == [0, 1, 3, 4]
        assert connection.execute("select ids from dbdurable.lease where executor_id = %s", [dead]).fetchone() == (
            [UUID(str(handles[2].id))],
        )
        stranger.rollback()
        assert handles[2].result(timeout=10) == 2
        wait_until(
            lambda: connection.execute("select from dbdurable.lease where executor_id = %s", [dead]).fetchone() is None
        )
