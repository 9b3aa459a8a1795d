"""A PgBouncer in front of the tests' server; its tests are skipped where there is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dbdurable._embedded.account import server_account
from tests.support.databases import Server, scratch_directory
from tests.support.wait import wait_until

POOL_SIZE = 5
"""Sessions for all clients of a database and user: fewer than clients, so that they are shared for certain."""


class PgBouncer:
    """PgBouncer in transaction mode, on a Unix socket, run by the account that may enter the server's."""

    def __init__(self, program: str, server: Server, directory: Path) -> None:
        account = server_account()
        self._run_as: dict[str, Any] = (
            {"user": account.uid, "group": account.gid, "extra_groups": []} if account.switch else {}
        )
        self._program, self._directory = program, directory
        directory.mkdir(mode=0o700)
        directory.joinpath("users").write_text(f'"{server.user}" "{server.password or ""}"\n')
        directory.joinpath("pgbouncer.ini").write_text(f"""
[databases]
* = host={server.host} port={server.port}
[pgbouncer]
pool_mode = transaction
default_pool_size = {POOL_SIZE}
max_client_conn = 300
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
auth_type = trust
auth_file = {directory}/users
logfile = {directory}/log
""")
        for place in (directory, *directory.iterdir()):
            if account.switch:
                os.chown(place, account.uid, account.gid)
        self.url = f"postgresql://{quote(server.user)}@/{{}}?host={quote(str(directory), safe='')}&port=6432"
        self._maintenance = server.dbname

    def start(self) -> None:
        """Returns when it answers."""
        self.process = subprocess.Popen(
            [self._program, "-q", str(self._directory / "pgbouncer.ini")],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._run_as,
        )
        wait_until(self._answers, 10, "PgBouncer to answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._directory.joinpath("log").read_text()
        try:
            psycopg.connect(self.url.format(self._maintenance)).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """At once: all of its connections break."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


@pytest.fixture(scope="session")
def pgbouncer(postgresql_server: Server) -> Iterator[PgBouncer]:
    """One for all tests; databases come and go behind it."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no pgbouncer program: install it (apt install pgbouncer) to run the tests behind a pooler")
    directory = scratch_directory() / f"dbdurable-pgbouncer-{uuid4().hex[:8]}"
    pooler = PgBouncer(program, postgresql_server, directory)
    pooler.start()
    yield pooler
    pooler.stop()
    shutil.rmtree(directory)


@pytest.fixture
def direct_url(database_url: str) -> str:
    """The database without the pooler."""
    return database_url


@pytest.fixture
def pooled_url(database_url: str, pgbouncer: PgBouncer) -> str:
    """The same database through the pooler."""
    return pgbouncer.url.format(conninfo_to_dict(database_url)["dbname"])


@pytest.fixture
def empty_pooled_url(empty_database_url: str, pgbouncer: PgBouncer) -> str:
    """A database with nothing in it, through the pooler."""
    return pgbouncer.url.format(conninfo_to_dict(empty_database_url)["dbname"])
