"""What a running workflow takes of its process's memory: many at once, each in the middle of a step.

python -m tests.benchmarks.memory [--workflows 10000] [--threads] [--trace]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import threading
import tracemalloc
from dataclasses import dataclass

from rich.console import Console

from dbdurable import Durable
from tests.benchmarks.recovery import server
from tests.support.processes import resident_kb
from tests.support.wait import wait_until

BULK = 1_000


@dataclass(frozen=True)
class Taken:
    """Bytes of a workflow."""

    resident: float
    """Of the process, as the system sees it; only with many is that more than noise."""
    allocated: float | None = None
    """By Python itself, as `tracemalloc` counts it."""
    by_line: str = ""


def measured(url: str, workflows: int, *, threads: bool = False, trace: bool = False) -> Taken:
    """Starts so many, waits until all of them are in their step, lets them end."""
    durable, inside = Durable(url), list[int]()
    release, arelease = threading.Event(), asyncio.Event()

    @durable.step
    async def await_there(n: int) -> int:
        inside.append(n)
        await arelease.wait()
        return n

    @durable.workflow
    async def awaiting(n: int) -> int:
        return await await_there(n)

    @durable.step
    def stay_there(n: int) -> int:
        inside.append(n)
        release.wait()
        return n

    @durable.workflow
    def staying(n: int) -> int:
        return stay_there(n)

    def fill(many: int) -> None:
        target = len(inside) + many
        bind = staying.bind if threads else awaiting.bind
        for first in range(0, many, BULK):
            durable.client.start_many([bind(n) for n in range(first, min(first + BULK, many))])
        wait_until(lambda: len(inside) == target, timeout_s=600, what=f"{many} workflows are in their step")

    def memory() -> tuple[float, float]:
        gc.collect()
        return resident_kb(os.getpid()) * 1024.0, float(tracemalloc.get_traced_memory()[0]) if trace else 0.0

    slots: dict[str, int] = {"threads": workflows} if threads else {"tasks": workflows}
    with durable.executor(**slots) as executor:
        fill(1)  # what is loaded at first use is loaded
        more = workflows - 1
        if trace:
            tracemalloc.start()
        before = memory()
        earlier = tracemalloc.take_snapshot() if trace else None
        fill(more)
        wait_until(lambda: executor.attempts.free(not threads) == 0, what="all slots are taken")
        after = memory()
        lines = _lines(earlier, more) if earlier is not None else ""
        release.set()
        executor.loop.call_soon_threadsafe(arelease.set)
        executor.wait_idle(600)
    durable.close()
    tracemalloc.stop()
    resident, allocated = ((b - a) / more for a, b in zip(before, after, strict=True))
    return Taken(resident, allocated if trace else None, lines)


def _lines(earlier: tracemalloc.Snapshot, workflows: int) -> str:
    found = tracemalloc.take_snapshot().compare_to(earlier, "lineno")
    return "\n".join(
        f"{each.size_diff / workflows:8.0f} B {each.count_diff / workflows:6.1f} x  "
        f"{'/'.join(each.traceback[0].filename.split('/')[-2:])}:{each.traceback[0].lineno}"
        for each in found[:45]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--workflows", type=int, default=10_000)
    parser.add_argument("--threads", action="store_true", help="`def` bodies, each on a thread of its own")
    parser.add_argument("--trace", action="store_true", help="also say where Python allocated it (slower)")
    options = parser.parse_args(arguments)
    os.environ["DBDURABLE_ENV_FILE"] = os.devnull
    with server() as url:
        taken = measured(url, options.workflows, threads=options.threads, trace=options.trace)
    console = Console(width=200)
    console.print(f"{options.workflows:,} workflows, each in the middle of a step: {taken.resident / 1000:.1f} kB each")
    if taken.allocated is not None:
        console.print(f"of which Python allocated {taken.allocated / 1000:.1f} kB:\n{taken.by_line}", markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
