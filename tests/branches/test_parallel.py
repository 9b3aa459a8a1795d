"""gather, race and fan_out: what they return, raise and record, in both colours."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import psycopg
import pytest

from dbdurable import Batch, Completion, Durable, Handle, aio, errors, fan_out, gather, race, recv, run_step, sleep
from tests.support.wait import wait_until


def paths(handle: Handle[Any]) -> list[tuple[int, ...]]:
    return sorted(step.path for step in handle.steps())


def again(handle: Handle[Any], connection: psycopg.Connection[Any]) -> Any:
    """The same workflow from its beginning, with all that is recorded."""
    before = handle.result(timeout=20)
    connection.execute(
        "update dbdurable.workflow set status = 'blocked', executor_id = null where id = %s", [handle.id]
    )
    connection.execute("insert into dbdurable.attention values (%s, 'blocked', 'again')", [handle.id])
    handle.resume()
    assert handle.result(timeout=20) == before
    return before


def test_gather_waits_for_all_and_raises_the_first_failure_by_position(durable: Durable) -> None:
    done: list[int] = []

    @durable.step
    def work(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        done.append(n)
        return n

    @durable.workflow
    def threads() -> list[Any]:
        values = gather(work.bind(1), partial(work, 2), lambda: str(work(3)))
        assert gather() == ()
        with pytest.raises(ValueError, match="-1"):
            gather(work.bind(4), work.bind(-1), work.bind(-2), work.bind(5))
        return list(values)

    @durable.workflow
    async def tasks() -> list[Any]:
        async def three() -> str:
            return str(await work.aio(3))

        values = await aio.gather(work.aio.bind(1), work.aio(2), three)
        assert await aio.gather() == ()
        with pytest.raises(ValueError, match="-1"):
            await aio.gather(work.aio.bind(4), work.aio(-1), work.aio(-2), work.aio.bind(5))
        return list(values)

    with durable.executor():
        for run in (threads, tasks.sync):
            done.clear()
            assert run() == [1, 2, "3"]
            assert sorted(done) == [1, 2, 3, 4, 5]


def test_branches_stand_below_the_place_of_their_group(durable: Durable) -> None:
    @durable.workflow
    def work() -> None:
        run_step("a", lambda: 1)
        gather(lambda: run_step("b", lambda: 1), lambda: gather(lambda: run_step("c", lambda: 1), lambda: None))
        fan_out(lambda n: run_step("d", lambda: n), range(2))
        run_step("e", lambda: 1)

    with durable.executor():
        handle = work.start()
        handle.result(timeout=20)
        names = {step.path: step.name for step in handle.steps()}
    assert names == {(1,): "a", (2, 1, 1): "b", (2, 2, 1, 1, 1): "c", (3, 1, 1): "d", (3, 2, 1): "d", (4,): "e"}


@pytest.mark.parametrize("colour", ["threads", "tasks"])
def test_race_is_won_by_the_first_record(colour: str, durable: Durable, connection: psycopg.Connection[Any]) -> None:
    slow, begun = threading.Event(), []

    @durable.step
    def quick() -> str:
        return "quick"

    @durable.step
    def late() -> str:
        begun.append(1)
        slow.wait(20)
        return "late"

    @durable.step
    def after(won: int) -> int:
        slow.set()
        return won

    @durable.workflow
    def threads() -> list[Any]:
        index, value = race(late.bind(), quick.bind(), timeout=60)
        return [after(index), value]

    @durable.workflow
    async def tasks() -> list[Any]:
        index, value = await aio.race(late.aio.bind(), quick.aio(), timeout=60)
        return [await after.aio(index), value]

    with durable.executor():
        handle = (threads if colour == "threads" else tasks.sync).start()
        assert handle.result(timeout=20) == [1, "quick"]
        assert again(handle, connection) == [1, "quick"]  # the loser's record, if any, is no left-over
        assert len(begun) == 1, "what had lost was begun again"


@pytest.mark.parametrize("colour", ["threads", "tasks"])
def test_race_raises_when_its_time_is_over(colour: str, durable: Durable) -> None:
    go = threading.Event()

    @durable.step
    def never() -> None:
        go.wait(20)

    @durable.workflow
    def threads() -> str:
        with pytest.raises(errors.WaitTimeout, match=r"none of the 2 calls of race\(\) ended within 0.05 s"):
            race(never.bind(), never.bind(), timeout=0.05)
        return "went on"

    @durable.workflow
    async def tasks() -> str:
        with pytest.raises(errors.WaitTimeout, match=r"none of the 2 calls of race\(\) ended within 0.05 s"):
            await aio.race(never.aio(), never.aio.bind(), timeout=0.05)
        return "went on"

    with durable.executor():
        handle = (threads if colour == "threads" else tasks.sync).start()
        assert handle.result(timeout=20) == "went on"
        assert "timeout" in {step.name for step in handle.steps()}
        go.set()


def test_a_loser_is_left_at_its_next_call_and_its_transaction_does_not_commit(
    durable: Durable, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("create table t (n int)")
    decided, cleaned = threading.Event(), threading.Event()

    @durable.step
    def quick() -> None:
        entered.wait(20)

    entered = threading.Event()

    @durable.transaction
    def write(tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into t values (1)")
        entered.set()
        decided.wait(20)

    def loses() -> None:
        try:
            write()
        finally:
            cleaned.set()

    @durable.workflow
    def work() -> int:
        index, _ = race(loses, quick.bind())
        decided.set()
        run_step("wait", lambda: cleaned.wait(20))
        return index

    with durable.executor():
        assert work() == 1
    assert connection.execute("select count(*) from t").fetchone() == (0,)


def test_the_first_failure_wins_a_race(durable: Durable) -> None:
    def fails() -> None:
        raise LookupError("no such server")

    @durable.workflow
    def work() -> None:
        race(lambda: run_step("fails", fails))

    with durable.executor(), pytest.raises(LookupError, match="no such server"):
        work()


@pytest.mark.parametrize("colour", ["threads", "tasks"])
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_fan_out_of_many_items(count: int, colour: str, durable: Durable, connection: psycopg.Connection[Any]) -> None:
    now, most, lock = 0, 0, threading.Lock()

    @durable.step
    def square(n: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1
        return n * n

    @durable.step
    async def asquare(n: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return n * n

    tasks_most = 0

    @durable.workflow
    def threads(count: int) -> int:
        return sum(fan_out(square, range(count), max_concurrency=8))

    @durable.workflow
    async def tasks(count: int) -> int:
        nonlocal tasks_most

        async def one(n: int) -> int:
            nonlocal tasks_most
            tasks_most = max(tasks_most, len(asyncio.all_tasks()))
            return await asquare(n)

        return sum(await aio.fan_out(one, range(count), max_concurrency=8))

    with durable.executor():
        handle = (threads if colour == "threads" else tasks.sync).start(count)
        assert handle.result(timeout=110) == sum(n * n for n in range(count))
        rows = connection.execute("select count(*), count(distinct seq) from dbdurable.step").fetchone()
        assert rows == (count, count)
        assert most <= 8
        assert tasks_most <= 30
        again(handle, connection)
        assert connection.execute("select count(*) from dbdurable.step").fetchone() == (count,)


def test_completion(durable: Durable) -> None:
    @durable.step
    def work(n: int) -> int:
        if n % 3 == 0:
            raise ValueError(f"item {n}")
        return n

    done: list[Any] = []

    @durable.workflow
    def both() -> None:
        every = fan_out(work, range(7), completion=Completion())
        done.append(every)
        done.append(fan_out(work, range(4), completion=Completion(tolerated_failure_percent=50)))
        done.append(fan_out(work, range(100), max_concurrency=1, completion=Completion(min_successful=2)))
        for completion in (Completion(tolerated_failures=1), Completion(min_successful=4)):
            with pytest.raises(ValueError, match="item 0") as refused:
                fan_out(work, [0, 1, 2, 3, 4], completion=completion, max_concurrency=1)
            done.append(refused.value.__notes__)
        with pytest.raises(ValueError, match="item 3"):
            fan_out(work, [1, 2, 3, 4, 5], max_concurrency=1)

    with durable.executor():
        handle = both.start()
        handle.result(timeout=20)
    every, half, two, gave_up, too_few = done
    assert isinstance(every, Batch)
    assert every.succeeded == [(n, n) for n in (1, 2, 4, 5)]
    assert [(n, str(error)) for n, error in every.failed] == [(n, f"item {n}") for n in (0, 3, 6)]
    assert ([n for n, _ in half.succeeded], [n for n, _ in half.failed]) == ([1, 2], [0, 3])
    assert (two.succeeded, [n for n, _ in two.failed]) == ([(1, 1), (2, 2)], [0])
    assert gave_up == ["raised for item 0 of fan_out: 2 of 5 items failed, 1 are tolerated"]
    assert too_few == ["raised for item 0 of fan_out: only 3 of 5 items succeeded, 4 have to"]
    assert (6, 3, 1) in paths(handle)
    assert (6, 4, 1) not in paths(handle), "an item was begun after a failure"


@pytest.mark.parametrize("colour", ["threads", "tasks", "group"])
def test_a_cancel_reaches_the_body_whichever_branch_sees_it(colour: str, durable: Durable) -> None:
    entered, released, cleaned = threading.Event(), threading.Event(), []

    @durable.step
    def work(n: int) -> int:
        entered.set()
        released.wait(20)
        return n

    @durable.step
    def clean(n: int) -> None:
        cleaned.append(n)

    def twice(n: int) -> int:
        return work(n) + work(n)

    async def atwice(n: int) -> int:
        return await work.aio(n) + await work.aio(n)

    @durable.workflow
    def threads() -> None:
        try:
            gather(partial(twice, 1), partial(twice, 2))
        finally:
            clean(1)

    @durable.workflow
    async def tasks() -> None:
        try:
            await asyncio.gather(atwice(1), atwice(2))
        finally:
            await clean.aio(1)

    @durable.workflow
    async def group() -> None:
        try:
            async with asyncio.TaskGroup() as made:
                made.create_task(atwice(1))
                made.create_task(atwice(2))
        finally:
            await clean.aio(1)

    with durable.executor():
        handle = {"threads": threads, "tasks": tasks.sync, "group": group.sync}[colour].start()
        assert entered.wait(20)
        handle.cancel("not wanted")
        released.set()
        with pytest.raises(errors.WorkflowCancelled, match="not wanted"):
            handle.result(timeout=20)
        assert cleaned == [1]


def test_a_branch_of_a_direct_call_may_be_the_first_to_write(durable: Durable) -> None:
    @durable.step
    def work(n: int) -> int:
        return n

    @durable.workflow
    def threads() -> list[int]:
        return fan_out(work, range(10), max_concurrency=10)

    @durable.workflow
    async def tasks() -> list[int]:
        return await aio.fan_out(work.aio, range(10), max_concurrency=10)

    with durable.executor():
        for _ in range(5):
            assert threads() == tasks.sync() == list(range(10))


def test_children_as_branches(durable: Durable) -> None:
    @durable.step
    def work(n: int) -> int:
        return n

    @durable.workflow
    def child(n: int) -> int:
        return sum(gather(work.bind(n), work.bind(10 * n)))

    @durable.workflow
    def threads() -> list[int]:
        return fan_out(child, range(4))

    @durable.workflow
    async def tasks() -> list[int]:
        return list(await asyncio.gather(*[child.aio(n) for n in range(4)]))

    with durable.executor():
        assert threads() == tasks.sync() == [0, 11, 22, 33]


def test_tasks_that_are_left_end_with_the_body(durable: Durable, connection: psycopg.Connection[Any]) -> None:
    entered, ended = threading.Event(), threading.Event()

    @durable.step
    async def for_ever() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @durable.step
    async def until_entered() -> None:
        await asyncio.to_thread(entered.wait, 20)

    left = []

    @durable.workflow
    async def work() -> str:
        left.append(asyncio.create_task(for_ever()))
        await until_entered()
        return "done"

    with durable.executor():
        handle = work.sync.start()
        assert handle.result(timeout=20) == "done"
        assert ended.is_set()
        entered.set()
        again(handle, connection)


def test_wait_for_cancels_once_and_for_all(durable: Durable, connection: psycopg.Connection[Any]) -> None:
    begun: list[int] = []

    @durable.step
    async def slow() -> None:
        begun.append(1)
        await asyncio.Event().wait()

    @durable.step
    async def quick(n: int) -> int:
        return n

    @durable.workflow
    async def work() -> list[Any]:
        async def tries() -> str:
            try:
                await asyncio.wait_for(slow(), 0.05)
            except TimeoutError:
                return "timed out"
            return "not reached"

        return [await asyncio.wait_for(quick(1), 60), await asyncio.gather(tries(), quick(2)), await quick(3)]

    with durable.executor():
        handle = work.sync.start()
        assert handle.result(timeout=20) == [1, ["timed out", 2], 3]
        assert paths(handle)[0] == (1,)
        again(handle, connection)
        assert paths(handle)[-1] == (len(paths(handle)) + 1,)


def test_a_record_that_comes_late_takes_its_place_when_it_is_adopted(
    durable: Durable, connection: psycopg.Connection[Any]
) -> None:
    """A former owner's success arrives while another attempt runs the same call, and has gone on beside it."""
    entered, released, attempts = threading.Event(), threading.Event(), []

    @durable.step
    def slow(n: int) -> int:
        entered.set()
        released.wait(20)
        return n

    @durable.step
    def quick(n: int) -> int:
        return n

    @durable.workflow
    def work() -> list[int]:
        log: list[int] = []
        attempts.append(log)

        def others() -> None:
            for n in range(3):
                log.append(quick(n))

        gather(lambda: log.append(slow(100)), others)
        return log

    with durable.executor():
        handle = work.start()
        wait_until(lambda: entered.is_set() and len(handle.steps()) == 3, 20)
        connection.execute(
            "insert into dbdurable.step (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, "
            "output) values (%s, '1.1.1', 2147483647, 'step', 'slow', 1, 0, now(), now(), '101')",
            [handle.id],
        )
        released.set()
        assert handle.result(timeout=20) == [0, 1, 2, 101]
        assert [step.name for step in handle.steps()] == ["quick", "quick", "quick", "slow"]
        assert connection.execute("select max(seq) from dbdurable.step").fetchone() == (4,)
        again(handle, connection)
        assert attempts[0] == attempts[1] == [0, 1, 2, 101]


