"""`start`, `result`, `cancel`, `pause`, `resume`, `migrate`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbdurable import Durable
from tests.cli.conftest import Cli, Shop


@pytest.fixture
def durable(database_url: str) -> Durable:
    """An application whose workflow `double` is registered, but not running."""
    durable = Durable(database_url)

    @durable.workflow(name="double")
    def double(n: int, label: str = "x") -> list[Any]:
        return [2 * n, label]

    with durable.executor(threads=1, tasks=1):
        pass
    return durable


def test_start_and_result(cli: Cli, durable: Durable, database_url: str):
    started = [
        cli("start", "double", '{"n": 4, "label": "é"}', url=database_url),
        cli("start", "double", "[5]", url=database_url),
    ]
    with durable.executor(threads=1, tasks=1) as executor:
        executor.wait_idle(10)
    first, second = (cli("result", run.stdout.strip(), url=database_url) for run in started)
    assert (json.loads(first.stdout), first.exit_code) == ([8, "é"], 0)
    assert json.loads(second.stdout) == [10, "x"]


def test_start_with_a_key_starts_once(cli: Cli, durable: Durable, database_url: str):
    ids = {cli("start", "double", "[1]", "--key", "k", url=database_url).stdout for _ in range(2)}
    assert len(ids) == 1
    refused = cli("start", "double", "[2]", "--key", "k", url=database_url)
    assert refused.exit_code == 1
    assert "other arguments" in refused.stderr


def test_start_later_in_another_queue(cli: Cli, durable: Durable, database_url: str, connection: Any):
    refused = cli("start", "double", "[1]", "--queue", "night", url=database_url)
    assert refused.exit_code == 1
    assert "there is no queue named 'night'" in refused.stderr
    connection.execute("select dbdurable.declare_queue('night', null)")
    run = cli("start", "double", "[1]", "--delay", "3600", "--queue", "night", "--json", url=database_url)
    id = json.loads(run.stdout)["id"]
    row = connection.execute("select status, queue from dbdurable.workflows where id = %s", [id]).fetchone()
    assert row == ("queued", "night")
    (wait,) = json.loads(cli("show", id, "--json", url=database_url).stdout)["waits"]
    assert wait["kind"] == "start"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nobody", "{}"], "nobody"),
        (["double", "{n: 4}"], "the arguments are not JSON"),
        (["double", "4"], "must be a JSON object"),
        (["double", "[4]", "--queue", ""], "queue"),
        (["double", "[4]", "--key", ""], "key"),
        (["a\nb", "[4]"], "name"),
    ],
)
def test_bad_starts_leave_nothing(
    cli: Cli, durable: Durable, database_url: str, connection: Any, arguments: list[str], says: str
):
    refused = cli("start", *arguments, url=database_url)
    assert refused.exit_code == 1
    assert says in refused.stderr
    assert connection.execute("select count(*) from dbdurable.workflows").fetchone() == (0,)


def test_cancel_pause_resume(cli: Cli, durable: Durable, database_url: str):
    id = cli("start", "double", "[1]", url=database_url).stdout.strip()
    assert f"double {id} is paused" in cli("pause", id, url=database_url).stdout
    assert f"double {id} is queued" in cli("resume", id, url=database_url).stdout
    assert cli("cancel", id, url=database_url).stdout.startswith(f"double {id} is ")


def test_cancel_what_never_ran(cli: Cli, durable: Durable, database_url: str):
    id = cli("start", "double", "[1]", url=database_url).stdout.strip()
    cancelled = cli("cancel", id, "--reason", "no {need}", url=database_url).stdout
    assert cancelled == f"double {id} is cancelled\n"
    refused = cli("result", id, url=database_url)
    assert refused.exit_code == 1
    assert "no {need}" in refused.stderr


def test_result_of_what_failed_or_has_not_ended(cli: Cli, shop: Shop):
    failed = cli("result", shop.ids["failed"], url=shop.url)
    assert failed.exit_code == 1
    assert "ValueError: card 13 was refused" in failed.stderr
    assert not failed.stdout
    late = cli("result", shop.ids["queued"], "--timeout", "0", url=shop.url)
    assert late.exit_code == 1
    assert "has not finished within 0 s" in late.stderr


def test_migrate(cli: Cli, empty_database_url: str):
    assert cli("migrate", "--check", url=empty_database_url).exit_code == 1
    run = cli("migrate", url=empty_database_url)
    assert run.exit_code == 0
    assert "applied 0001_tables.sql" in run.stdout
    assert cli("migrate", url=empty_database_url).stdout == "schema 'dbdurable' is up to date\n"
    assert cli("migrate", "--check", url=empty_database_url).exit_code == 0
    assert cli("migrate", "--check", "--schema", "other", url=empty_database_url).exit_code == 1


def test_the_script_of_migrate_does_the_same(cli: Cli, empty_database_url: str):
    script = cli("migrate", "--sql", "--schema", "shop").stdout
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(script.encode())
    assert cli("migrate", "--check", "--schema", "shop", url=empty_database_url).exit_code == 0


def test_migrate_takes_one_option(cli: Cli):
    assert "one of --sql and --check" in cli("migrate", "--sql", "--check").stderr


def test_help_is_cheap_and_complete(tmp_path: Path):
    program = (
        "import sys\n"
        "from dbdurable.cli import main\n"
        "sys.argv = ['dbdurable', '--help']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'psycopg', 'pydantic', 'pydantic_settings', 'sqlglot', 'rich', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    import sys

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    for command in ("list", "show", "sql", "worker", "start", "migrate", "db"):
        assert f"\n  {command} " in run.stdout
