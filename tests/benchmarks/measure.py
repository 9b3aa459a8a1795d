"""Rounds of all contestants: alone on the server while counted, in turns with `hand` while timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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

COUNTED = (4, 14)
"""Two windows of so many workflows: their difference has no cost of opening and closing in it."""

COUNTED_TIMES = 3
"""The least of so many windows counts: heartbeats and polls come by the clock, not by the workflow."""

SLICES = 4
"""A turn of a contestant alternates with slices of `hand`, so that both meet the same weather."""


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
    ratio: list[float] = field(default_factory=list)
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
        return median(self.figures[load, contestant.key].ratio)

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
        row: tuple[Any, ...] | None = self.admin.execute(query.encode(), params).fetchone()
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
    known = {each.key: each for each in contestants}

    @contextmanager
    def warm(contestant: Contestant, lanes: int, workflows: int) -> Iterator[Run]:
        """The contestant with connections open and statements prepared."""
        with contestant.opened(ring.url_of(contestant), lanes) as run:
            run(WARM_UP * lanes)
            yield run
        result.done[contestant.key] = result.done.get(contestant.key, 0) + WARM_UP * lanes + workflows

    def rows_of(contestant: Contestant) -> tuple[int, int, int]:
        with psycopg.connect(ring.url_of(contestant), autocommit=True) as connection:
            row = connection.execute(contestant.counts.encode()).fetchone()
            assert row is not None
            return row[0], row[1], row[2]

    def count(contestant: Contestant) -> Counts:
        """Alone on the server, in steady state.

        What a checkpoint makes the server log anew (whole pages at their first change, and with checksums at
        their first hint bit) is provoked before the window: by the warm-up, and by reading what it wrote.
        """
        advance(f"counting {contestant.key}")
        commits, wal_bytes = dict[int, list[int]](), list[int]()
        few, many = COUNTED
        for workflows in COUNTED * COUNTED_TIMES:
            before = ring.commits(contestant)
            ring.admin.execute("checkpoint")
            with warm(contestant, 1, workflows) as run:
                rows_of(contestant)
                lsn = ring.lsn()
                run(workflows)
                if workflows == many:
                    wal_bytes.append(ring.lsn() - lsn)
            commits.setdefault(workflows, []).append(ring.commits(contestant) - before)
        return Counts((min(commits[many]) - min(commits[few])) / (many - few), min(wal_bytes) / many)

    def race(contestant: Contestant, load: Load) -> None:
        """One turn, in slices that alternate with the same slices of the reference."""
        advance(f"{load.title}: {contestant.key}")
        reference, each = known[contestant.reference], -(-load.workflows // SLICES)
        own_s, reference_s, cpu_s = list[float](), list[float](), 0.0
        with ExitStack() as stack:
            run = stack.enter_context(warm(contestant, load.lanes, SLICES * each))
            run_reference = run
            if reference is not contestant:
                run_reference = stack.enter_context(warm(reference, load.lanes, SLICES * each))
            gc.collect()
            for _ in range(SLICES):
                begun, cpu = time.perf_counter(), time.process_time()
                run(each)
                own_s.append(time.perf_counter() - begun)
                cpu_s += time.process_time() - cpu
                if reference is not contestant:
                    begun = time.perf_counter()
                    run_reference(each)
                    reference_s.append(time.perf_counter() - begun)
        figures = result.figures.setdefault((load, contestant.key), Figures())
        figures.per_s.append(SLICES * each / sum(own_s))
        figures.cpu_ms.append(cpu_s / (SLICES * each) * 1000)
        figures.ratio.append(median(a / b for a, b in zip(reference_s or own_s, own_s, strict=True)))

    for contestant in contestants:
        result.counts[contestant.key] = count(contestant)
    for number in range(rounds):
        first = number % len(contestants)
        for load in loads:
            for contestant in (*contestants[first:], *contestants[:first]):
                race(contestant, load)
    for contestant in contestants:
        result.rows[contestant.key] = rows_of(contestant)
    return result


def total_of(contestants: Sequence[Contestant], loads: Sequence[Load], rounds: int) -> int:
    """How often `measure` calls `advance`."""
    return len(contestants) * (1 + rounds * len(loads))


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
