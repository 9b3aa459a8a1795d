"""Branches of an `async def` body: tasks that it makes itself."""

import asyncio
import threading

from dbdurable import Durable
from tests.support.wait import wait_until


def test_paths_do_not_depend_on_who_is_first(durable: Durable) -> None:
    @durable.step
    async def note(n: int) -> int:
        return n

    @durable.workflow
    async def both(first: int) -> list[int]:
        gates = [asyncio.Event(), asyncio.Event()]

        async def branch(number: int) -> int:
            if number != first:
                await gates[number].wait()
            value = await note(number) + await note(number + 10)
            gates[1 - number].set()
            return value

        return list(await asyncio.gather(branch(0), branch(1)))

    with durable.executor():
        journals = []
        for first in (0, 1):
            handle = both.sync.start(first)
            assert handle.result(timeout=30) == [10, 12]
            journals.append(sorted((step.path, step.name) for step in handle.steps()))
    assert journals[0] == journals[1] == [((1, 1), "note"), ((1, 2), "note"), ((2, 1), "note"), ((2, 2), "note")]


def test_branches_end_with_an_attempt_that_is_handed_back(durable: Durable) -> None:
    entered, ended, ran = threading.Event(), threading.Event(), []

    @durable.step
    async def quick(n: int) -> int:
        ran.append(n)
        return n

    @durable.workflow
    async def work() -> list[int]:
        async def waits_for_ever() -> int:
            try:
                if not ended.is_set():
                    entered.set()
                    await asyncio.Event().wait()
                return await quick(1)
            finally:
                ended.set()

        async def goes_on() -> int:
            await quick(2)
            while not (entered.is_set() and (executor.lease.closing or ended.is_set())):
                await asyncio.sleep(0)
            return await quick(3)

        return list(await asyncio.gather(waits_for_ever(), goes_on()))

    executor = durable.executor().open()
    handle = work.sync.start()
    assert entered.wait(20)
    wait_until(lambda: handle.steps(), what="the record of the other branch's step")
    executor.close(timeout=0)
    assert ended.is_set(), "the branch was left running beside whoever takes the workflow next"
    assert handle.status() == "queued"
    with durable.executor() as executor:
        assert handle.result(timeout=30) == [1, 3]
    assert ran == [2, 1, 3] or ran == [2, 3, 1]
