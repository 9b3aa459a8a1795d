"""How the library's statements are written, and the plans of those that every claim and every flush runs.

That each can be prepared, and names its tables with their schema, is in test_statements.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import pq

import dbdurable._sql
from dbdurable._sql.claim import CLAIM, CLAIM_AHEAD, CLAIM_PLAN, CLAIMED_JOURNALS
from dbdurable._sql.message import SEND_RECORDED_MANY
from dbdurable._sql.start import ADOPT_CHILD_MANY, START_CHILD_MANY
from dbdurable._sql.statement import ALL, Statement
from dbdurable._sql.step import APPEND
from dbdurable._sql.wait import END_WAIT_MANY, LOOK_MANY, PARK_MANY
from dbdurable._sql.workflow import FINISH_MANY, RIDE
from tests.support.plans import explained, scans, show

for _module in pkgutil.iter_modules(dbdurable._sql.__path__):
    importlib.import_module(f"dbdurable._sql.{_module.name}")

ME = UUID(int=0xE1)
TICKETS, STEPS_EACH, CLAIMED = 20_000, 20, 8

# ---- the text ----------------------------------------------------------------------------------------------


def parameters(text: str) -> set[int]:
    return {int(number) for number in re.findall(r"\$(\d+)", text)}


@pytest.mark.parametrize("name", ALL)
def test_keywords_are_lower_case(name: str) -> None:
    outside_quotes = re.sub(r"'[^']*'|\"[^\"]*\"", "", ALL[name].text)
    assert outside_quotes == outside_quotes.lower()


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_cast_and_none_is_left_out(name: str) -> None:
    text = ALL[name].text
    cast = {int(number) for number in re.findall(r"\$(\d+)::", text)}
    assert cast == parameters(text)
    assert parameters(text) == set(range(1, len(cast) + 1))


def test_statements_prepare_under_any_schema_name_with_their_parameters(connection: psycopg.Connection[Any]) -> None:
    connection.execute('alter schema dbdurable rename to "Other ""Schema"')
    connection.execute("select set_config('search_path', '', false)")
    failed = {}
    for name, statement in ALL.items():
        result = connection.pgconn.prepare(name.encode(), statement.render('Other "Schema').encode())
        if result.status != pq.ExecStatus.COMMAND_OK:
            failed[name] = result.error_message.decode()
        elif connection.pgconn.describe_prepared(name.encode()).nparams != len(parameters(statement.text)):
            failed[name] = "another number of parameters"
    assert failed == {}
    assert len(ALL) > 30


# ---- the plans ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["never analysed", "analysed"])
def crowded(request: pytest.FixtureRequest, connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """20,000 tickets and their workflows, journals for a few hundred of them, and a lease on some."""
    for table in ("workflow", "ready", "step", "lease"):
        connection.execute(f"alter table dbdurable.{table} set (autovacuum_enabled = off)")  # type: ignore[arg-type]
    connection.execute(
        """
        insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                        status, epoch, attempt)
        select lpad(to_hex(n), 32, '0')::uuid, 'work', 'default', '', 0, 20, now(), '{}', 'queued', 0, 1
          from generate_series(1, %(tickets)s) n
        """,
        {"tickets": TICKETS},
    )
    connection.execute(
        "insert into dbdurable.ready (queue, partition, rank, workflow_id, name) "
        "select queue, '', 1, id, name from dbdurable.workflow order by md5(id::text)"
    )
    connection.execute(
        """
        insert into dbdurable.step (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at,
                                    output)
        select lpad(to_hex(w), 32, '0')::uuid, n::text, n, 'step', 'charge', 1, 1, now(), now(), '1'
          from generate_series(1, 500) w, generate_series(1, %(steps)s) n
        """,
        {"steps": STEPS_EACH},
    )
    ids = [UUID(int=number * 50) for number in range(1, CLAIMED + 1)]
    connection.execute("insert into dbdurable.lease values (%s, 1, %s)", [ME, ids])
    if request.param == "analysed":
        connection.execute("analyze dbdurable.workflow, dbdurable.ready, dbdurable.step, dbdurable.lease")
    return connection


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def claiming(request: pytest.FixtureRequest, crowded: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A transaction with the claim's settings; prepared statements change to generic plans after five runs."""
    with crowded.transaction(force_rollback=True):
        crowded.execute(f"set local plan_cache_mode = {request.param}")  # type: ignore[arg-type]
        crowded.execute(CLAIM_PLAN.render("dbdurable"))  # type: ignore[arg-type]
        yield crowded