@pytest.mark.parametrize("colour", ["threads", "tasks"])
def test_a_loser_that_waits_for_long_is_not_waited_for(
    colour: str, durable: Durable, connection: psycopg.Connection[Any]
) -> None:
    """On a thread its frame has gone with the wait, and its clean-up with it; a task is cancelled where it waits."""

    @durable.step
    def note(what: str) -> str:
        return what

    def lose() -> None:
        try:
            recv("never")
        finally:
            note("cleaned up")

    def win() -> str:
        sleep(1.2)
        return note("won")

    async def alose() -> None:
        try:
            await aio.recv("never")
        finally:
            await note.aio("cleaned up")

    async def awin() -> str:
        await aio.sleep(1.2)
        return await note.aio("won")

    @durable.workflow
    def threads() -> tuple[int, str | None]:
        return race(lose, win)

    @durable.workflow
    async def tasks() -> tuple[int, str | None]:
        return await aio.race(alose, awin)

    with durable.executor():
        handle = (threads if colour == "threads" else tasks.sync).start()
        assert handle.result(timeout=20) == (1, "won")
    notes = [step.path for step in handle.steps() if step.name == "note"]
    assert notes == ([(1, 2, 2)] if colour == "threads" else [(1, 2, 2), (1, 1, 2)])
    assert connection.execute("select from dbdurable.wait").fetchall() == []
