"""`dbdurable worker` as a real process: signals, draining, reloading, what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.terminal import Terminal
from tests.support.wait import wait_until

APPLICATION = """
import gc
import os
import psycopg
from dbdurable import Durable

durable = Durable()
bare = Durable()
number = 4

@durable.step
def hold() -> None:
    with psycopg.connect(os.environ["DBDURABLE_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(1)")

@durable.workflow
def held() -> str:
    hold()
    return "done"

@durable.step
def note() -> str:
    return "noted"

@durable.workflow
def long() -> None:
    for _ in range(100_000):
        note()

@durable.workflow
def fails() -> None:
    raise ValueError("no luck")

@durable.workflow(queue="other")
async def shout(text: str) -> str:
    return text.upper() + "!"

@durable.workflow
def version() -> str:
    return "version 1"

@durable.workflow
def frozen() -> int:
    return gc.get_freeze_count()

def make(): return durable
"""


class Worker:
    """A `dbdurable worker` in a directory of its own."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "shop.py").write_text(APPLICATION)

    def start(self, *arguments: str, ready: bool = True) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "DBDURABLE_DATABASE_URL": self.url, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["DBDURABLE_BEAT_INTERVAL_S"] = "0.2"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dbdurable", "worker", *arguments],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
            )
        if ready:
            self.says("runs ")
        return self.process

    def says(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.text.count(text) >= times, 20, f"{text!r} in the worker's log")

    @property
    def text(self) -> str:
        return self.log.read_text()

    def refuses(self, *arguments: str) -> str:
        process = self.start(*arguments, ready=False)
        assert process.wait(20) == 1, self.text
        assert "Traceback" not in self.text
        return self.text


@pytest.fixture
def worker(tmp_path: Path, database_url: str) -> Iterator[Worker]:
    made = Worker(tmp_path, database_url)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(10)


Start = Callable[..., str]


@pytest.fixture
def start(connection: psycopg.Connection[Any]) -> Start:
    """Starts a workflow by name, in SQL; registers the name as an executor would have."""

    def by_name(name: str, arguments: str = "{}", queue: str = "default") -> str:
        connection.execute(
            "insert into dbdurable.definition (name, queue, max_attempts) values (%s, %s, 20) on conflict do nothing",
            [name, queue],
        )
        row = connection.execute("select dbdurable.start(%s, %s)", [name, arguments]).fetchone()
        assert row is not None
        return str(row[0])

    return by_name


def status(connection: psycopg.Connection[Any], id: str) -> str:
    row = connection.execute("select status from dbdurable.workflows where id = %s", [id]).fetchone()
    assert row is not None
    return str(row[0])


def held_now(connection: psycopg.Connection[Any]) -> bool:
    query = """
        select count(*) from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()
         where l.locktype = 'advisory' and l.objid = 1 and not l.granted
    """
    row = connection.execute(query).fetchone()
    return row is not None and row[0] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(
    worker: Worker, start: Start, connection: psycopg.Connection[Any], number: signal.Signals
):
    connection.execute("select pg_advisory_lock(1)")
    first = start("held")
    process = worker.start("shop:durable")
    wait_until(lambda: held_now(connection), what="the step runs")
    process.send_signal(number)
    worker.says(f"stopping ({number.name}): 1 running")
    second = start("version")
    assert process.poll() is None
    connection.execute("select pg_advisory_unlock(1)")
    assert process.wait(20) == 0, worker.text
    assert status(connection, first) == "succeeded"
    assert status(connection, second) == "queued"
    assert connection.execute("select count(*) from dbdurable.executors").fetchone() == (0,)
    assert worker.text.splitlines()[-1].endswith("stopped")


def test_what_does_not_end_in_time_is_handed_back(worker: Worker, start: Start, connection: psycopg.Connection[Any]):
    def recorded(id: str) -> int:
        row = connection.execute("select count(*) from dbdurable.steps where workflow_id = %s", [id]).fetchone()
        return row[0] if row else 0

    id = start("long")
    process = worker.start("shop:durable", "--grace", "0")
    wait_until(lambda: recorded(id) > 0, what="it runs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, worker.text
    assert status(connection, id) == "queued"
    assert 0 < recorded(id) < 100_000
    assert connection.execute("select attempt from dbdurable.workflows where id = %s", [id]).fetchone() == (1,)
    assert connection.execute("select count(*) from dbdurable.executors").fetchone() == (0,)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_may_be_the_other_one(worker: Worker, start: Start, connection: Any, number: signal.Signals):
    connection.execute("select pg_advisory_lock(1)")
    start("held")
    process = worker.start("shop:durable")
    wait_until(lambda: held_now(connection), what="the step runs")
    process.send_signal(signal.SIGINT if number is signal.SIGTERM else signal.SIGTERM)
    worker.says("stopping (")
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert f"stopped at once ({number.name} again" in worker.text.splitlines()[-1]


def test_the_second_signal_stops_at_once(worker: Worker, start: Start, connection: psycopg.Connection[Any]):
    connection.execute("select pg_advisory_lock(1)")
    id = start("held")
    process = worker.start("shop:durable")
    wait_until(lambda: held_now(connection), what="the step runs")
    process.send_signal(signal.SIGTERM)
    worker.says("stopping (SIGTERM)")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    last = worker.text.splitlines()[-1]
    assert last.endswith("WARNING dbdurable: stopped at once (SIGTERM again): another worker takes over what ran here")
    assert status(connection, id) == "running"  # the next worker recovers it
    connection.execute("select pg_advisory_unlock(1)")
    again = worker.start("shop:durable")
    wait_until(lambda: status(connection, id) == "succeeded", 20, "recovered")
    again.send_signal(signal.SIGTERM)
    assert again.wait(20) == 0


def test_the_log_of_a_file_is_lines_only(worker: Worker, start: Start, connection: psycopg.Connection[Any]):
    start("version"), start("fails")
    assert worker.start("shop:durable", "--until-idle").wait(20) == 0
    assert "\x1b" not in worker.text
    shape = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) dbdurable: .+")
    assert all(shape.fullmatch(line) for line in worker.text.splitlines()), worker.text


