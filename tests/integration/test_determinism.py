"""now(), uuid4() and rng(): what a body saw before a crash is what it sees when it is replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from dbdurable import Durable, aio, current_workflow, gather, now, rng, uuid4
from dbdurable.errors import NotInWorkflow, NotRunning
from dbdurable.ext.sqlalchemy import SQLAlchemy
from tests.support.wait import wait_until


@pytest.fixture
def durable(database_url: str) -> Iterator[Durable]:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    durable = Durable(database_url, sources=[SQLAlchemy(sessionmaker(engine))])
    yield durable
    durable.close()
    engine.dispose()


class Seen:
    """What a body drew at each of its places, attempt by attempt; the first attempt is interrupted at its end."""

    def __init__(self) -> None:
        self.attempts: list[list[Any]] = [[]]

    def draw(self, place: str = "") -> None:
        self.attempts[-1].append((place, now(), uuid4(), rng().random(), uuid4(), rng().random()))

    def crash_once(self, error: type[BaseException] = KeyboardInterrupt) -> None:
        """Raises what takes the attempt from its process, as an ended process does."""
        if len(self.attempts) == 1:
            self.attempts.append([])
            raise error

    def check(self, places: int) -> list[Any]:
        first, again = self.attempts
        assert sorted(first) == sorted(again)
        assert len(first) == places
        drawn = [value for _, _, *values in first for value in values]
        assert len(set(drawn)) == len(drawn), "two calls drew one value"
        return first


def times_of(connection: Connection[Any], id: Any) -> list[datetime]:
    """When the workflow began, then when each record was written, in order."""
    began = connection.execute("select started_at from dbdurable.workflow where id = %s", [id]).fetchone()
    rows = connection.execute("select finished_at from dbdurable.step where workflow_id = %s order by seq", [id])
    assert began is not None
    return [began[0], *(row[0] for row in rows)]


@pytest.mark.parametrize("queued", [False, True], ids=["called", "started"])
def test_every_kind_of_record_moves_the_time_and_a_replay_sees_it_again(
    durable: Durable, connection: Connection[Any], queued: bool
) -> None:
    seen = Seen()

    @durable.transaction
    def write(tx: Connection) -> None:
        tx.execute("select 1")

    @durable.transaction
    def write_in_a_session(session: Session) -> None:
        pass

    @durable.transaction
    def refuse(tx: Connection) -> None:
        raise ValueError("no")

    @durable.step
    def call() -> str:
        return "x"

    @durable.step
    def fail() -> None:
        raise ValueError("no")

    @durable.workflow
    def child() -> datetime:
        return now()

    @durable.workflow
    def every() -> str:
        seen.draw()
        for step in (write, call, write_in_a_session, refuse, fail, child.start):
            with suppress(ValueError):
                step()
            seen.draw()
        seen.crash_once()
        return str(current_workflow().id)

    with durable.executor(threads=1):
        if queued:
            id = every.start().result(timeout=30)
        else:
            with pytest.raises(KeyboardInterrupt):
                every()
            (handle,) = durable.client.workflows(name="every")
            id = durable.client.handle(handle.id).result(timeout=30)
    first = seen.check(places=7)
    expected = times_of(connection, id)
    assert [time for _, time, *_ in first] == expected
    assert sorted(expected) == expected
    assert len(set(expected)) == 7
    assert all(time.tzinfo is UTC for _, time, *_ in first)


def test_branches_draw_what_they_drew_whoever_was_first(durable: Durable, connection: Connection[Any]) -> None:
    seen = Seen()
    other_first = asyncio.Event()

    @durable.step
    async def call(name: str) -> None:
        if name == "a":
            await other_first.wait()  # live, branch b is two records ahead; a replay asks for a's record first

    @durable.transaction
    async def awrite(tx: AsyncConnection, name: str) -> None:
        pass

    @durable.workflow
    async def both() -> None:
        seen.draw("body")

        async def branch(name: str) -> None:
            seen.draw(f"{name} begins")
            await call(name)
            seen.draw(f"{name} called")
            await awrite(name)
            if name == "b":
                other_first.set()
            seen.draw(f"{name} ends")

        await asyncio.gather(branch("a"), branch("b"))
        seen.draw("body at the end")
        seen.crash_once(asyncio.CancelledError)

    with durable.executor():
        handle = both.sync.start()
        handle.result(timeout=30)
    times = {place: time for place, time, *_ in seen.check(places=8)}
    order = ["body", "b called", "b ends", "a called", "a ends"]
    assert [times[place] for place in order] == times_of(connection, handle.id)
    assert times["a begins"] == times["b begins"] == times["body"]
    assert times["body at the end"] == times["a ends"]


def test_threads_of_a_body_see_one_time(durable: Durable, connection: Connection[Any]) -> None:
    seen = Seen()

    @durable.step
    def call(name: str) -> None:
        pass

    @durable.workflow
    def both() -> None:
        def branch(name: str) -> None:
            call(name)
            seen.draw(name)

        gather(lambda: branch("a"), lambda: branch("b"))
        seen.draw("body at the end")
        seen.crash_once()

    with durable.executor():
        handle = both.start()
        handle.result(timeout=30)
    times = {place: time for place, time, *_ in seen.check(places=3)}
    assert sorted(times.values())[1:] == [max(times.values())] * 2
    assert times["body at the end"] == max(times_of(connection, handle.id))  # it never goes back


def test_what_lost_a_race_moves_no_time(durable: Durable) -> None:
    seen = Seen()
    won = asyncio.Event()

    @durable.step
    async def quick() -> None:
        pass

    @durable.step
    async def slow() -> None:
        await won.wait()

    @durable.workflow
    async def racing() -> None:
        await aio.race(quick, slow)
        seen.draw("won")
        await quick()
        won.set()
        seen.draw("after")
        seen.crash_once(asyncio.CancelledError)

    with durable.executor():
        racing.sync.start().result(timeout=30)
    seen.check(places=2)


def test_a_child_that_its_parent_runs_has_a_time_of_its_own(durable: Durable, connection: Connection[Any]) -> None:
    @durable.workflow
    def child() -> datetime:
        return now()

    @durable.workflow
    def parent() -> tuple[datetime, datetime]:
        return child(), now()

    with durable.executor(threads=1):
        inside, after = parent()
    ((began, finished),) = connection.execute(
        "select started_at, finished_at from dbdurable.workflow where name = 'child'"
    )
    assert inside == began
    assert after >= finished


def test_a_workflow_that_waited_for_its_start_begins_when_it_begins(
    durable: Durable, connection: Connection[Any]
) -> None:
    @durable.workflow
    def late() -> datetime:
        return now()

    handle = late.start()
    connection.execute("update dbdurable.workflow set created_at = created_at - interval '7 days'")
    with durable.executor():
        began = handle.result(timeout=30)
    assert [began] == times_of(connection, handle.id)
    assert began - handle.info().created_at > timedelta(days=7)


def test_a_direct_call_knows_its_deadline_as_it_stands_in_the_database(
    durable: Durable, connection: Connection[Any]
) -> None:
    @durable.workflow(timeout=90)
    def timed() -> tuple[datetime | None, datetime]:
        return current_workflow().deadline, now()

    with durable.executor():
        called = timed()
        started = timed.start().result(timeout=30)
    rows = connection.execute("select deadline, started_at from dbdurable.workflow order by id").fetchall()
    assert rows == [called, started]
    assert called[0] == called[1] + timedelta(seconds=90)


def test_the_clock_is_the_databases(
    durable: Durable, connection: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direct calls begin by the process's idea of it, which each heartbeat puts right."""

    @durable.workflow
    def when() -> datetime:
        return now()

    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "0.05")
    with durable.executor():
        database = durable._runtime.database
        database.learn_clock(0.0)  # far off: as after a machine has slept
        wait_until(lambda: database.clock_us() > 1_000_000_000_000_000, what="a heartbeat that tells the time")
        before = connection.execute("select clock_timestamp()").fetchone()
        time = when()
    after = connection.execute("select clock_timestamp()").fetchone()
    assert before is not None
    assert after is not None
    slack = timedelta(seconds=1)  # half a round trip, on a busy machine
    assert before[0] - slack <= time <= after[0]


