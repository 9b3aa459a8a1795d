"""A workflow called inside a workflow: its start and its outcome are records of the one that calls."""

import asyncio
import threading

import pytest

from dbdurable import Durable, Handle, errors


def journal(handle: Handle[object]) -> list[tuple[str, str]]:
    return [(step.kind, step.name) for step in handle.steps()]


def test_a_child_is_a_record_and_its_outcome_another(durable: Durable) -> None:
    @durable.step
    def add_one(n: int) -> int:
        return n + 1

    @durable.workflow
    def child(n: int) -> int:
        return add_one(n) * 10

    @durable.workflow
    def parent(n: int) -> int:
        return child(n) + child(n + 1)

    with durable.executor(threads=1):
        handle = parent.start(3)
        assert handle.result(timeout=20) == 40 + 50
        assert journal(handle) == [("child", "child"), ("join", "child"), ("child", "child"), ("join", "child")]
        children = durable.client.workflows(name="child")
        assert [info.status for info in children] == ["succeeded", "succeeded"]


def test_a_child_s_error_reaches_its_parent(durable: Durable) -> None:
    @durable.workflow
    def child() -> None:
        raise ValueError("no stock")

    @durable.workflow
    def parent() -> str:
        try:
            child()
        except ValueError as error:
            return str(error)
        return "not reached"

    with durable.executor():
        assert parent() == "no stock"


@pytest.mark.parametrize("threads", [1, 2])
def test_parents_and_children_never_wait_for_each_others_slots(durable: Durable, threads: int) -> None:
    @durable.workflow
    def child(n: int) -> int:
        return n

    @durable.workflow
    def middle(n: int) -> int:
        return child.start(n).result() + child(n)

    @durable.workflow
    def parent(n: int) -> int:
        handles = [middle.start(n), middle.start(n + 1)]
        return sum(handle.result() for handle in handles)

    with durable.executor(threads=threads):
        handles = [parent.start(n) for n in range(4)]
        assert [handle.result(timeout=60) for handle in handles] == [2, 6, 10, 14]


def test_both_colours_call_each_other(durable: Durable) -> None:
    @durable.workflow
    def plain(n: int) -> int:
        return n * 10

    @durable.workflow
    async def coroutine(n: int) -> int:
        return n * 100

    @durable.workflow
    def parent(n: int) -> int:
        return plain(n) + coroutine.sync(n)

    @durable.workflow
    async def aparent(n: int) -> list[int]:
        return list(await asyncio.gather(coroutine(n), plain.aio(n)))

    with durable.executor(threads=1, tasks=1):
        assert parent.start(3).result(timeout=20) == 330
        assert aparent.sync.start(4).result(timeout=20) == [400, 40]


def test_a_child_survives_its_parent_s_executor(durable: Durable) -> None:
    entered, go, ran = threading.Event(), threading.Event(), []

    @durable.step
    def slow(n: int) -> int:
        ran.append(n)
        entered.set()
        assert go.wait(30)
        return n

    @durable.step
    def after(n: int) -> int:
        ran.append(-n)
        return n

    @durable.workflow
    def child(n: int) -> int:
        return after(slow(n))

    @durable.workflow
    def parent(n: int) -> int:
        return child(n) + 1

    executor = durable.executor(threads=1).open()
    handle = parent.start(7)
    assert entered.wait(20)
    closing = threading.Thread(target=executor.close, kwargs={"timeout": 0})
    closing.start()
    assert executor.stopping.wait(20)
    go.set()
    closing.join(30)
    assert handle.status() == "queued"
    with durable.executor(threads=1):
        assert handle.result(timeout=30) == 8
    # The step that was in flight was recorded before the hand-back, so nothing ran twice.
    assert ran == [7, -7]
    assert len(durable.client.workflows(name="child")) == 1


def test_waiting_in_a_body_is_recorded(durable: Durable) -> None:
    @durable.workflow
    def child() -> int:
        return 5

    @durable.workflow
    def parent(other: Handle[int]) -> int:
        return other.result() + 1

    with durable.executor():
        handle = child.start()
        watcher = parent.start(handle)
        assert watcher.result(timeout=20) == 6
        assert journal(watcher) == [("join", "child")]


def test_a_wait_in_a_body_can_run_out_of_time(durable: Durable) -> None:
    @durable.workflow
    def never() -> None:
        raise AssertionError("delayed for a day")

    @durable.workflow
    def parent() -> str:
        try:
            never.options(delay=86_400).start().result(timeout=0.05)
        except errors.WaitTimeout:
            return "too late"
        return "not reached"

    with durable.executor():
        assert parent() == "too late"