class TestStatusLine:
    """On a terminal: a line below the log that says what runs, is done and failed."""

    @pytest.fixture
    def terminal(self, worker: Worker, connection: psycopg.Connection[Any]) -> Iterator[Terminal]:
        connection.execute("select pg_advisory_lock(1)")
        made = Terminal(
            "worker",
            "shop:durable",
            cwd=worker.directory,
            DBDURABLE_DATABASE_URL=worker.url,
            DBDURABLE_BEAT_INTERVAL_S="0.2",
        )
        yield made
        made.close()

    def test_it_counts(self, terminal: Terminal, start: Start, connection: psycopg.Connection[Any]):
        terminal.says("runs ", "0 running  0 done  0 failed")
        id = start("held")
        terminal.says("1 running  0 done  0 failed")
        start("fails")
        terminal.says("1 running  0 done  1 failed", "fails")  # and the log goes on above it
        connection.execute("select pg_advisory_unlock(1)")
        terminal.says("0 running  1 done  1 failed")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 0
        assert status(connection, id) == "succeeded"
        assert "\x1b[?25h" in terminal.shown  # the cursor is back
        assert "stopped" in terminal.shown
        assert "Traceback" not in terminal.shown

    def test_it_says_that_it_stops_and_leaves_the_terminal_in_order(
        self, terminal: Terminal, start: Start, connection: psycopg.Connection[Any]
    ):
        start("held")
        terminal.says("1 running  0 done")
        terminal.press("\x03")
        terminal.says("stopping  1 running")
        terminal.press("\x03")
        assert terminal.ended() == 128 + signal.SIGINT
        last = "\r\x1b[2K\x1b[?25hstopped at once (SIGINT again): another worker takes over what ran here"
        assert terminal.shown.rstrip().endswith(last)


def test_until_idle_in_both_colours(worker: Worker, start: Start, connection: psycopg.Connection[Any]):
    ids = [start("version"), start("shout", '{"text": "hi"}', queue="other")]
    assert worker.start("shop:make()", "--until-idle").wait(20) == 0, worker.text
    rows = connection.execute("select output from dbdurable.workflows where id = any(%s) order by id", [ids])
    assert rows.fetchall() == [("version 1",), ("HI!",)]
    assert "stopping (idle): nothing is running" in worker.text


def test_the_garbage_collector_leaves_alone_what_was_imported(worker: Worker, start: Start, connection: Any):
    id = start("frozen")
    assert worker.start("shop:durable", "--until-idle").wait(20) == 0, worker.text
    (count,) = connection.execute("select output from dbdurable.workflows where id = %s", [id]).fetchone()
    assert count > 10_000


def test_only_the_queues_that_are_named(worker: Worker, start: Start, connection: psycopg.Connection[Any]):
    ids = [start("version"), start("shout", '{"text": "hi"}', queue="other")]
    assert worker.start("shop:durable", "--queue", "other", "--until-idle").wait(20) == 0, worker.text
    assert [status(connection, id) for id in ids] == ["queued", "succeeded"]


def test_reload_runs_the_new_code(worker: Worker, start: Start, connection: psycopg.Connection[Any]):
    def output(id: str) -> Any:
        wait_until(lambda: status(connection, id) == "succeeded", 20)
        row = connection.execute("select output from dbdurable.workflows where id = %s", [id]).fetchone()
        return row and row[0]

    source = worker.directory / "shop.py"
    process = worker.start("shop:durable", "--reload")
    assert output(start("version")) == "version 1"
    source.write_text("this is no Python")
    worker.says("changed: shop.py; starting again")
    worker.says("SyntaxError")
    source.write_text(APPLICATION.replace("version 1", "version 2"))
    worker.says("runs ", times=2)
    assert output(start("version")) == "version 2"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, worker.text


def test_a_worker_with_no_functions_names_include(worker: Worker):
    assert "include=" in worker.refuses("shop:bare")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nowhere:durable", "there is no module 'nowhere'"),
        ("shop:nothing", "module 'shop' has no 'nothing'; it has: bare, durable"),
        ("shop:number", "shop:number is a int, not a Durable"),
        ("shop:make", "to call it, write 'shop:make()'"),
        ("shop", "'shop' names no object; write module:object"),
        ("shop.py:durable", "there is no module 'shop.py'"),
    ],
)
def test_references_that_are_none(worker: Worker, reference: str, says: str):
    assert says in worker.refuses(reference)


def test_a_bad_url_and_no_database(worker: Worker):
    worker.url = "postgresql://ann:s3cret@127.0.0.1:1/shop"
    said = worker.refuses("shop:durable")
    assert "cannot use PostgreSQL at 127.0.0.1, port 1" in said
    assert "s3cret" not in said


def test_a_mistake_in_the_application_keeps_its_traceback(worker: Worker):
    (worker.directory / "shop.py").write_text("import missing_library\n")
    assert worker.start("shop:durable", ready=False).wait(20) == 1
    assert "shop.py" in worker.text
    assert "No module named 'missing_library'" in worker.text