@pytest.mark.parametrize("function", [now, uuid4, rng])
def test_they_are_for_bodies_only(durable: Durable, function: Any) -> None:
    @durable.step
    def in_step() -> None:
        function()

    @durable.transaction
    def in_transaction(tx: Connection) -> None:
        function()

    @durable.workflow
    def works(step: bool) -> None:
        in_step() if step else in_transaction()

    name = function.__name__
    with durable.executor():
        with pytest.raises(NotInWorkflow, match=rf"^{name}\(\) is for the bodies.* step in_step is not.*use "):
            works(True)
        with pytest.raises(NotInWorkflow, match=rf"^{name}\(\) is for the bodies.* transaction in_transaction is not"):
            works(False)
    with pytest.raises(NotInWorkflow, match=rf"^{name}\(\) was called outside of a workflow, or in a thread"):
        function()
    with pytest.raises(NotRunning):
        works(True)


def test_replaying_is_true_until_the_body_is_past_its_history(durable: Durable) -> None:
    seen: list[list[bool]] = [[]]

    def look() -> None:
        seen[-1].append(current_workflow().replaying)

    @durable.step
    def step_of(number: int) -> int:
        look()
        return number

    @durable.workflow
    def three() -> int:
        look()
        step_of(1)
        look()
        step_of(2)
        look()
        if len(seen) == 1:
            seen.append([])
            raise KeyboardInterrupt
        return step_of(3)

    with durable.executor(threads=1):
        assert three.start().result(timeout=30) == 3
    assert seen == [[False] * 5, [True, True, False, False]]
