"""Every guarded statement refuses a wrong owner, a wrong epoch and a wrong status: predicate by predicate.

Owner and epoch guard against the same zombies, so that no run of a workflow would miss one of them. Here
each is tried alone; and the text without it has to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import RawCursor

from dbdurable._sql import step, upkeep, workflow
from dbdurable._sql.statement import Statement

Connection = psycopg.Connection[Any]
ME, OTHER = UUID(int=1), UUID(int=2)
EPOCH = 3


@dataclass(frozen=True)
class Case:
    """One statement, and its parameters for an executor that believes to own `id` under `epoch`."""

    statement: Statement
    params: Callable[[UUID, UUID, int], tuple[Any, ...]]
    predicates: tuple[tuple[str, str, str], ...]
    """What each guards against, its text, and what stands there in the mutant."""


CASES = [
    Case(
        step.RECORD_IN_TRANSACTION,
        lambda id, me, epoch: (id, "1", 1, "transaction", "reserve", 1, me, epoch, "{}"),
        (
            ("owner", "w.executor_id = $7::uuid", "$7::uuid is not null"),
            ("epoch", "w.epoch = $8::int", "$8::int is not null"),
            ("status", "w.status = 'running'", "true"),
        ),
    ),
    Case(
        step.RECORD_FENCED,
        lambda id, me, epoch: (id, "1", 1, "transaction", "reserve", 1, me, epoch, None, "{}", 0.0),
        (
            ("owner", "w.executor_id = $7::uuid", "$7::uuid is not null"),
            ("epoch", "w.epoch = $8::int", "$8::int is not null"),
            ("status", "w.status = 'running'", "true"),
        ),
    ),
    Case(
        step.APPEND,
        lambda id, me, epoch: (me, [id], ["1"], [1], ["step"], ["call"], [1], [epoch], [0.0], [None], ["{}"]),
        (
            ("owner", "w.executor_id = $1::uuid", "$1::uuid is not null"),
            ("epoch", "w.epoch = x.epoch", "true"),
            ("status", "and w.status = 'running'", ""),
        ),
    ),
    Case(
        step.PLACE_RECORD,
        lambda id, me, epoch: (id, LATE, 7, me, epoch),
        (
            ("owner", "w.executor_id = $4::uuid", "$4::uuid is not null"),
            ("epoch", "w.epoch = $5::int", "$5::int is not null"),
            ("status", "and w.status = 'running'", ""),
        ),
    ),
    Case(
        workflow.FINISH,
        lambda id, me, epoch: (id, me, epoch, "succeeded", "1", None, None, None, None),
        (
            ("owner", "executor_id = $2::uuid", "$2::uuid is not null"),
            ("epoch", "epoch = $3::int", "$3::int is not null"),
            ("status", "and status = 'running'", ""),
        ),
    ),
    Case(
        workflow.FINISH_SUCCEEDED,
        lambda id, me, epoch: (id, me, epoch, "1"),
        (
            ("owner", "executor_id = $2::uuid", "$2::uuid is not null"),
            ("epoch", "epoch = $3::int", "$3::int is not null"),
            ("status", "and status = 'running'", ""),
        ),
    ),
    Case(
        workflow.BLOCK,
        lambda id, me, epoch: (id, me, epoch, "reason", "1.0", None, None),
        (
            ("owner", "executor_id = $2::uuid", "$2::uuid is not null"),
            ("epoch", "epoch = $3::int", "$3::int is not null"),
            ("status", "and status = 'running'", ""),
        ),
    ),
    Case(
        workflow.HAND_BACK,
        lambda id, me, epoch: (id, me, epoch, None, None),
        (
            ("owner", "executor_id = $2::uuid", "$2::uuid is not null"),
            ("epoch", "epoch = $3::int", "$3::int is not null"),
            ("status", "and status = 'running'", ""),
        ),
    ),
]
NAMES = [case.statement.name for case in CASES]
LATE = "9"
"""The path of a record that is there already, whoever wrote it."""
WRONG = {"owner": (OTHER, EPOCH, "running"), "epoch": (ME, EPOCH - 1, "running"), "status": (ME, EPOCH, "paused")}


def is_accepted(connection: Connection, text: str, case: Case, me: UUID, epoch: int, status: str) -> bool:
    """Whether the statement changed anything, for a workflow of ME under EPOCH; undone in any case."""
    id = uuid4()
    with connection.transaction(force_rollback=True):
        connection.execute("select set_config('dbdurable.step', '1', true)")
        connection.execute(
            """
            insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                            status, epoch, executor_id, attempt)
            values (%s, 'checkout', 'default', '', 0, 20, clock_timestamp(), '{}', %s::dbdurable.status, %s, %s, 1)
            """,
            [id, status, EPOCH, ME],
        )
        connection.execute(
            "insert into dbdurable.step (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, "
            "output) values (%s, %s, 2147483647, 'step', 'late', 1, 1, now(), now(), '1')",
            [id, LATE],
        )
        before = _state(connection, id)
        try:
            with connection.transaction():
                RawCursor(connection).execute(text, case.params(id, me, epoch))
        except psycopg.Error as error:
            if error.sqlstate == "DD001":
                return False
            raise
        return _state(connection, id) != before


def _state(connection: Connection, id: UUID) -> list[Any]:
    return connection.execute(
        "select status, epoch, (select count(*) from dbdurable.step where workflow_id = id and seq < 2147483647) "
        "from dbdurable.workflow where id = %s",
        [id],
    ).fetchall()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_owner_may_and_nobody_else(case: Case, connection: Connection) -> None:
    text = case.statement.render("dbdurable")
    assert is_accepted(connection, text, case, ME, EPOCH, "running")
    for what, (me, epoch, status) in WRONG.items():
        assert not is_accepted(connection, text, case, me, epoch, status), f"another {what} is accepted"


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_without_any_of_its_predicates_it_would_be_accepted(case: Case, connection: Connection) -> None:
    for what, predicate, instead in case.predicates:
        text = case.statement.render("dbdurable")
        assert predicate in text, f"{case.statement} has changed: correct the mutant"
        assert is_accepted(connection, text.replace(predicate, instead), case, *WRONG[what]), f"mutant {what} survives"


@pytest.fixture
def held(connection: Connection) -> UUID:
    """A workflow that runs here, under a living executor, and still stands in the lease row of a dead one."""
    id = uuid4()
    connection.execute(
        "insert into dbdurable.executor (id, expires_at, names, queues, host, pid, version) "
        "values (%s, clock_timestamp() + interval '1 h', '{}', '{}', 'here', 1, '1')",
        [ME],
    )
    connection.execute(
        "insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input, "
        "status, epoch, executor_id, attempt) "
        "values (%s, 'checkout', 'default', '', 0, 20, clock_timestamp(), '{}', 'running', %s, %s, 1)",
        [id, EPOCH, ME],
    )
    connection.execute(
        "insert into dbdurable.lease values (%s, 1, array[%s::uuid]), (%s, 1, array[%s::uuid])", [OTHER, id, ME, id]
    )
    return id


def test_recovery_takes_nothing_from_the_living(held: UUID, connection: Connection) -> None:
    connection.execute(upkeep.RECOVER.render("dbdurable"))  # type: ignore[arg-type]
    assert _state(connection, held) == [("running", EPOCH, 0)]
    assert connection.execute("select executor_id from dbdurable.lease").fetchall() == [(ME,)]


def test_recovery_without_the_owner_predicate_would(held: UUID, connection: Connection) -> None:
    text = upkeep.RECOVER.render("dbdurable")
    mutant = text.replace(
        'join "dbdurable".workflow w on w.id = i.id and w.executor_id = i.executor_id',
        'join "dbdurable".workflow w on w.id = i.id',
        1,
    )
    assert mutant != text
    connection.execute(mutant)  # type: ignore[arg-type]
    assert _state(connection, held) == [("queued", EPOCH + 1, 0)]


def test_a_second_record_is_refused_whoever_brings_it(connection: Connection) -> None:
    case, text = CASES[0], CASES[0].statement.render("dbdurable")
    for wrong in ("", " on conflict (workflow_id, path) do update set output = excluded.output"):
        twice = text.replace("    returning", f"{wrong}\n    returning")
        if wrong:
            assert _both_accepted(connection, twice, case)
        else:
            with pytest.raises(psycopg.errors.UniqueViolation) as refused:
                _both_accepted(connection, twice, case)
            assert (refused.value.diag.schema_name, refused.value.diag.table_name) == ("dbdurable", "step")


def _both_accepted(connection: Connection, text: str, case: Case) -> bool:
    id = uuid4()
    connection.execute(
        "insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input, "
        "status, epoch, executor_id, attempt) "
        "values (%s, 'checkout', 'default', '', 0, 20, clock_timestamp(), '{}', 'running', %s, %s, 1)",
        [id, EPOCH, ME],
    )
    with connection.transaction():
        connection.execute("select set_config('dbdurable.step', '1', true)")
        for _ in range(2):
            RawCursor(connection).execute(text, case.params(id, ME, EPOCH))
    return True
