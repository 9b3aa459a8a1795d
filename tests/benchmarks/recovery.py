"""How soon the workflows of a killed process go on in another one, at default settings and under load.

python -m tests.benchmarks.recovery [--kills 25] [--workers 3]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from typing import Any
from uuid import uuid4

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dbdurable import Durable, current_workflow
from dbdurable._embedded import EmbeddedServer
from tests.benchmarks.report import percentiles
from tests.support.databases import scratch_directory
from tests.support.wait import wait_until

THREADS, HELD, LOAD_CLIENTS = 16, 8, 2
SEEN = "create table seen (id uuid, pid integer, victim integer, at timestamptz default clock_timestamp())"

durable = Durable()


@durable.step
def stay_there(victim: int) -> None:
    """Says who runs it; the victim never gets any further."""
    with psycopg.connect(durable.url, autocommit=True) as connection:
        connection.execute(
            "insert into seen (id, pid, victim) values (%s, %s, %s)", [current_workflow().id, os.getpid(), victim]
        )
    if os.getpid() == victim:
        threading.Event().wait()


@durable.workflow
def stay(victim: int) -> None:
    stay_there(victim)


@durable.step
def nothing() -> None:
    pass


@durable.workflow
def load() -> None:
    for _ in range(3):
        nothing()


def work(url: str) -> None:
    """A worker's whole life, at default settings."""
    os.environ["DBDURABLE_ENV_FILE"] = os.devnull
    logging.disable(logging.CRITICAL)  # what a killed neighbour looks like is known here
    durable.configure(url=url, migrate=False)
    with durable.executor(threads=THREADS):
        threading.Event().wait()


_context = multiprocessing.get_context("forkserver")


class Fleet:
    """The workers, and clients that keep them busy."""

    def __init__(self, url: str, size: int) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.url, self._stopping = url, threading.Event()
        self.workers: list[ForkServerProcess] = []
        for _ in range(size):
            self.add()
        wait_until(lambda: self._registered() == size, 60, "the workers")
        self._clients = [threading.Thread(target=self._start, daemon=True) for _ in range(LOAD_CLIENTS)]
        for client in self._clients:
            client.start()

    def _registered(self) -> int:
        row = self.connection.execute("select count(*) from dbdurable.executor").fetchone()
        return int(row[0]) if row else 0

    def _start(self) -> None:
        while not self._stopping.wait(0.02):
            load.start()

    def add(self) -> None:
        process = _context.Process(target=work, args=(self.url,), daemon=True)
        process.start()
        self.workers.append(process)

    def kill_one(self) -> list[float]:
        """Kills the oldest worker in the middle of some workflows: after how many seconds each went on elsewhere."""
        victim = self.workers.pop(0)
        assert victim.pid is not None
        while self._held(victim.pid) < HELD:
            stay.start(victim.pid)
            threading.Event().wait(0.005)
        os.kill(victim.pid, signal.SIGKILL)
        killed_at = time.time()  # the same clock as the server's, on the same machine
        victim.join()
        self.add()
        rows = wait_until(lambda: self._gone_on(victim.pid), 60, "all of them to go on")
        return [at - killed_at for (at,) in rows]

    def _held(self, pid: int) -> int:
        row = self.connection.execute(
            "select count(*) from seen s where s.victim = %(pid)s and s.pid = %(pid)s", {"pid": pid}
        ).fetchone()
        return int(row[0]) if row else 0

    def _gone_on(self, pid: int | None) -> list[Any]:
        held = "select id from seen where victim = %(pid)s and pid = %(pid)s"
        rows = self.connection.execute(
            f"select extract(epoch from min(at))::float8 from seen where pid <> %(pid)s and id in ({held}) "
            "group by id".encode(),
            {"pid": pid},
        ).fetchall()
        return rows if len(rows) >= self._held(pid or 0) else []

    def close(self) -> None:
        self._stopping.set()
        for client in self._clients:
            client.join()
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
        durable.close()
        self.connection.close()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server of the benchmark's own."""
    directory = scratch_directory() / f"dbdurable-recovery-{uuid4().hex[:8]}"
    directory.mkdir(mode=0o755)
    try:
        with EmbeddedServer(directory / "pg", linger_s=0.5, settings={"max_connections": 300}) as opened:
            yield opened.url
            opened.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recovery", description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args(arguments)
    os.environ["DBDURABLE_ENV_FILE"] = os.devnull
    logging.disable(logging.CRITICAL)
    console, took_s, last_s = Console(), list[float](), list[float]()
    with server() as url:
        durable.configure(url=url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SEEN)
        _ = durable.client.queues()  # makes the tables
        fleet = Fleet(url, options.workers)
        columns = TextColumn("recovery"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=options.kills)
            for _ in range(options.kills):
                found = fleet.kill_one()
                took_s += found
                last_s.append(max(found))
                progress.advance(task)
        fleet.close()
    table = Table(title=f"{options.kills} SIGKILLs of {options.workers} workers under load, default settings")
    for heading in ("", "p50", "p99", "worst"):
        table.add_column(heading, justify="right")
    console.print("seconds by kill: " + ", ".join(f"{each:.1f}" for each in last_s))
    for what, values in (("each workflow", took_s), ("the last of a process", last_s)):
        figures = percentiles(values)
        table.add_row(f"{what} ({len(values)})", *(f"{figures[name]:.2f} s" for name in ("p50", "p99", "worst")))
    console.print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
