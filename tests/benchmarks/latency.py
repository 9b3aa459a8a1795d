"""How long an idle queue takes from `start()` to `result()`: in one process, across two, and by polling alone.

    python -m tests.benchmarks.latency [--starts 100] [--directory DISK] [--json]

The workflow does nothing. The queue is idle before each start, for long enough that polling has slowed down.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import psycopg
from rich.console import Console
from rich.table import Table

from dbdurable import Client, Durable
from dbdurable._embedded import EmbeddedServer
from tests.benchmarks.measure import server_of

WARM_UP = 3
IDLE_S, IDLE_POLLING_S = (0.3, 0.5), (2.5, 4.0)
"""Pauses before a start. Polling reaches its longest interval about 2.3 s after the last claim."""


def application(url: str | None = None) -> Durable:
    """One workflow that does nothing."""
    durable = Durable(url)

    @durable.workflow
    def nothing(number: int) -> int:
        return number

    return durable


@contextmanager
def here(url: str) -> Iterator[Client]:
    """Started and run in this process."""
    durable = application(url)
    with durable.executor(threads=4):
        yield durable.client
    durable.close()


@contextmanager
def elsewhere(url: str, *, listens: bool) -> Iterator[Client]:
    """Started here, run in another process."""
    environment = {**os.environ, "DBDURABLE_DATABASE_URL": url, "DBDURABLE_LISTEN_URL": "" if listens else "never"}
    worker = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "--worker"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    with Client(url) as client:
        yield client
    worker.stdin.close()
    worker.wait(30)


def work() -> None:
    """The other process: runs workflows until its standard input is closed."""
    with application().executor(threads=4):
        print("ready", flush=True)
        sys.stdin.read()


def times_of(client: Client, starts: int, idle_s: tuple[float, float]) -> list[float]:
    """Milliseconds from each start to its result."""
    nothing, found = client.workflow("nothing", returns=int), list[float]()
    for number in range(WARM_UP + starts):
        time.sleep(random.uniform(*idle_s))
        begun = time.perf_counter()
        assert nothing.start(number=number).result(timeout=30) == number
        found.append((time.perf_counter() - begun) * 1000)
    return found[WARM_UP:]


def measure(url: str, starts: int) -> dict[str, list[float]]:
    """All three ways."""
    with here(url) as client:
        in_one_process = times_of(client, starts, IDLE_S)
    with elsewhere(url, listens=True) as client:
        listening = times_of(client, starts, IDLE_S)
    with elsewhere(url, listens=False) as client:
        polling = times_of(client, max(10, starts // 5), IDLE_POLLING_S)
    return {"one process": in_one_process, "two processes, LISTEN": listening, "two processes, polling": polling}


def table_of(result: dict[str, list[float]]) -> Table:
    """The times as people read them."""
    table = Table(title="idle queue: start to result, ms")
    for column in ("", "starts", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="left" if column == "" else "right")
    show: Callable[[float], str] = "{:.1f}".format
    for name, times in result.items():
        cuts = quantiles(times, n=100, method="inclusive")
        table.add_row(name, str(len(times)), *map(show, (median(times), cuts[89], cuts[98], max(times))))
    return table


def main() -> int:
    """Measures on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.latency", description=__doc__)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--directory", type=Path, help="where to put the scratch data; a disk, not memory")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="dbdurable-bench-", dir=options.directory))
    scratch.chmod(0o755)  # as root, the server runs under another account
    try:
        with EmbeddedServer(scratch / "pg", linger_s=0.5) as server:
            with psycopg.connect(server.url, autocommit=True) as connection:
                about = server_of(connection)
            result = measure(server.url, options.starts)
    finally:
        EmbeddedServer(scratch / "pg").stop()
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        print(json.dumps({"about": about, "ms": result}, indent=2))
        return 0
    console = Console()
    console.print(table_of(result))
    console.print("; ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
