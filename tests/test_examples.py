"""The examples run as they stand, print what they should, and the two colours of one are the same program."""

from __future__ import annotations

import ast
import io
import os
import re
import signal
import subprocess
import sys
import tokenize
from math import isqrt
from pathlib import Path
from typing import Any

import psycopg
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LINES_MAX = 80


def run(name: str, url: str, *arguments: str, status: int = 0) -> list[str]:
    """The lines that an example prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env={**os.environ, "DBDURABLE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["quickstart", "quickstart_async"])
def test_quickstart(name: str, database_url: str):
    steps = ["transaction take_seat", "step send_mail"]
    assert run(name, database_url) == ["mail to Ann: your seat is 1", "Ann has seat 1", *steps]
    # The same key: the same booking, and nothing runs again.
    assert run(name, database_url) == ["Ann has seat 1", *steps]


@pytest.mark.parametrize("name", ["orders", "orders_async"])
def test_orders(name: str, database_url: str):
    assert run(name, database_url) == [
        "receipt for 3900 cents",
        "2 calls to the payment service, 1 key",
        "9 kettles left",
    ]


def test_provision(database_url: str):
    assert run("provision", database_url) == [
        "  created address web-1", "  created machine web-1", "  created record web-1", "web-1 is up",
        "  created address huge", "  destroyed address huge", "huge: LookupError",
        "  created address unwanted", "  created machine unwanted",
        "  destroyed machine unwanted", "  destroyed address unwanted",
        "unwanted: WorkflowCancelled",
        "[('web-1', 'reserved'), ('huge', 'reserved'), ('huge', 'given back'),"
        " ('unwanted', 'reserved'), ('unwanted', 'given back')]",
        "[('address', 'web-1'), ('machine', 'web-1'), ('record', 'web-1')]",
    ]  # fmt: skip


def test_queues(database_url: str):
    in_order = [f"{to} got [0, 1, 2, 3, 4]" for to in ("ann", "bob", "cyd", "dan")]
    paused = ["queued while its queue is paused", "report of monday"]
    assert run("queues", database_url) == [*in_order, "at most 3 at once", *paused]


@pytest.mark.parametrize(("name", "count"), [("test_shop", 4), ("test_billing", 5)])
def test_examples_with_tests_are_tested(name: str, count: int, server_url: str):
    """As a user runs them: the plugin, a template and databases of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / f"{name}.py")]
    plugin = ["-p", "dbdurable.testing.plugin", "-c", os.devnull]
    environment = {**os.environ, "DBDURABLE_TEST_DATABASE_URL": server_url}
    done = subprocess.run([*command, *plugin], env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout
    assert f"{count} passed" in done.stdout


def test_billing(database_url: str):
    assert run("billing", database_url) == [
        "mail to bob: goodbye",
        "ann: 12 months paid",
        "bob: cancelled after 1: moved away",
    ]


def test_agent(database_url: str):
    assert run("agent", database_url) == [
        "Refund all of it? reject",
        "Refund a part of it? resolve",
        "Sorry about the kettle: 10.00 are on their way. [(1000,)]",
    ]


def test_approval(database_url: str):
    assert run("approval", database_url) == [
        "mail to ann: please approve 120",
        "120: refused by ann",
        "mail to ann: please approve 900",
        "mail to ann: a reminder: 900 waits for you",
        "mail to bob: ann does not answer: approve 900?",
        "900: it is now up to bob",
        "900: approved by bob, signed S-17",
    ]


def test_saga(database_url: str):
    assert run("saga", database_url) == [
        "trip 1: booked",
        "trip 2: no trip: car sold out",
        "  1 flight reserved",
        "  1 hotel reserved",
        "  1 car reserved",
        "  2 flight reserved",
        "  2 hotel reserved",
        "  2 hotel given back",
        "  2 flight given back",
        "  0 car left",
        "  4 flight left",
        "  4 hotel left",
    ]


def test_etl_goes_on_where_it_was_killed(database_url: str, connection: psycopg.Connection[Any]):
    killed = run("etl", database_url, "--crash-in", "4", status=-signal.SIGKILL)
    assert killed == [f"loading chunk {chunk}" for chunk in range(5)]
    assert chunks(connection) == dict.fromkeys(range(4), 500)  # of chunk 4, nothing

    outcome = "5000 cities loaded, 5000 rows in the table; most people: CN, IN, BR"
    assert run("etl", database_url) == [*(f"loading chunk {chunk}" for chunk in range(4, 10)), outcome]
    assert chunks(connection) == dict.fromkeys(range(10), 500)
    assert run("etl", database_url) == [outcome]


def test_fan_out_goes_on_where_it_was_killed(database_url: str):
    count, crash_after = 300, 150
    run("fan_out", database_url, "--items", str(count), "--crash-after", str(crash_after), status=-signal.SIGKILL)
    total = sum(isqrt(number) for number in range(count) if number % 100 != 99)
    pattern = rf"297 of 300 measured, {total} in all; (\d+) of them by this process"
    found = re.fullmatch(pattern, run("fan_out", database_url, "--items", str(count))[-1])
    assert found, "another outcome"
    # Only those that were under way when it was killed ran twice: one a branch.
    assert count - crash_after < int(found[1]) <= count - crash_after + 16


def chunks(connection: psycopg.Connection[Any]) -> dict[int, int]:
    return dict(connection.execute("select chunk, count(*) from example_city group by 1").fetchall())


# ---- the two colours ---------------------------------------------------------------------------------------


def without_colour(source: str) -> str:
    """The program without what makes it asynchronous: layout and superfluous parentheses do not count."""
    source = source.replace("import asyncio\n", "").replace("asyncio.run(main())", "main()")
    source = re.sub(r"\b(async|await) ", "", source).replace("AsyncConnection", "Connection")
    return ast.unparse(ast.parse(source))


def comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


@pytest.mark.parametrize("name", ["quickstart", "orders"])
def test_the_colours_differ_by_nothing_but_colour(name: str):
    sync, asynchronous = ((EXAMPLES / f"{n}.py").read_text("utf-8") for n in (name, f"{name}_async"))
    assert without_colour(sync) == without_colour(asynchronous)
    assert comments(sync) == comments(asynchronous)
    assert not re.search(r"async|await", sync)
    # And everything that could be asynchronous is: no sync connection, no sync function beside __init__.
    functions = [n for n in ast.walk(ast.parse(asynchronous)) if isinstance(n, ast.FunctionDef)]
    assert [f.name for f in functions if f.name != "__init__"] == []
    assert not re.search(r"(?<!Async)Connection\b(?!Error)", asynchronous)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= LINES_MAX


def test_the_quickstart_page_shows_the_program_that_runs():
    page = (EXAMPLES.parent / "docs" / "quickstart.md").read_text("utf-8")
    program = (EXAMPLES / "quickstart.py").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert block in program
