"""What must be true after any crash: the application's tables and the result are those of a run without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.crash.actors import Report
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Traces:
    """What one run left behind."""

    effects: list[tuple[Any, ...]]
    outside: dict[str, set[Any]]
    """What steps did elsewhere, and the idempotency keys under which they did it."""
    steps: list[tuple[Any, ...]]
    status: list[tuple[Any, ...]]


NOTHING = Traces([], {}, [], [])


def traces(connection: Connection, run: str) -> Traces:
    """The traces of a run, its name left out so that runs can be compared."""
    outside: dict[str, set[Any]] = {}
    for what, key in connection.execute("select what, key from outside where run = %s", [run]):
        outside.setdefault(what, set()).add(key)
    return Traces(
        effects=connection.execute(
            "select what, value from effect where run = %s order by what, value", [run]
        ).fetchall(),
        outside=outside,
        steps=connection.execute(
            """
            select w.name, s.path, s.kind::text, s.name, s.attempts,
                   case when s.kind in ('start', 'child', 'promise') then 'an id'
                        else replace(s.output::text, %(run)s, '*') end,
                   s.error::json ->> 'type'
              from dbdurable.step s join dbdurable.workflow w on w.id = s.workflow_id
             where w.input::json ->> 'run' = %(run)s order by w.name, w.key is null, s.path
            """,
            {"run": run},
        ).fetchall(),
        status=connection.execute(
            """
            select name, status::text, replace(output::text, %(run)s, '*'), error::json ->> 'type'
              from dbdurable.workflow where input::json ->> 'run' = %(run)s order by 1, 2, 3
            """,
            {"run": run},
        ).fetchall(),
    )


def check_same(golden: Traces, found: Traces) -> None:
    """The oracle: transactions exactly once, steps at least once under one key, the same journal and outcome."""
    for what, have, want in [
        ("effects of transactions", found.effects, golden.effects),
        ("outcomes", found.status, golden.status),
        ("journal", _without_attempts(found.steps), _without_attempts(golden.steps)),
        ("effects of steps, and how many keys", _count_keys(found), _count_keys(golden)),
    ]:
        assert have == want, f"{what}: {have} instead of {want}"


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """What fails inside says of what it is: of many runs, the fault of this one."""
    try:
        yield
    except AssertionError as difference:
        raise AssertionError(f"{what}: {difference}") from difference


def _without_attempts(steps: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*step[:4], *step[5:]) for step in steps]


def _count_keys(found: Traces) -> dict[str, int]:
    return {what: len(keys) for what, keys in sorted(found.outside.items())}


def check_house(connection: Connection) -> None:
    """What must hold between the tables when nothing runs any more (promise P5)."""
    unfinished = connection.execute(
        "select id, name, status from dbdurable.workflow where status not in ('succeeded', 'failed', 'cancelled')"
    ).fetchall()
    assert unfinished == [], "work is stranded"
    tickets = connection.execute(
        """
        select r.name, w.status from dbdurable.ready r left join dbdurable.workflow w on w.id = r.workflow_id
         where w.status is null or w.status not in ('succeeded', 'failed', 'cancelled')
        """
    ).fetchall()
    assert tickets == [], "a ticket of nothing"
    waits = connection.execute("select workflow_id, path, kind from dbdurable.wait").fetchall()
    assert waits == [], "a wait of nothing"
    late = connection.execute(
        """
        select s.workflow_id, s.path from dbdurable.step s join dbdurable.workflow w on w.id = s.workflow_id
         where s.epoch > w.epoch or s.finished_at > w.finished_at
        """
    ).fetchall()
    assert late == [], "a record after the end"


def is_mid_flight(connection: Connection) -> bool:
    """Whether the server waits for the rest of a flight, with the locks of its first statements held.

    Whoever has locked or written a row has a transaction id; texts that are only being prepared hold nothing.
    """

    def active() -> list[Any]:
        return connection.execute(
            "select coalesce(wait_event, ''), backend_xid is not null from pg_stat_activity "
            "where datname = current_database() and application_name = 'dbdurable' and state = 'active'"
        ).fetchall()

    # What the process sent before it was frozen may still be on its way through the server.
    wait_until(lambda: all(event == "ClientRead" for event, _ in active()), what="the server to have done what it got")
    # Nor is what begins to be done between the two looks: only who still reads waits for something.
    return any(has_locks for event, has_locks in active() if event == "ClientRead")


def expire_all(connection: Connection) -> None:
    """Every executor that is registered counts as dead from now on."""
    connection.execute("update dbdurable.executor set expires_at = clock_timestamp() - interval '1 s'")


def check_killed(report: Report) -> None:
    """Void is no success: the fault has to have happened, at its point, by SIGKILL."""
    assert report.fired is not None, f"the point was not reached: {report}"
    assert report.exitcode == -9, f"not killed at {report.fired}: {report.exitcode} {report.error}"