SINCE = "-infinity"


@pytest.mark.parametrize("statement", [CLAIM, CLAIM_AHEAD], ids=["from the beginning", "ahead"])
def test_the_claim_walks_its_index_whatever_the_statistics_say(
    statement: Any, claiming: psycopg.Connection[Any]
) -> None:
    # Ahead: what is more urgent than the line, the line, and what is less urgent.
    ahead = [[None, 1, None], [None, SINCE, None], [-9, None, 1], [1, None, 9]] if statement is CLAIM_AHEAD else []
    queues = ["default"] * 3 if ahead else ["default"]
    found = explained(claiming, statement, [queues, ["work"], 10, ME, 2, 2, *ahead])
    walks = [node for node in found if node.get("Index Name") == "ready_order"]
    assert {node["Node Type"] for node in walks} <= {"Index Scan", "Index Only Scan"}, show(found)
    kinds = {node["Node Type"] for node in found}
    assert not kinds & {"Sort", "Incremental Sort", "Seq Scan", "Bitmap Heap Scan", "Hash Join", "Merge Join"}, kinds
    # No more than the limit was looked at: ten tickets, ten workflows twice; and the ranks, one by one.
    assert max(node["Actual Rows"] * node["Actual Loops"] for node in walks) == 10, show(found)
    assert all(node["Actual Rows"] * node["Actual Loops"] <= 10 for node in scans(found, "workflow")), show(found)


def test_claimed_journals_are_read_workflow_by_workflow(claiming: psycopg.Connection[Any]) -> None:
    found = explained(claiming, CLAIMED_JOURNALS, [ME, 1])
    (scan,) = scans(found, "step")
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "step_pkey"), show(found)
    assert "workflow_id = i.id" in scan["Index Cond"]
    assert scan["Actual Loops"] == CLAIMED
    assert scan["Actual Rows"] == STEPS_EACH
    assert not [node for node in found if node["Node Type"] == "Seq Scan"], show(found)


# ---- what rides together -----------------------------------------------------------------------------------

IN_COMPANY = (
    APPEND, END_WAIT_MANY, SEND_RECORDED_MANY, START_CHILD_MANY, ADOPT_CHILD_MANY, PARK_MANY, LOOK_MANY, FINISH_MANY,
)  # fmt: skip


@pytest.mark.parametrize("statement", IN_COMPANY, ids=lambda statement: statement.name)
def test_a_flush_finds_each_row_by_its_key(statement: Statement, connection: psycopg.Connection[Any]) -> None:
    """A session plans it once, maybe while the tables are empty: there the settings of a flush have to do."""
    with connection.transaction(force_rollback=True):
        connection.execute(RIDE.render("dbdurable"))  # type: ignore[arg-type]
        connection.execute(f"prepare flush as {statement.render('dbdurable')}")  # type: ignore[arg-type]
        nulls = ", ".join(["null"] * len(parameters(statement.text)))
        rows = connection.execute(f"explain execute flush ({nulls})").fetchall()  # type: ignore[arg-type]
    plan = "\n".join(line for (line,) in rows)
    print(plan)
    assert re.findall(r"Seq Scan on (?!queue )\w+", plan) == []
    assert not re.search(r"Hash|Merge|Bitmap", plan)
    conditions = re.findall(r"Index (?:Only )?Scan using (\w+).*\n\s+(.*)", plan)
    assert conditions
    for index, condition in conditions:
        key = "name =" if index.startswith("queue_") else "id ="
        assert "Index Cond" in condition, plan
        assert key in condition, plan
