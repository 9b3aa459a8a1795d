"""Many at once: on threads, or on tasks of one event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.benchmarks.contest import Run


def on_threads(lanes: Sequence[Callable[[int], object]]) -> Run:
    """Does the units of work on one thread a lane; on the caller's own thread when there is only one."""

    def run(total: int) -> None:
        numbers, errors = itertools.count(), list[BaseException]()

        def work(one: Callable[[int], object]) -> None:
            try:
                while not errors and (n := next(numbers)) < total:
                    one(n)
            except BaseException as error:
                errors.append(error)

        if len(lanes) == 1:
            work(lanes[0])
        else:
            threads = [threading.Thread(target=work, args=(one,)) for one in lanes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    return run


def on_tasks(runner: asyncio.Runner, lanes: Sequence[Callable[[int], Coroutine[Any, Any, object]]]) -> Run:
    """The same with one task a lane."""

    async def gather(total: int) -> None:
        numbers = itertools.count()

        async def work(one: Callable[[int], Coroutine[Any, Any, object]]) -> None:
            while (n := next(numbers)) < total:
                await one(n)

        async with asyncio.TaskGroup() as group:
            for one in lanes:
                group.create_task(work(one))

    return lambda total: runner.run(gather(total))
