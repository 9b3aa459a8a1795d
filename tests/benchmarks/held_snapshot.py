"""Draining a queue while somebody keeps a transaction open, against draining it in peace.

python -m tests.benchmarks.held_snapshot [--jobs 10000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from uuid import uuid4

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from dbdurable import Durable
from tests.benchmarks.recovery import server

THREADS, BATCH = 16, 1_000


def drain(url: str, jobs: int, held: bool) -> float:
    """Jobs a second, in a database of its own."""
    with psycopg.connect(url, autocommit=True) as administrator:
        name = f"drain_{uuid4().hex[:8]}"
        administrator.execute(f"create database {name}".encode())
    url = url.replace("/postgres?", f"/{name}?")
    durable = Durable(url)

    @durable.workflow
    def nothing() -> None:
        pass

    for _ in range(jobs // BATCH):
        durable.client.start_many(nothing.bind() for _ in range(BATCH))
    with contextlib.ExitStack() as stack:
        if held:
            other = stack.enter_context(psycopg.connect(url))
            other.execute("set transaction isolation level repeatable read")
            other.execute("select count(*) from dbdurable.ready")
        begun = time.perf_counter()
        with durable.executor(threads=THREADS) as executor:
            executor.wait_idle(600)
            took_s = time.perf_counter() - begun
    durable.close()
    return jobs / took_s


def main(arguments: list[str] | None = None) -> int:
    """Alternates the two, and prints medians; asserts nothing: the exact counts are in tests/scale."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.held_snapshot", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    os.environ["DBDURABLE_ENV_FILE"] = os.devnull
    console, rates = Console(), {False: list[float](), True: list[float]()}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with server() as url, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=2 * options.rounds)
        for _ in range(options.rounds):
            for held in (False, True):
                progress.update(task, description="a snapshot is held" if held else "in peace")
                rates[held].append(drain(url, max(BATCH, options.jobs), held))
                progress.advance(task)
    table = Table(title=f"draining {options.jobs:,} jobs that do nothing, {THREADS} threads")
    for heading in ("", "jobs/s", "x in peace"):
        table.add_column(heading, justify="right")
    peace = statistics.median(rates[False])
    for held, what in ((False, "in peace"), (True, "a snapshot is held")):
        table.add_row(what, f"{statistics.median(rates[held]):,.0f}", f"{statistics.median(rates[held]) / peace:.2f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
