"""`queues`, `queues set`, `queues pause`, `queues resume`, by their texts."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from dbdurable import Client, Rate
from dbdurable.cli.commands import app
from tests.cli.conftest import Cli
from tests.cli.rows import executor, hold, tickets

Connection = psycopg.Connection[Any]


@pytest.fixture
def queues(connection: Connection) -> Connection:
    """Queue `orders` with two ready, one of them an hour old, one running and one delayed; `mail` is empty."""
    owner = executor(connection, ["ship"], ["mail", "orders"])
    ids = tickets(connection, "ship", 3, "orders")
    hold(connection, owner, ids[:1])
    connection.execute(
        "update dbdurable.ready set at = at - interval '1 hour 5 minutes' where workflow_id = %s", [ids[1]]
    )
    connection.execute(
        "select dbdurable.start('ship', '{}', queue => 'orders', registered => true, delay => interval '1 day')"
    )
    return connection


def test_no_queues(cli: Cli, database_url: str):
    assert cli("queues", url=database_url).stdout == (
        "no queues yet: the first executor that connects makes those that it serves\n"
    )
    assert cli("queues", "--json", url=database_url).stdout == "[]\n"


def test_the_table(cli: Cli, queues: Connection, database_url: str):
    Client(database_url).set_queue("orders", concurrency=5, rate=Rate(100, per=60))
    lines = [line.split() for line in cli("queues", url=database_url).stdout.splitlines()]
    assert lines[0] == ["queue", "state", "ready", "oldest", "running", "delayed", "limits"]
    assert lines[2] == ["mail", "open"]
    assert lines[3] == ["orders", "open", "2", "1", "h", "ago", "1", "1", "5", "at", "once,", "100", "every", "60", "s"]


def test_all_limits_are_shown_where_it_is_narrow(cli: Cli, queues: Connection, database_url: str):
    limits = (
        "5 at once, 7 a worker, 1 a partition, 100 every 60 s (20 at once), 3 a second a partition, 9000 ready at most"
    )
    client = Client(database_url)
    client.set_queue("orders", concurrency=5, worker_concurrency=7, per_partition=1, max_depth=9000)
    client.set_queue("orders", rate=Rate(100, per=60, burst=20), rate_per_partition=Rate(3, per=1))
    _, _, _, *lines = cli("queues", url=database_url).stdout.splitlines()
    at = lines[0].index("5 at")
    assert len(lines) > 1
    assert " ".join(line[at:].strip() for line in lines) == limits


def test_nothing_is_cut_for_a_file_or_a_pipe(queues: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a" * 200
    queues.execute("insert into dbdurable.queue (name) values (%s)", [name])
    lines = CliRunner().invoke(app, ["queues", "--url", database_url]).stdout.splitlines()
    assert [line.split() for line in lines[2:3]] == [[name, "open"]]


def test_json(cli: Cli, queues: Connection, database_url: str):
    mail, orders = json.loads(cli("queues", "--json", url=database_url).stdout)
    assert (mail["name"], mail["ready"], mail["oldest"], mail["paused"]) == ("mail", 0, None, False)
    assert (orders["ready"], orders["running"], orders["delayed"]) == (2, 1, 1)
    assert orders["oldest"]
    assert set(orders) >= {"concurrency", "per_partition", "rate_limit", "rate_per_s", "max_depth"}


def test_set_changes_what_is_named_only(cli: Cli, queues: Connection, database_url: str):
    def set(*options: str) -> str:
        ran = cli("queues", "set", "orders", *options, url=database_url)
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout

    assert set("--concurrency", "5", "--per-partition", "1") == "orders: 5 at once, 1 a partition\n"
    assert set("--rate", "100/60s", "--burst", "20", "--max-depth", "1000") == (
        "orders: 5 at once, 1 a partition, 100 every 60 s (20 at once), 1000 ready at most\n"
    )
    assert set("--concurrency", "none", "--per-partition", "None", "--max-depth", "none") == (
        "orders: 100 every 60 s (20 at once)\n"
    )
    assert set("--burst", "7") == "orders: 100 every 60 s (7 at once)\n"
    assert set("--burst", "none") == "orders: 100 every 60 s\n"
    assert set("--rate-per-partition", "2/h", "--burst-per-partition", "1", "--worker-concurrency", "3") == (
        "orders: 3 a worker, 100 every 60 s, 2 every 3600 s a partition (1 at once)\n"
    )
    assert set("--rate", "none", "--rate-per-partition", "none", "--worker-concurrency", "none") == (
        "orders: no limits\n"
    )


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/s", Rate(5, 1)),
        ("1000/h", Rate(1000, 3600)),
        ("3/500ms", Rate(3, 0.5)),
        ("10 / 2 min", Rate(10, 120)),
        ("10/2m", Rate(10, 120)),
        ("1/1d", Rate(1, 86_400)),
        ("100/60", Rate(100, 60)),
        ("1/1.5s", Rate(1, 1.5)),
    ],
)
def test_rates(cli: Cli, queues: Connection, database_url: str, text: str, rate: Rate):
    assert cli("queues", "set", "orders", "--rate", text, url=database_url).exit_code == 0
    with Client(database_url) as client:
        (found,) = [queue.rate for queue in client.queues() if queue.name == "orders"]
    assert found is not None
    assert (found.limit, found.per.total_seconds()) == (rate.limit, rate.per)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to change: dbdurable queues set orders --concurrency 5 (`none` for no limit)"),
        (["--concurrency", "-1"], "--concurrency takes a whole number, or none for no limit, not '-1'"),
        (["--concurrency", "1.5"], "--concurrency takes a whole number"),
        (["--concurrency", "0"], "concurrency= takes a whole number from 1 to 1000000"),
        (["--max-depth", "99999999"], "max_depth= takes a whole number from 1 to 1000000"),
        (["--rate", "100"], "--rate takes starts and a time, 100/60s, 5/s or 1000/h, or none, not '100'"),
        (["--rate", "fast"], "--rate takes starts and a time"),
        (["--rate", "1/0s"], "rate=Rate(per=) is a time from 1 ms to 366 days, not 0 s"),
        (["--rate", "1/400d"], "from 1 ms to 366 days"),
        (["--burst", "5"], "--burst needs a rate, and queue 'orders' has none: pass --rate 100/60s, too"),
        (["--rate", "none", "--burst", "5"], "--burst is a part of the rate that --rate none takes away"),
        (["--rate-per-partition", "1/s", "--burst-per-partition", "x"], "--burst-per-partition takes a whole number"),
    ],
)
def test_bad_limits_change_nothing(cli: Cli, queues: Connection, database_url: str, options: list[str], says: str):
    before = cli("queues", "--json", url=database_url).stdout
    refused = cli("queues", "set", "orders", *options, url=database_url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert cli("queues", "--json", url=database_url).stdout == before


def test_unknown_queues(cli: Cli, queues: Connection, database_url: str):
    for command in (["set", "order", "--concurrency", "1"], ["set", "order", "--burst", "1"], ["pause", "order"],
                    ["resume", "order"]):  # fmt: skip
        refused = cli("queues", *command, url=database_url)
        assert (refused.exit_code, refused.stdout) == (1, ""), command
        assert "there is no queue named 'order'" in refused.stderr


def test_pause_and_resume(cli: Cli, queues: Connection, database_url: str):
    assert cli("queues", "pause", "orders", url=database_url).stdout == "orders is paused: 2 ready, 1 still running\n"
    assert "orders   paused" in cli("queues", url=database_url).stdout
    assert cli("queues", "resume", "orders", url=database_url).stdout == "orders goes on: 2 ready, 1 running\n"
    assert "paused" not in cli("queues", url=database_url).stdout
    actions = queues.execute("select action from dbdurable.audit order by id").fetchall()
    assert actions == [("pause_queue",), ("resume_queue",)]


def test_executors_alive_and_dead(cli: Cli, queues: Connection, database_url: str):
    executor(queues, ["bill"], ["mail"], dies_in_s=-5, host="old", pid=9)
    lines = [line.split() for line in cli("executors", url=database_url).stdout.splitlines()]
    assert lines[0] == ["process", "state", "running", "started", "version", "queues", "functions"]
    assert lines[2] == ["box:7", "alive", "1", "just", "now", "0.1.0", "mail,", "orders", "ship"]
    assert lines[3][:3] == ["old:9", "dead", "0"]
    first, second = json.loads(cli("executors", "--json", url=database_url).stdout)
    assert (first["host"], first["pid"], first["alive"], first["running"]) == ("box", 7, True, 1)
    assert (second["names"], second["queues"], second["alive"]) == (["bill"], ["mail"], False)
