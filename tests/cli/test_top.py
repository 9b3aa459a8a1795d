"""`top`: its numbers by exact differences, its screen by its text, and the live screen on a terminal of its own."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from dbdurable import Durable
from dbdurable.cli import top_look
from dbdurable.cli.top_look import Observer
from tests.cli.conftest import Cli
from tests.cli.rows import executor, hold, tickets
from tests.cli.terminal import Terminal
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]


@pytest.fixture
def busy(connection: Connection) -> Connection:
    """An executor that runs one workflow, a dead one, three queues with 2, 1 and 0 ready, one failure."""
    owner = executor(connection, ["ship"], ["mail", "orders", "slow"])
    executor(connection, ["ship"], ["slow"], host="old", pid=9, dies_in_s=-5)
    orders = tickets(connection, "ship", 4, "orders")
    tickets(connection, "ship", 1, "mail")
    hold(connection, owner, orders[:1])
    connection.execute("delete from dbdurable.ready where workflow_id = %s", [orders[1]])
    connection.execute(
        """
        update dbdurable.workflow set status = 'failed', error = '{"type": "ValueError", "message": "no\\ncard"}'
         where id = %s
        """,
        [orders[1]],
    )
    connection.execute(
        "insert into dbdurable.attention (workflow_id, status, reason) values (%s, 'failed', '')", [orders[1]]
    )
    connection.execute("update dbdurable.queue set paused = true where name = 'mail'")
    connection.execute("update dbdurable.ready set at = at - interval '5 minutes' where queue = 'orders'")
    return connection


def test_the_rates_are_exact_differences(database_url: str):
    durable = Durable(database_url)

    @durable.step(name="hop")
    def hop(n: int) -> int:
        if n == 13:
            raise ValueError("no luck")
        return n

    @durable.workflow(name="walk")
    def walk(n: int) -> int:
        return hop(hop(n))

    @durable.workflow(name="direct")
    def direct() -> int:
        return hop(1)

    with durable.executor(threads=1, tasks=1):
        pass  # the tables know the names
    durable.close()
    observer = Observer(database_url, "dbdurable")
    first = observer.look()
    with durable.executor(threads=4, tasks=1) as running:
        durable.client.start_many(walk.bind(n) for n in range(20))
        assert [direct() for _ in range(5)] == [1] * 5
        running.wait_idle(60)
    durable.close()  # sessions that end tell the statistics

    def steps_are_in() -> bool:
        return observer.look().counters["steps"] - first.counters["steps"] == 19 * 2 + 1 + 5

    wait_until(steps_are_in, what="the counters of the sessions that ended")
    rates = observer.rates()
    made = {name: round(rate * rates.over_s) for name, rate in rates.per_s.items()}
    assert made == {"started": 25, "claimed": 20, "finished": 25, "failed": 1, "steps": 44}
    observer.close()


def test_a_failure_counts_once_however_often_it_is_seen(busy: Connection, database_url: str):
    observer = Observer(database_url, "dbdurable")
    assert [observer.look().failed for _ in range(3)] == [1, 1, 1]
    assert observer.rates().per_s["failed"] == 0
    busy.execute("update dbdurable.attention set since = clock_timestamp()")  # it was resumed, and failed again
    assert [observer.look().failed for _ in range(2)] == [2, 2]
    observer.close()


def test_json(cli: Cli, busy: Connection, database_url: str):
    seen = json.loads(cli("top", "--json", "--interval", "0.1", url=database_url).stdout)
    assert [(q["name"], q["paused"], q["ready"], q["ready_is"], q["running"]) for q in seen["queues"]] == [
        ("orders", False, 2, "counted", 1),
        ("mail", True, 1, "counted", 0),
        ("slow", False, 0, "counted", 0),
    ]
    assert 300 <= seen["queues"][0]["oldest_s"] < 600
    assert seen["queues"][2]["oldest_s"] is None
    assert [(e["process"], e["alive"], e["running"]) for e in seen["executors"]] == [
        ("box:7", True, 1),
        ("old:9", False, 0),
    ]
    (failure,) = seen["failures"]
    assert (failure["name"], failure["status"], failure["reason"]) == ("ship", "failed", "ValueError: no\ncard")
    assert set(seen["rates_per_s"]) == {"started", "claimed", "finished", "failed", "steps"}
    assert (seen["running"], seen["delayed"], seen["waiting"]) == (1, 0, 0)
    assert seen["cost"]["statements"] == 8


def test_once(cli: Cli, busy: Connection, database_url: str):
    lines = cli("top", "--once", "--interval", "0.1", url=database_url).stdout.splitlines()
    words = [line.split() for line in lines]
    assert lines[0].startswith("dbdurable top: postgresql://")
    assert words[1][::2][:5] == ["started", "claimed", "finished", "failed", "steps"]
    assert lines[2] == "running 1  delayed 0  waiting 0"
    assert ["queue", "state", "ready", "oldest", "running"] in words
    assert ["orders", "open", "2", "5", "min", "1"] in words
    assert any(line[:3] == ["mail", "paused", "1"] for line in words)
    assert ["slow", "open"] in words
    assert any(line[:3] == ["box:7", "alive", "1"] for line in words)
    assert any(line[:3] == ["old:9", "dead", "0"] for line in words)
    assert any(line[1:3] == ["ship", "failed"] and "ValueError: no card" in " ".join(line) for line in words)
    assert lines[-1].startswith("this look: 8 statements, ")


def test_an_empty_schema(cli: Cli, database_url: str):
    out = cli("top", "--once", "--interval", "0.1", url=database_url).stdout
    assert [line for line in out.splitlines() if line.startswith("no ")] == ["no queues", "no executors", "no failures"]


def test_without_tables(cli: Cli, empty_database_url: str):
    refused = cli("top", "--once", url=empty_database_url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "run `dbdurable migrate`" in refused.stderr


def test_passwords_are_not_shown(cli: Cli, busy: Connection, database_url: str):
    url = database_url.replace("postgresql://postgres", "postgresql://postgres:s3cret", 1)
    out = cli("top", "--once", "--interval", "0.1", url=url)
    assert out.exit_code == 0
    assert "s3cret" not in out.output


def test_deep_queues_are_counted_up_to_a_bound(busy: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch):
    def ready() -> dict[str, tuple[int, str]]:
        observer = Observer(database_url, "dbdurable")
        seen = {q["name"]: (q["ready"], q["ready_is"]) for q in observer.look().queues}
        observer.close()
        return seen

    monkeypatch.setattr(top_look, "COUNT_MAX", 50)
    with psycopg.connect(database_url, autocommit=True) as writer:
        tickets(writer, "ship", 98, "orders")
    busy.execute("select pg_stat_force_next_flush()")
    # The others are counted, so the rest of the table is its own.
    wait_until(lambda: ready()["orders"] == (100, "estimated"), what="the statistics of the session that ended")
    tickets(busy, "ship", 60, "slow")
    assert (ready()["orders"], ready()["slow"], ready()["mail"]) == ((50, "more"), (50, "more"), (1, "counted"))


def test_the_oldest_of_a_queue_is_found_in_every_line(busy: Connection, database_url: str):
    """Urgent and partitioned work lies elsewhere in the index; the oldest may be the least urgent."""
    busy.execute("update dbdurable.queue set per_partition = 1 where name = 'orders'")
    for partition, priority in (("a", 0), ("b", 5), ("b", -5)):
        busy.execute(
            "select dbdurable.start('ship', '{}', queue => 'orders', partition => %s, priority => %s, "
            "registered => true)",
            [partition, priority],
        )
    busy.execute("update dbdurable.ready set at = now() - interval '2 hours' where partition = 'b' and rank > 1")
    observer = Observer(database_url, "dbdurable")
    (oldest_s,) = [q["oldest_s"] for q in observer.look().queues if q["name"] == "orders"]
    observer.close()
    assert 7_200 <= oldest_s < 7_300


def test_a_look_costs_the_same_with_many_tickets(connection: Connection, database_url: str):
    """By buffers that are read, which are exact: with 40,000 tickets not more than with the 10,000 it counts."""

    def buffers() -> int:
        observer = Observer(database_url, "dbdurable")
        observer.look()
        session = observer._connection
        assert session is not None
        session.execute("set pg_stat_statements.track = 'none'")
        plan: list[Any] = []
        with session.transaction():
            observer._ask(top_look.WALK_SETTINGS, "5000")
            text = top_look.sql.DEPTHS.render("dbdurable").replace("$1::int", str(top_look.COUNT_MAX + 1))
            plan = session.execute(f"explain (analyze, buffers, format json) {text}").fetchone()[0]  # type: ignore[index, call-overload]
        observer.close()
        return int(plan[0]["Plan"]["Shared Hit Blocks"]) + int(plan[0]["Plan"]["Shared Read Blocks"])

    executor(connection, ["ship"], ["default"])

    def fill(count: int) -> None:
        connection.execute(
            "insert into dbdurable.ready (queue, partition, rank, workflow_id, name) "
            "select 'default', '', 1, gen_random_uuid(), 'ship' from generate_series(1, %s)",
            [count],
        )
        connection.execute("vacuum dbdurable.ready")

    fill(11_000)
    few = buffers()
    fill(60_000)
    assert buffers() <= few + 5


# ---- on a terminal -----------------------------------------------------------------------------------------


def test_the_live_screen_goes_on_and_q_quits(busy: Connection, database_url: str):
    terminal = Terminal("top", "--interval", "0.1", "--url", database_url)
    try:
        terminal.says("orders", "box:7", "ValueError: no card", "this look: 8 statements")
        tickets(busy, "ship", 1, "brand-new")
        terminal.says("brand-new")
        terminal.press("x")
        busy.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'dbdurable' and datname = current_database()"
        )
        terminal.says("no answer, trying again")
        before = terminal.shown.count("this look:")
        wait_until(lambda: terminal.read().count("this look:") > before, 20, "it goes on")
        terminal.press("q")
        assert terminal.ended() == 0
        assert "\x1b[?1049l" in terminal.shown  # the former screen is back
        assert "Traceback" not in terminal.shown
    finally:
        terminal.close()


def test_a_low_terminal_shows_a_part_of_each_table(busy: Connection, database_url: str):
    for n in range(30):
        tickets(busy, "ship", 1, f"queue-{n:02}")
    terminal = Terminal("top", "--interval", "0.1", "--url", database_url, size=(25, 110))
    try:
        terminal.says("more queues", "old:9", "ValueError", "this look:")
        terminal.press("\x03")
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.shown
    finally:
        terminal.close()
