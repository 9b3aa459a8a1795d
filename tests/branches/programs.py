"""Bodies that note what they see, in the order in which they see it; what they do is drawn by hypothesis."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from psycopg import AsyncConnection, Connection

from dbdurable import Durable, aio, fan_out, gather, race

Spec = list[tuple[str, list[int]]]
"""Groups of branches: how they are made, and how many calls each branch makes."""

SYNC = ["gather", "race", "fan_out"]
ASYNC = [*SYNC, "asyncio.gather", "TaskGroup", "wait", "as_completed", "wait_for"]
TASKS = {"asyncio.gather", "TaskGroup", "wait"}
"""Those whose branches stand on the body's own line."""


class Program:
    """One application, with delays that differ from attempt to attempt."""

    def __init__(self, durable: Durable) -> None:
        self.attempts: dict[str, list[list[Any]]] = defaultdict(list)
        self.delays = itertools.cycle([0])

        def delay_s() -> float:
            return next(self.delays) / 1000

        @durable.step
        def work(n: int) -> int:
            time.sleep(delay_s())
            return n

        @durable.step
        async def awork(n: int) -> int:
            await asyncio.sleep(delay_s())
            return n

        @durable.transaction
        def write(tx: Connection, n: int) -> int:
            time.sleep(delay_s())
            tx.execute("insert into written values (%s)", [n])
            return n

        @durable.transaction
        async def awrite(tx: AsyncConnection, n: int) -> int:
            await asyncio.sleep(delay_s())
            await tx.execute("insert into written values (%s)", [n])
            return n

        @durable.workflow
        def threads(run: str, spec: Spec) -> list[Any]:
            log: list[Any] = []
            self.attempts[run].append(log)

            def branch(b: int, calls: int) -> int:
                for n in range(calls):
                    log.append((work if n % 2 == 0 else write)(100 * b + n))
                return b

            for kind, sizes in spec:
                calls = [partial(branch, b, size) for b, size in enumerate(sizes)]
                if kind == "gather":
                    log.append(list(gather(*calls)))
                elif kind == "race":
                    log.append(race(*calls)[0])
                else:
                    log.append(fan_out(lambda b, s=sizes: branch(b, s[b]), range(len(sizes)), max_concurrency=2))
                log.append(work(1000 + len(log)))
            return log

        @durable.workflow
        async def tasks(run: str, spec: Spec) -> list[Any]:
            log: list[Any] = []
            self.attempts[run].append(log)

            async def branch(b: int, calls: int) -> int:
                choices: list[Callable[[int], Any]] = [awork, write.aio, work.aio, awrite]
                for n in range(calls):
                    log.append(await choices[(b + n) % 4](100 * b + n))
                return b

            for kind, sizes in spec:
                calls = [partial(branch, b, size) for b, size in enumerate(sizes)]
                if kind == "gather":
                    log.append(list(await aio.gather(*calls)))
                elif kind == "race":
                    log.append((await aio.race(*calls))[0])
                elif kind == "fan_out":
                    log.append(
                        await aio.fan_out(lambda b, s=sizes: branch(b, s[b]), range(len(sizes)), max_concurrency=2)
                    )
                elif kind == "asyncio.gather":
                    log.append(await asyncio.gather(*[call() for call in calls]))
                elif kind == "TaskGroup":
                    async with asyncio.TaskGroup() as group:
                        made = [group.create_task(call()) for call in calls]
                    log.append([task.result() for task in made])
                elif kind == "wait":
                    made = [asyncio.create_task(call()) for call in calls]
                    done, left = await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
                    log.append(sorted(task.result() for task in done))
                    log.append(sorted(await asyncio.gather(*left)))
                elif kind == "as_completed":
                    log.append([await each for each in asyncio.as_completed([call() for call in calls])])
                else:
                    log.append([await asyncio.wait_for(call(), 60) for call in calls])
                log.append(await awork(1000 + len(log)))
            return log

        self.threads, self.tasks = threads, tasks


def paths_of(spec: Spec) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """The paths that a run must have, and those that it may have besides: of a race's branches."""
    at, must, may = 0, set(), set()
    for kind, sizes in spec:
        if kind == "wait_for":
            must |= {(at + n + 1,) for n in range(sum(sizes))}
            at += sum(sizes)
        elif kind in TASKS:
            must |= {(at + b + 1, n + 1) for b, size in enumerate(sizes) for n in range(size)}
            at += len(sizes)
        else:
            found = {(at + 1, b + 1, n + 1) for b, size in enumerate(sizes) for n in range(size)}
            (may if kind == "race" else must).update(found)
            at += 1
        at += 1
        must.add((at,))
    return must, may
