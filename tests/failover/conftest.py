"""A server of their own, which tests restart: acknowledged commits survive it, as on a server with defaults."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from dbdurable._embedded import EmbeddedServer
from dbdurable._embedded.keeper import beside, read_postmaster
from dbdurable._io.migrate import migrate
from tests.support.databases import scratch_directory
from tests.support.wait import wait_until

HOW = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "killed": signal.SIGKILL}
"""What tells a postmaster to end that way. Killed, its processes notice by themselves."""

# Else a crash of the server forgets what it had acknowledged.
SETTINGS = {"synchronous_commit": "on", "max_connections": 120}


class Restartable:
    """A server that can be stopped, started again, and made read-only."""

    def __init__(self, directory: Path, **settings: object) -> None:
        settings = {**SETTINGS, **settings}
        self._server = EmbeddedServer(directory / "pg", durable=False, linger_s=60, settings=settings).start()
        self._data = directory / "pg"
        self._refused = 0
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute("create database shop")
            self.pid = connection.info.backend_pid
        self.url = self._server.url.replace("/postgres?", "/shop?")
        with psycopg.connect(self.url, autocommit=True) as connection:
            migrate(connection, "dbdurable")
            connection.execute("create table effect (what text, number integer)")

    def stop(self, how: str) -> None:
        """Returns when it is gone."""
        found = read_postmaster(self._data)
        assert found is not None
        os.kill(found.pid, HOW[how])
        wait_until(lambda: not Path(f"/proc/{found.pid}").exists() and self._server._keeper_pid() is None, 20)

    def start(self) -> None:
        """Returns when it takes connections, at the same place as before."""
        before = self._server.url
        assert self._server.start().url == before

    def refused(self) -> int:
        """How many connections it has turned away since the last time, for want of room."""
        before, self._refused = (
            self._refused,
            sum(
                beside(self._data, log).read_text(errors="replace").count("too many clients already")
                for log in ("log.1", "log")
                if beside(self._data, log).exists()
            ),
        )
        return self._refused - before

    def read_only(self, value: bool) -> None:
        """What some failovers do to the old primary."""
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute(f"alter system set default_transaction_read_only = {'on' if value else 'off'}")  # type: ignore[arg-type]
            connection.execute("select pg_reload_conf()")
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            shown = "on" if value else "off"
            wait_until(lambda: connection.execute("show default_transaction_read_only").fetchone() == (shown,))

    def end(self) -> None:
        self._server.stop()


@contextmanager
def restartable(**settings: object) -> Iterator[Restartable]:
    """Such a server, gone afterwards."""
    directory = scratch_directory() / f"dbdurable-failover-{uuid4().hex[:8]}"
    server = Restartable(directory, **settings)
    try:
        yield server
    finally:
        server.end()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Restartable]:
    """For all tests of a module, each of which leaves it running."""
    with restartable() as server:
        yield server


@pytest.fixture(scope="module")
def second_server() -> Iterator[Restartable]:
    """Another one."""
    with restartable() as server:
        yield server


@pytest.fixture
def look(server: Restartable) -> Iterator[psycopg.Connection]:
    """Tables emptied before; a connection after the test may be another one than before it."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("truncate effect, dbdurable.workflow, dbdurable.step, dbdurable.executor, dbdurable.lease")
        connection.execute("truncate dbdurable.ready, dbdurable.wait, dbdurable.attention, dbdurable.workflow_key")
        yield connection
