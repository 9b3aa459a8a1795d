"""One server with a database for each contestant, and what the server itself can tell about the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection

from tests.benchmarks.contest import Contestant
from tests.benchmarks.workers import cpu_of
from tests.support.databases import Server, url_of
from tests.support.wait import wait_until


@dataclass
class Arena:
    """The server, with a database for each contestant."""

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

    def inside(self, contestant: Contestant, query: str) -> tuple[Any, ...]:
        """One row from the contestant's own database."""
        with psycopg.connect(self.url_of(contestant), autocommit=True) as connection:
            row: tuple[Any, ...] | None = connection.execute(query.encode()).fetchone()
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
            timeout_s=60,
            what=f"sessions of {contestant.key} end",
        )
        return int(self.one("select xact_commit from pg_stat_database where datname = %s", name)[0])

    def hot(self, contestant: Contestant) -> float | None:
        """The share of its updates that touched no index; None when it made none."""
        updates = "select sum(n_tup_hot_upd)::float8, sum(n_tup_upd)::float8 from pg_stat_user_tables"
        hot, all_of_them = self.inside(contestant, updates)
        return hot / all_of_them if all_of_them else None

    def cpu_s(self) -> float:
        """CPU seconds of all of the server's processes; 0 where it does not run on this machine."""
        pid = int(self.one("select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")[0])
        children = Path(f"/proc/{pid}/task/{pid}/children")
        try:
            living = children.read_text().split()
        except OSError:
            return 0.0
        return cpu_of(pid) + sum(cpu_of(int(child)) for child in living)


@contextmanager
def arena(url: str, contestants: Sequence[Contestant]) -> Iterator[Arena]:
    """Databases with their tables; dropped afterwards."""
    with psycopg.connect(url, autocommit=True) as admin:
        ring = Arena(url, admin)
        try:
            for contestant in contestants:
                name = f"dbdurable_bench_{uuid4().hex[:12]}"
                admin.execute(f'create database "{name}"'.encode())
                ring.databases[contestant.key] = name
                if isinstance(contestant.setup, str):
                    with psycopg.connect(ring.url_of(contestant), autocommit=True) as connection:
                        if contestant.setup:
                            connection.execute(contestant.setup.encode())
                else:
                    contestant.setup(ring.url_of(contestant))
            yield ring
        finally:
            for name in ring.databases.values():
                admin.execute(f'drop database if exists "{name}" with (force)'.encode())


@contextmanager
def held_snapshots(ring: Arena) -> Iterator[None]:
    """A transaction in each database that reads once and stays: nothing that dies from now on can be vacuumed."""
    with ExitStack() as stack:
        for name in ring.databases.values():
            connection = stack.enter_context(psycopg.connect(url_of(Server(ring.url), name), autocommit=True))
            connection.execute("begin isolation level repeatable read")
            connection.execute("select 1")
        yield
