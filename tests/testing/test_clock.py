"""`Harness.advance`: time passes for what waits, and what came due has happened when it returns."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, aio, current_workflow, race, recv, send, sleep, sleep_until, timeout
from dbdurable.context import now
from dbdurable.errors import BadArgument, NotRunning, WaitTimeout
from dbdurable.testing import Harness, clock

durable = Durable("postgresql://nobody@localhost:1/nowhere")
happened: list[str] = []


@pytest.fixture
def harness(durable_harness: Harness) -> Harness:
    happened.clear()
    return durable_harness


@durable.step
def note(what: str) -> None:
    happened.append(what)


@durable.step
async def anote(what: str) -> None:
    happened.append(what)


@durable.workflow
def nap(days: float, name: str) -> None:
    sleep(timedelta(days=days))
    note(name)


@durable.workflow
def rounds(count: int) -> int:
    for number in range(count):
        sleep(timedelta(days=30))
        note(f"round {number}")
    return count


@durable.workflow
async def arounds(count: int) -> int:
    for number in range(count):
        await aio.sleep(timedelta(days=30))
        await anote(f"round {number}")
    return count


def test_timers_fire_in_their_order(harness: Harness) -> None:
    with harness.run(durable):
        handles = [nap.start(days, name) for days, name in ((3, "c"), (1, "a"), (40, "z"), (2, "b"))]
        harness.advance(hours=23)
        assert happened == []
        harness.advance(days=1, hours=1)
        assert happened == ["a", "b"]
        harness.advance(days=30)
        assert happened == ["a", "b", "c"]
        assert [handle.status() for handle in handles] == ["succeeded", "succeeded", "waiting", "succeeded"]
        harness.advance(days=6)  # 38 days in all
        assert happened == ["a", "b", "c"]
        harness.advance(days=2)
        assert happened == ["a", "b", "c", "z"]


def test_a_chain_of_sleeps(harness: Harness) -> None:
    with harness.run(durable):
        handle = rounds.start(4)
        harness.advance(days=90)
        assert happened == ["round 0", "round 1", "round 2"]
        assert handle.status() == "waiting"
        harness.advance(days=30)
        assert happened == ["round 0", "round 1", "round 2", "round 3"]
        assert handle.result(timeout=0) == 4


async def test_a_chain_of_sleeps_of_an_async_body(harness: Harness) -> None:
    with harness.run(durable):
        handle = await arounds.start(4)
        harness.advance(days=90)
        assert happened == ["round 0", "round 1", "round 2"]
        assert await handle.status() == "waiting"
        await asyncio.to_thread(harness.advance, days=30)
        assert await handle.result(timeout=0) == 4


def test_who_called_it_waits_through_it(harness: Harness) -> None:
    with harness.run(durable):
        begun, results = threading.Event(), []

        def call() -> None:
            begun.set()
            results.append(rounds(2))

        caller = threading.Thread(target=call)
        caller.start()
        begun.wait(10)
        while not results:  # advance sees what runs here, but not the thread before it has called
            harness.advance(days=60)
        caller.join()
        assert results == [2]
        assert happened == ["round 0", "round 1"]


@durable.workflow
def patient(name: str) -> str:
    return str(recv("answer", str, timeout=timedelta(days=7), default="nobody answered"))


@durable.workflow
def strict() -> str:
    return str(recv("answer", str, timeout=timedelta(days=7)))


@durable.workflow
def asks() -> str:
    """A child that waits, and a parent that waits for it."""
    answer = patient("child")
    note(answer)
    sleep_until(now() + timedelta(days=1))
    return answer


def test_timeouts(harness: Harness) -> None:
    with harness.run(durable):
        default, raises, answered = patient.start("a"), strict.start(), patient.start("b")
        harness.advance(days=6)
        answered.send("answer", "yes")
        harness.advance(seconds=0)  # what can happen has happened
        assert answered.result(timeout=0) == "yes"
        assert (default.status(), raises.status()) == ("waiting", "waiting")
        harness.advance(days=1)
        assert default.result(timeout=0) == "nobody answered"
        with pytest.raises(WaitTimeout):
            raises.result(timeout=0)


def test_a_parent_goes_on_in_the_same_advance(harness: Harness) -> None:
    with harness.run(durable):
        handle = asks.start()
        harness.advance(days=7.5)
        assert happened == ["nobody answered"]
        assert handle.status() == "waiting"
        harness.advance(hours=12)
        assert handle.result(timeout=0) == "nobody answered"


def wait_days(days: float) -> float:
    sleep(timedelta(days=days))
    return days


@durable.workflow
def races() -> tuple[int, float]:
    return race(lambda: wait_days(20), lambda: wait_days(10), lambda: wait_days(30))


@durable.workflow
async def araces() -> list[str]:
    async def late() -> str:
        await aio.sleep(timedelta(days=20))
        await anote("late")
        return "late"

    async def soon() -> str:
        answer: str = await aio.recv("never", str, timeout=timedelta(days=10), default="soon")
        await anote(answer)
        return answer

    return list(await asyncio.gather(late(), soon()))


def test_races(harness: Harness) -> None:
    with harness.run(durable):
        handle = races.start()
        harness.advance(days=365)
        assert handle.result(timeout=0) == (1, 10.0)


async def test_branches_of_an_async_body(harness: Harness) -> None:
    with harness.run(durable):
        handle = await araces.start()
        harness.advance(days=10)
        assert happened == ["soon"]
        harness.advance(days=10)
        assert await handle.result(timeout=0) == ["late", "soon"]
        assert happened == ["soon", "late"]


@durable.workflow
def tells(to: str) -> None:
    sleep(timedelta(days=1))
    send(to, "answer", "from a workflow")


def test_one_workflow_wakes_another(harness: Harness) -> None:
    with harness.run(durable):
        handle = patient.start("a")
        tells.start(str(handle.id))
        harness.advance(days=2)
        assert handle.result(timeout=0) == "from a workflow"


def test_delayed_starts_and_those_that_nobody_began(harness: Harness) -> None:
    with harness.run(durable), psycopg.connect(harness.url, autocommit=True) as connection:
        delayed = nap.options(delay=timedelta(days=2)).start(1, "delayed")
        harness.advance(days=2)
        assert delayed.status() == "waiting"
        connection.execute("select dbdurable.pause_queue('default')")
        missed = nap.options(expires=timedelta(days=5)).start(1, "missed")
        harness.advance(days=4)  # a ticket in a paused queue keeps nobody waiting
        assert (missed.status(), happened) == ("queued", [])
        harness.advance(days=1)
        assert missed.status() == "cancelled"
        connection.execute("select dbdurable.resume_queue('default')")
        harness.advance()
        assert happened == ["delayed"]


def test_deadlines(harness: Harness) -> None:
    with harness.run(durable):
        handle = nap.options(timeout=timedelta(days=20)).start(30, "too late")
        parent = asks.options(timeout=timedelta(days=5)).start()
        harness.advance(days=4)
        assert (handle.status(), parent.status()) == ("waiting", "waiting")
        harness.advance(days=1)
        assert (handle.status(), parent.status()) == ("waiting", "cancelled")
        children = durable.client.workflows(name="patient")
        assert [child.status for child in children] == ["cancelled"], "the cancel has reached it"
        harness.advance(days=15)
        assert (handle.status(), happened) == ("cancelled", [])


@durable.workflow
def limited() -> str:
    try:
        with timeout(timedelta(days=3)):
            sleep(timedelta(days=2))
            sleep(timedelta(days=2))
    except WaitTimeout:
        return "too late"
    return "in time"


def test_the_time_of_a_block(harness: Harness) -> None:
    with harness.run(durable):
        handle = limited.start()
        harness.advance(days=2.5)
        assert handle.status() == "waiting"
        harness.advance(hours=12)
        assert handle.result(timeout=0) == "too late"


def test_paused_workflows_have_their_own_time(harness: Harness) -> None:
    with harness.run(durable):
        handle = nap.start(10, "a")
        harness.advance(days=4)
        handle.pause()
        harness.advance(days=100)
        handle.resume()
        harness.advance(days=5)
        assert happened == []
        harness.advance(days=1)
        assert happened == ["a"]


DAY = timedelta(days=1)
seen: list[datetime] = []


@durable.workflow
def looks_at_the_clock() -> list[float]:
    """Days from one look to the next."""
    times = [now()]
    seen.append(times[0])
    sleep(30 * DAY)
    times.append(now())
    sleep_until(now() + 2 * DAY)
    times.append(now())
    nap.options(at=now() + 3 * DAY).start(1, "started at")
    left = current_workflow().deadline
    assert left is not None
    sleep(5 * DAY)
    times.append(now())
    return [round((b - a) / DAY, 2) for a, b in [*pairwise(times), (times[2], left)]]


def test_now_moves_with_it(harness: Harness) -> None:
    seen.clear()
    with harness.run(durable):
        harness.advance(days=1000)
        handle = looks_at_the_clock.options(timeout=100 * DAY).start()
        harness.advance(days=30)
        harness.advance(days=2.5)
        assert (handle.status(), happened) == ("waiting", [])
        assert [row.status for row in durable.client.workflows(name="nap")] == ["queued"]
        harness.advance(days=3.5)
        assert happened == ["started at"]
        harness.advance(days=1)
        assert handle.result(timeout=0) == [30, 2, 5, 68]
        assert len(seen) == 4, "void: the body was not replayed"
        assert len(set(seen)) == 1
        assert timedelta(days=999) < seen[0] - datetime.now(UTC) < timedelta(days=1001)
    with harness.run(durable):
        assert tells_the_time() - seen[0] > 36 * DAY
    assert durable._runtime.passed.total == timedelta()


@durable.workflow
def tells_the_time() -> datetime:
    return now()


def test_what_it_cannot_do_is_told(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotRunning, match=r"with harness\.run"):
        harness.advance(days=1)
    release = threading.Event()

    @durable.workflow
    def holds() -> None:
        release.wait(30)

    with harness.run(durable):
        wrong: list[dict[str, Any]] = [{"days": -1}, {"hours": float("nan")}, {"seconds": "1"}, {"days": 40_000}]
        for amount in wrong:
            with pytest.raises(BadArgument):
                harness.advance(**amount)
        monkeypatch.setattr(clock, "PATIENCE_S", 0.1)
        handle = holds.start()
        with pytest.raises(WaitTimeout, match=f"holds {handle.id}"):
            harness.advance(days=1)
        release.set()
        monkeypatch.undo()
        harness.advance()
        assert handle.status() == "succeeded"
