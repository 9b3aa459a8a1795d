"""What the demo asks of the database: begin or go on, start all, count, and check at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from dbdurable.cli.demo_app import APPLICATION, DURABLE, durable, load_cities
from dbdurable.errors import BadConfiguration

__all__ = ["START_ALL", "Check", "Standing", "Store"]

MARK: Final = "made by `dbdurable demo`, which drops it when it begins anew"

LOCK: Final = "select pg_try_advisory_lock(hashtextextended('dbdurable demo', 0))"

RUN_TABLES: Final = """
create table dbdurable_demo_app.run (
    rows integer not null, finished_at timestamptz, killed_pid integer, killed_at_done integer
);
create table dbdurable_demo_app.held_at_kill (workflow_id uuid not null, epoch integer not null);
"""

START_ALL: Final = """\
select dbdurable_demo.start('supply', json_build_object('city_id', id), key => 'city ' || id)
  from dbdurable_demo_app.city order by population desc"""

_ONCE: Final = """\
select count(*) from (select c.id from dbdurable_demo_app.city c
  left join dbdurable_demo_app.{table} x on x.city_id = c.id
  group by c.id having count(x.city_id) <> 1) wrong"""

_NEEDED: Final = "select sum(litres_needed) from dbdurable_demo_app.city"
_CITIES: Final = "select count(*) from dbdurable_demo_app.city"

_CHECKS: Final = (
    # what, found by, expected by
    ("cities in the application's table", _CITIES, "select rows from dbdurable_demo_app.run"),
    (
        "workflows that succeeded",
        "select count(*) from dbdurable_demo.workflows where status = 'succeeded'",
        _CITIES,
    ),
    (
        "workflows in any other state",
        "select count(*) from dbdurable_demo.workflows where status <> 'succeeded'",
        "select 0",
    ),
    ("cities not reserved for exactly once", _ONCE.format(table="reservation"), "select 0"),
    ("cities not booked exactly once", _ONCE.format(table="ledger"), "select 0"),
    (
        "transactions in the workflows' journal",
        "select count(*) from dbdurable_demo.steps where kind = 'transaction'",
        "select (select count(*) from dbdurable_demo_app.reservation)"
        " + (select count(*) from dbdurable_demo_app.ledger)",
    ),
    ("litres reserved", "select sum(litres) from dbdurable_demo_app.reservation", _NEEDED),
    (
        "litres that left the depots",
        "select sum(litres_at_first - litres) from dbdurable_demo_app.depot",
        _NEEDED,
    ),
    ("litres booked in the ledger", "select sum(litres) from dbdurable_demo_app.ledger", _NEEDED),
    (
        "litres that the workflows returned",
        "select sum(output::bigint) from dbdurable_demo.workflows",
        _NEEDED,
    ),
    (
        "shipments in the carrier's books",
        "select count(*) from dbdurable_demo_app.carrier_shipment",
        _CITIES,
    ),
)

_TAKEN_OVER: Final = """\
select count(*) from dbdurable_demo_app.held_at_kill h
  join dbdurable_demo.workflows w on w.id = h.workflow_id
  where w.status = 'succeeded' and w.epoch > h.epoch"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table at the end."""

    what: str
    found: int
    expected: int
    sql: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the run is."""

    total: int
    started: int
    done: int
    held: int
    """Of what the killed worker held: how many are not done yet."""


class Store:
    """One run's rows; `connection` is in autocommit."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def _one(self, query: str, params: list[Any] | None = None) -> Any:
        row = self._connection.execute(query.encode(), params).fetchone()
        return None if row is None else row[0]

    def lock(self) -> bool:
        """Whether this is the only demo on this database now; held until the connection ends."""
        return bool(self._one(LOCK))

    def unfinished(self) -> int | None:
        """The rows of a run that was interrupted, if there is one."""
        if self._one("select to_regclass('dbdurable_demo_app.run')") is None:
            return None
        rows = self._one("select rows from dbdurable_demo_app.run where finished_at is null")
        return None if rows is None else int(rows)

    def begin(self, rows: int) -> None:
        """Drops what an earlier run left, and makes the application's tables: one transaction.

        Raises:
            BadConfiguration: A schema of that name is there, and is not the demo's.
        """
        connection = self._connection
        for schema in (DURABLE, APPLICATION):
            found = connection.execute(
                "select coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace where nspname = %s",
                [schema],
            ).fetchone()
            if found is not None and found[0] != MARK:
                raise BadConfiguration(f"there is a schema {schema} that `dbdurable demo` did not make: rename it")
        with connection.transaction():
            connection.execute("set local client_min_messages = warning")
            for schema in (DURABLE, APPLICATION):
                connection.execute(
                    f"drop schema if exists {schema} cascade; create schema {schema};"
                    f" comment on schema {schema} is '{MARK}'".encode()
                )
            load_cities(connection, rows)
            connection.execute(RUN_TABLES)
            connection.execute("insert into dbdurable_demo_app.run values (%s)", [rows])

    def migrate(self) -> None:
        """Makes or upgrades dbdurable's own tables."""
        durable.client.workflows(limit=1)

    def registered(self) -> bool:
        """Whether a worker has told the database about the workflow, so that SQL can start it."""
        return bool(self._one("select exists (select from dbdurable_demo.definition where name = 'supply')"))

    def start_all(self) -> None:
        """Starts one workflow for each city, in SQL; those that were started before stay as they are."""
        self._connection.execute(START_ALL)

    def standing(self) -> Standing:
        """How far the run is, in one statement."""
        row = self._connection.execute(
            """
            select (select rows from dbdurable_demo_app.run), count(*),
                   count(*) filter (where w.status in ('succeeded', 'failed', 'cancelled')),
                   count(*) filter (where w.status <> 'succeeded' and h.workflow_id is not null)
              from dbdurable_demo.workflows w
              left join dbdurable_demo_app.held_at_kill h on h.workflow_id = w.id
            """
        ).fetchone()
        assert row is not None
        return Standing(*row)

    def interrupted(self) -> int:
        """How many workflows are in the hands of processes that have died with an earlier demo."""
        return int(self._one("select count(*) from dbdurable_demo.workflows where status = 'running'"))

    def busiest(self, pids: list[int]) -> tuple[int, int]:
        """The worker with the most workflows in hand, and how many."""
        row = self._connection.execute(
            "select pid, running from dbdurable_demo.executors where pid = any(%s) order by running desc limit 1",
            [pids],
        ).fetchone()
        return (0, 0) if row is None else (row[0], row[1])

    def sessions(self, name: str) -> int:
        """How many connections of a worker the server still has."""
        return int(self._one("select count(*) from pg_stat_activity where application_name = %s", [name]))

    def killed(self) -> tuple[int, int] | None:
        """Pid and done rows at the kill, if it happened in this run."""
        row = self._connection.execute("select killed_pid, killed_at_done from dbdurable_demo_app.run").fetchone()
        return None if row is None or row[0] is None else (row[0], row[1])

    def note_kill(self, pid: int, done: int) -> int:
        """Remembers what the killed worker had in hand; how many."""
        with self._connection.transaction():
            held = self._connection.execute(
                """
                insert into dbdurable_demo_app.held_at_kill
                select w.id, w.epoch
                  from dbdurable_demo.workflows w join dbdurable_demo.executors e on w.executor = e.host || ':' || e.pid
                 where e.pid = %s and w.status = 'running'
                """,
                [pid],
            ).rowcount
            self._connection.execute(
                "update dbdurable_demo_app.run set killed_pid = %s, killed_at_done = %s", [pid, done]
            )
        return held

    def held_at_kill(self) -> int:
        """How many workflows the killed worker had in hand."""
        return int(self._one("select count(*) from dbdurable_demo_app.held_at_kill"))

    def finish(self) -> None:
        """The next demo begins anew."""
        self._connection.execute("update dbdurable_demo_app.run set finished_at = clock_timestamp()")

    def calls(self) -> tuple[int, int]:
        """Calls that the carrier got, and workflows that changed hands."""
        return (
            int(self._one("select count(*) from dbdurable_demo_app.carrier_call")),
            int(self._one("select count(*) from dbdurable_demo.workflows where epoch > 1")),
        )

    def checks(self, *, kill: bool) -> list[Check]:
        """The application's own tables against the workflow tables."""
        checks = []
        for what, sql, expected_sql in _CHECKS:
            found, expected = int(self._one(sql) or 0), int(self._one(expected_sql))
            checks.append(Check(what, found, expected, sql, found == expected))
        if kill:
            held = self.held_at_kill()
            found = int(self._one(_TAKEN_OVER))
            # Nothing in the hands of the killed worker would prove nothing.
            checks.append(Check("of the killed worker's, done by another", found, held, _TAKEN_OVER, found == held > 0))
        return checks
