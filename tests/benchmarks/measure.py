"""Rounds of all contestants in turn, each alone on the server while it is measured."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection

from tests.benchmarks.contestants import STEPS, Contestant, Run
from tests.support.databases import Server, url_of
from tests.support.wait import wait_until

WARM_UP = 2
"""Workflows a lane before the clock starts: connections are open and statements prepared."""

COUNTED = (5, 25)
"""Two windows of so many workflows: their difference has no cost of opening and closing in it."""

COUNTED_TIMES = 3


@dataclass(frozen=True)
class Load:
    """So many workflows, so many at once."""

    workflows: int
    lanes: int

    @property
    def title(self) -> str:
        return "one at a time" if self.lanes == 1 else f"{self.lanes} at once"


@dataclass
class Figures:
    """What one contestant did in one load; a value a round."""

    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


@dataclass
class Counts:
    """Exact, for one workflow."""

    commits: float
    wal_bytes: float


@dataclass
class Result:
    """Everything that was measured; contestants by `Contestant.key`."""

    figures: dict[tuple[Load, str], Figures] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    """Workflows that were asked for, warm-ups included."""
    rows: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """What the database has: rows of the application, records, finished workflows."""

    def per_s(self, load: Load, contestant: Contestant) -> float:
        return median(self.figures[load, contestant.key].per_s)

    def ratio(self, load: Load, contestant: Contestant) -> float:
        """The median of the rounds' ratios to `hand` of the same colour."""
        own, reference = (self.figures[load, key].per_s for key in (contestant.key, contestant.reference))
        return median(a / b for a, b in zip(own, reference, strict=True))

    def cpu_ms(self, load: Load, contestant: Contestant) -> float:
        return median(self.figures[load, contestant.key].cpu_ms)

    def check(self) -> None:
        """Raises unless every contestant did exactly the work that was asked for."""
        for key, done in self.done.items():
            wanted = (done * STEPS, done * STEPS, done)
            assert self.rows[key] == wanted, f"{key}: (rows, records, workflows) are {self.rows[key]}, not {wanted}"


@dataclass
class Arena:
    """One server, with a database for each contestant."""

    url: str
    admin: Connection[Any]
    databases: dict[str, str] = field(default_factory=dict)
    """The name of each contestant's database."""

    def url_of(self, contestant: Contestant) -> str:
        return url_of(Server(self.url), self.databases[contestant.key])

    def one(self, query: str, *params: object) -> tuple[Any, ...]:
        row = self.admin.execute(query, params).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row

    def lsn(self) -> int:
        """Bytes of WAL since the beginning."""
        return int(self.one("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")[0])

    def commits(self, contestant: Contestant) -> int:
        """Commits in its database. A session reports them when it ends at the latest: waits until all have."""
        name = self.databases[contestant.key]
        wait_until(
            lambda: self.one("select count(*) from pg_stat_activity where datname = %s", name) == (0,),
            what=f"sessions of {contestant.key} end",
        )
        return int(self.one("select xact_commit from pg_stat_database where datname = %s", name)[0])


@contextmanager
def arena(url: str, contestants: Sequence[Contestant]) -> Iterator[Arena]:
    """Databases for the contestants, dropped afterwards."""
    with psycopg.connect(url, autocommit=True) as admin:
        ring = Arena(url, admin)
        try:
            for contestant in contestants:
                name = f"dbdurable_bench_{uuid4().hex[:12]}"
                admin.execute(f'create database "{name}"'.encode())
                ring.databases[contestant.key] = name
                with psycopg.connect(ring.url_of(contestant), autocommit=True) as connection:
                    connection.execute(contestant.setup.encode())
            yield ring
        finally:
            for name in ring.databases.values():
                admin.execute(f'drop database if exists "{name}" with (force)'.encode())


def measure(
    ring: Arena,
    contestants: Sequence[Contestant],
    loads: Sequence[Load],
    rounds: int,
    advance: Callable[[str], None] = lambda _: None,
) -> Result:
    """Counts first, then rounds: each contestant once a round and load, beginning with another one each time."""
    result = Result()

    @contextmanager
    def warm(contestant: Contestant, lanes: int, workflows: int) -> Iterator[Run]:
        """The contestant alone on the server, warmed up; the pages that it writes have been logged once."""
        ring.admin.execute("checkpoint")
        with contestant.opened(ring.url_of(contestant), lanes) as run:
            run(WARM_UP * lanes)
            gc.collect()
            yield run
        result.done[contestant.key] = result.done.get(contestant.key, 0) + WARM_UP * lanes + workflows

    def count(contestant: Contestant) -> Counts:
        advance(f"counting {contestant.key}")
        commits, wal_bytes = dict[int, int](), dict[int, int]()
        for workflows in COUNTED:
            before = ring.commits(contestant)
            with warm(contestant, 1, workflows) as run:
                lsn = ring.lsn()
                run(workflows)
                wal_bytes[workflows] = ring.lsn() - lsn
            commits[workflows] = ring.commits(contestant) - before
        few, many = COUNTED
        return Counts((commits[many] - commits[few]) / (many - few), wal_bytes[many] / many)

    def race(contestant: Contestant, load: Load) -> None:
        advance(f"{load.title}: {contestant.key}")
        with warm(contestant, load.lanes, load.workflows) as run:
            begun, cpu = time.perf_counter(), time.process_time()
            run(load.workflows)
            elapsed_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        figures = result.figures.setdefault((load, contestant.key), Figures())
        figures.per_s.append(load.workflows / elapsed_s)
        figures.cpu_ms.append(cpu_s / load.workflows * 1000)

    for contestant in contestants:
        windows = [count(contestant) for _ in range(COUNTED_TIMES)]
        result.counts[contestant.key] = Counts(
            median(each.commits for each in windows), median(each.wal_bytes for each in windows)
        )
    for number in range(rounds):
        first = number % len(contestants)
        for load in loads:
            for contestant in (*contestants[first:], *contestants[:first]):
                race(contestant, load)
    for contestant in contestants:
        with psycopg.connect(ring.url_of(contestant)) as connection:
            row = connection.execute(contestant.counts.encode()).fetchone()
            assert row is not None
            result.rows[contestant.key] = (row[0], row[1], row[2])
    return result


def total_of(contestants: Sequence[Contestant], loads: Sequence[Load], rounds: int) -> int:
    """How often `measure` calls `advance`."""
    return len(contestants) * (COUNTED_TIMES + rounds * len(loads))


def server_of(connection: Connection[Any]) -> dict[str, str]:
    """The server's version, the settings that make commits durable, and what a commit takes there."""
    shown = {}
    for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers"):
        row = connection.execute(f"show {name}".encode()).fetchone()
        assert row is not None
        shown[name] = str(row[0])
    connection.execute("create table bench_probe (n int)")
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        connection.execute("insert into bench_probe values (1)")
        times.append(time.perf_counter() - begun)
    connection.execute("drop table bench_probe")
    shown["one commit"] = f"{median(times) * 1000:.2f} ms"
    return shown


