"""`dbdurable db`: the embedded server by hand, as real processes in a project of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fcntl import LOCK_EX
from pathlib import Path

import psycopg
import pytest

from dbdurable._embedded import keeper
from tests.conftest import DIRECTORY
from tests.support.wait import wait_until


class Project:
    """A directory with a pyproject.toml, and the command line in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "pyproject.toml").touch()

    def db(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "dbdurable", "db", *arguments]
        run = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout

    @property
    def data(self) -> Path:
        (found,) = self.directory.glob(".dbdurable/pg*.users")
        return found.with_suffix("")


@pytest.fixture
def project(postgresql_server: object, request: pytest.FixtureRequest) -> Iterator[Project]:
    directory = DIRECTORY / f"project-{abs(hash(request.node.nodeid)):x}"
    directory.mkdir(parents=True, mode=0o755)
    made = Project(directory)
    yield made
    made.db("stop")
    shutil.rmtree(directory)


def test_start_keeps_it_up_until_stop(project: Project):
    assert "until `dbdurable db stop`" in project.db("start")
    url = project.db("url").strip()
    for suffix in ("users", "holder"):  # no process of ours runs any more: somebody else holds the locks
        lock = keeper.open_lock(project.data, suffix)
        assert not keeper.try_lock(lock, LOCK_EX)
        os.close(lock)
    with psycopg.connect(url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    holder = int(keeper.beside(project.data, "holder").read_text())
    assert project.db("start").count(url) == 1
    assert int(keeper.beside(project.data, "holder").read_text()) == holder
    assert project.db("stop").startswith("stopped; the data stays at")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    lock = keeper.open_lock(project.data, "holder")
    assert keeper.try_lock(lock, LOCK_EX)  # it is gone
    os.close(lock)
    assert project.db("stop") == "it was not running\n"


def test_psql_holds_the_server_while_it_runs(project: Project):
    program = [sys.executable, "-m", "dbdurable", "db", "psql", "-qAt"]
    with subprocess.Popen(
        program, cwd=project.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as psql:
        assert psql.stdin is not None
        assert psql.stdout is not None
        psql.stdin.write("select 40 + 2;\n")
        psql.stdin.flush()
        assert psql.stdout.readline() == "42\n"
        lock = keeper.open_lock(project.data, "users")
        assert not keeper.try_lock(lock, LOCK_EX)  # psql itself holds it: the keeper does not stop the server
        psql.stdin.close()
        assert psql.wait(20) == 0
    wait_until(lambda: keeper.try_lock(lock, LOCK_EX), what="nobody holds the server any more")
    os.close(lock)
    assert project.db("psql", "-At", "-c", "select 1") == "1\n"


def test_stop_where_there_never_was_one(project: Project):
    assert project.db("stop") == "it was not running\n"
