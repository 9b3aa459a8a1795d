"""What work costs, by exact count, alone on a server that does nothing by the clock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass
from typing import Any
from unittest import mock
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dbdurable._embedded import EmbeddedServer
from dbdurable._io.migrate import migrate
from tests.benchmarks.wire import Door, door
from tests.support.databases import scratch_directory
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]
Run = Callable[[int], object]
"""Does so many units of work to their end."""

Opened = Callable[[str], AbstractContextManager[Run]]
"""`opened(url)`: connections open, statements prepared, caches warm."""

SETTINGS = {
    "autovacuum": "off",
    "full_page_writes": "off",  # a page that is logged whole at its first change says when a checkpoint was
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "wal_level": "minimal",  # no snapshots of running transactions, four a minute
    "max_wal_senders": 0,
    "max_connections": 50,
}
QUIET = {
    "DBDURABLE_LISTEN_URL": "never",
    "DBDURABLE_LEASE_TTL_S": "3600",
    "DBDURABLE_BEAT_INTERVAL_S": "600",
    "DBDURABLE_POLL_INTERVAL_S_MAX": "600",
    "DBDURABLE_ENV_FILE": os.devnull,
}
"""The services of an executor keep still; who measures them calls them."""

PAGES = """
    select coalesce(sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0)
                        + coalesce(toast_blks_read + toast_blks_hit, 0)
                        + coalesce(tidx_blks_read + tidx_blks_hit, 0)), 0)::bigint
      from pg_statio_all_tables where schemaname = 'dbdurable'
"""


@dataclass(frozen=True)
class Cost:
    """Of one unit."""

    statements: float
    round_trips: float
    commits: float
    wal_bytes: float
    pages: float
    """Pages of dbdurable's tables and indexes that were looked at, wherever they were found: the server's work."""
    cpu_us: float
    """Of the measuring process. A time, so it is shown and never asserted."""


class Meter:
    """Counts in one database; nobody else may work on its server."""

    def __init__(self, url: str, through: Door, admin: Connection) -> None:
        self.url = url
        self._through = through
        self._admin = admin
        self._name = conninfo_to_dict(url)["dbname"]

    def cost(self, opened: Opened, few: int, many: int) -> Cost:
        """What one more unit costs: the difference of two windows, so that opening and closing are not in it."""
        low, high = self._window(opened, few), self._window(opened, many)
        return Cost(*((b - a) / (many - few) for a, b in zip(low, high, strict=True)))

    def _window(self, opened: Opened, units: int) -> tuple[float, ...]:
        settled = self._settled()
        with opened(self._through.url_of(self.url)) as run:
            traffic, wal, cpu = self._through.traffic(), self._wal(), time.process_time()
            if units:
                run(units)
            cpu, wal, now = time.process_time() - cpu, self._wal() - wal, self._through.traffic()
        commits, pages = (after - before for before, after in zip(settled, self._settled(), strict=True))
        statements, round_trips = now.statements - traffic.statements, now.round_trips - traffic.round_trips
        return astuple(Cost(statements, round_trips, commits, wal, pages, cpu * 1e6))

    def _wal(self) -> int:
        row = self._admin.execute("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
        assert row is not None
        return int(row[0])

    def settle(self) -> None:
        """A session has reported all that it did when it has ended: waits until all have."""
        sessions = "select count(*) from pg_stat_activity where datname = %s"
        wait_until(lambda: self._admin.execute(sessions, [self._name]).fetchone() == (0,), what="the sessions end")

    def _settled(self) -> tuple[int, int]:
        """Commits and pages until now."""
        self.settle()
        with psycopg.connect(self.url, autocommit=True) as connection:
            pages = connection.execute(PAGES.encode()).fetchone()
        self.settle()
        commits = self._admin.execute("select xact_commit from pg_stat_database where datname = %s", [self._name])
        row = commits.fetchone()
        assert pages is not None
        assert row is not None
        return int(row[0]), int(pages[0])


@contextmanager
def meters() -> Iterator[Callable[[], Meter]]:
    """A server of its own; each call makes a meter in a database with all migrations."""
    directory = scratch_directory() / f"dbdurable-meter-{uuid4().hex[:8]}"
    directory.mkdir(mode=0o755)
    try:
        with (
            mock.patch.dict(os.environ, QUIET),
            EmbeddedServer(directory / "pg", durable=False, linger_s=0.2, settings=SETTINGS) as server,
            psycopg.connect(server.url, autocommit=True) as admin,
            door(server.url) as through,
        ):

            def make() -> Meter:
                name = f"meter_{uuid4().hex[:8]}"
                admin.execute(f"create database {name}".encode())
                url = server.url.replace("/postgres?", f"/{name}?")
                with psycopg.connect(url, autocommit=True) as connection:
                    migrate(connection, "dbdurable")
                return Meter(url, through, admin)

            yield make
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
