"""`doctor`: each check finds what was broken on purpose, and nothing where nothing is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dbdurable import Durable
from dbdurable.cli import doctor_server, doctor_tables, doctor_work
from dbdurable.cli.finding import Finding, Patient
from dbdurable.cli.shape import shape_of
from tests.cli.conftest import Cli
from tests.cli.rows import executor, hold, tickets

Connection = psycopg.Connection[Any]

CHECKS = [
    "server", "settings", "connections", "clock", "pooler", "listen", "snapshots", "version", "shape", "grants",
    "vacuum", "unclaimable", "executors", "stranded", "limits", "attention", "applications",
]  # fmt: skip


class Doctor:
    """`dbdurable doctor --json`, without what the tests' own server is told to do (fsync = off: it is throw-away)."""

    def __init__(self, cli: Cli, url: str) -> None:
        self.cli, self.url = cli, url

    def __call__(self, *options: str) -> dict[str, list[tuple[str, str, str]]]:
        """What was found (severity, found, do) by each check that found something."""
        ran = self.cli("doctor", "--json", *options, url=self.url)
        report = json.loads(ran.stdout)
        severities = {finding["severity"] for finding in report["findings"]}
        assert report["ok"] is ("error" not in severities)
        assert ran.exit_code == (0 if report["ok"] else 1)
        found: dict[str, list[tuple[str, str, str]]] = {}
        for finding in report["findings"]:
            assert finding["do"].endswith("."), finding
            if "fsync is off" not in finding["found"] and "full_page_writes is off" not in finding["found"]:
                found.setdefault(finding["check"], []).append((finding["severity"], finding["found"], finding["do"]))
        return found

    def one(self, check: str, *options: str) -> tuple[str, str, str]:
        """The only finding there is."""
        found = self(*options)
        assert list(found) == [check], found
        (finding,) = found[check]
        return finding


@pytest.fixture
def doctor(cli: Cli, database_url: str) -> Doctor:
    return Doctor(cli, database_url)


def patient(connection: Connection, url: str, **server: Any) -> Patient:
    return Patient(connection, url, "dbdurable", server)


# ---- in all ------------------------------------------------------------------------------------------------


def test_nothing_is_found_in_a_fresh_schema(doctor: Doctor, cli: Cli):
    assert doctor() == {}
    assert doctor("--deep") == {}
    assert json.loads(cli("doctor", "--json", url=doctor.url).stdout)["checks"] == CHECKS


def test_the_report_for_people(cli: Cli, connection: Connection, database_url: str):
    tickets(connection, "ship", 2)
    connection.execute("insert into dbdurable.queue (name, paused) values ('default', true)")
    ran = cli("doctor", url=database_url)
    text = " ".join(ran.stdout.split())
    assert ran.exit_code == 1
    assert "error unclaimable: no executor is alive, and work is ready: 2 workflows, the oldest for" in text
    assert "Start one: `dbdurable worker MODULE:OBJECT`." in text
    assert "note attention: queue 'default' is paused and has work" in text
    assert text.index("error unclaimable") < text.index("note attention")
    assert "17 checks: " in text
    assert text.endswith("1 note")


def test_a_healthy_report_names_the_checks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from dbdurable.cli.doctor import _tell

    monkeypatch.setenv("COLUMNS", "500")
    _tell(CHECKS, [])
    assert capsys.readouterr().out.strip() == f"nothing found by 17 checks: {', '.join(CHECKS)}"


def test_no_false_alarm_while_work_goes_on(doctor: Doctor, database_url: str):
    durable = Durable(database_url)
    durable.queue("narrow", concurrency=3)

    @durable.step(name="hop")
    def hop(n: int) -> int:
        return n

    @durable.workflow(name="walk", queue="narrow")
    def walk(n: int) -> int:
        return sum(hop(i) for i in range(n))

    @durable.workflow(name="run")
    def run(n: int) -> int:
        return sum(hop(i) for i in range(n))

    with durable.executor(threads=4, tasks=1) as working:
        for _ in range(3):
            durable.client.start_many([run.bind(3) for _ in range(40)] + [walk.bind(3) for _ in range(20)])
            assert doctor() == {}
            assert doctor("--deep") == {}
        working.wait_idle(60)
        assert doctor("--deep") == {}
    durable.close()


def test_no_tables(cli: Cli, empty_database_url: str):
    findings = Doctor(cli, empty_database_url)()
    assert list(findings) == ["version"]
    severity, found, do = findings["version"][0]
    assert (severity, do) == ("error", "Run `dbdurable migrate`.")
    assert found.startswith("schema 'dbdurable' lacks 0001_tables.sql, ")


def test_no_server(cli: Cli):
    refused = cli("doctor", url="postgresql://ann:s3cret@127.0.0.1:1/shop")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "nothing answers there" in refused.stderr
    assert "s3cret" not in refused.output


def test_it_writes_nothing(doctor: Doctor, connection: Connection):
    """All of it works in a database that refuses writes, and says that it does."""
    name = conninfo_to_dict(doctor.url)["dbname"]
    alter = sql.SQL("alter database {} set default_transaction_read_only = on").format(sql.Identifier(str(name)))
    connection.execute(alter)
    findings = doctor("--deep")
    assert set(findings) <= {"server", "listen"}
    assert findings["server"][0][1].startswith("the database is read-only (default_transaction_read_only)")


# ---- the server and the way to it --------------------------------------------------------------------------


def test_synchronous_commit_off_shouts(doctor: Doctor, connection: Connection):
    name = conninfo_to_dict(doctor.url)["dbname"]
    connection.execute(sql.SQL("alter database {} set synchronous_commit = off").format(sql.Identifier(str(name))))
    severity, found, do = doctor.one("settings")
    assert severity == "error"
    assert "COMMIT ANSWERS BEFORE IT IS ON DISK" in found
    assert f'alter database "{name}" reset synchronous_commit' in do


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("fsync", "fsync is off: a crash of the machine"),
        ("full_page_writes", "full_page_writes is off"),
        ("autovacuum", "autovacuum is off: dead tickets are never removed"),
        ("track_counts", "track_counts is off"),
    ],
)
def test_settings_of_the_whole_server(connection: Connection, database_url: str, setting: str, says: str):
    said = dict.fromkeys(["synchronous_commit", "fsync", "full_page_writes", "autovacuum", "track_counts"], "on")
    assert list(doctor_server.settings(patient(connection, database_url, **said, database="shop"))) == []
    (finding,) = doctor_server.settings(patient(connection, database_url, **{**said, setting: "off"}, database="shop"))
    assert finding.found.startswith(says)


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"version_num": 140_011, "version": "14.11"}, "PostgreSQL 14.11 is too old: 15 is the oldest"),
        ({"in_recovery": True}, "the database is a standby: nothing can run"),
    ],
)
def test_servers_that_will_not_do(connection: Connection, database_url: str, server: dict[str, Any], says: str):
    fine = {"version_num": 150_000, "version": "15.0", "in_recovery": False, "read_only": False}
    assert list(doctor_server.server(patient(connection, database_url, **fine))) == []
    (finding,) = doctor_server.server(patient(connection, database_url, **{**fine, **server}))
    assert finding.found.startswith(says)


def test_connections_that_run_out(connection: Connection, database_url: str):
    def found(used: int) -> list[Finding]:
        return list(doctor_server.connections(patient(connection, database_url, connections=used, connections_max=97)))

    assert found(77) == []
    assert found(78)[0].found == "78 of 97 connections are in use"


@pytest.mark.parametrize(("ahead_s", "says"), [(86_400, "24 h ahead of"), (-10_800, "3 h behind")])
def test_another_clock(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, ahead_s: int, says: str):
    real = doctor_server.time.time
    monkeypatch.setattr(doctor_server.time, "time", lambda: real() + ahead_s)
    severity, found, _ = doctor.one("clock")
    assert (severity, found) == ("note", f"the clock of this machine is {says} the database's")


def test_an_old_transaction(doctor: Doctor, database_url: str):
    with psycopg.connect(database_url, application_name="report") as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select 1")
        assert doctor() == {}
        severity, found, do = doctor.one("snapshots", "--old-after", "0")
        pid = holder.info.backend_pid
    assert severity == "warning"
    assert f"session {pid} (report, role " in found
    assert "idle in transaction) has a transaction open that began " in found
    assert f"select pg_terminate_backend({pid})" in do


def test_a_prepared_transaction(doctor: Doctor, connection: Connection):
    if connection.execute("show max_prepared_transactions").fetchone() == ("0",):
        pytest.skip("this server has max_prepared_transactions = 0")
    name = f"it's {uuid4().hex[:8]}"
    quoted = name.replace("'", "''")
    connection.execute(f"begin; create table t (); prepare transaction '{quoted}'")  # type: ignore[call-overload]
    try:
        severity, found, do = doctor.one("snapshots", "--old-after", "0")
    finally:
        connection.execute(f"rollback prepared '{quoted}'")  # type: ignore[call-overload]
    assert severity == "warning"
    assert found.startswith(f"the prepared transaction {name!r} of ")
    assert f"rollback prepared '{quoted}'" in do


def test_a_replication_slot_that_nobody_uses(doctor: Doctor, connection: Connection, monkeypatch: pytest.MonkeyPatch):
    row = connection.execute("show wal_level").fetchone()
    if row == ("minimal",):
        pytest.skip("this server has wal_level = minimal")
    name = f"slot_{uuid4().hex[:8]}"
    connection.execute("select pg_create_physical_replication_slot(%s, true)", [name])
    try:
        assert doctor() == {}  # it holds little
        monkeypatch.setattr(doctor_server, "WAL_BYTES_MAX", -1)
        found = [(what, do) for _, what, do in doctor()["snapshots"] if name in what]
    finally:
        connection.execute("select pg_drop_replication_slot(%s)", [name])
    assert len(found) == 1
    assert found[0][0].startswith(f"nobody uses the replication slot '{name}'; it holds ")
    assert f"select pg_drop_replication_slot('{name}')" in found[0][1]


def test_listening_where_nothing_arrives(doctor: Doctor, empty_database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_server, "LISTEN_TIMEOUT_S", 0.2)
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", empty_database_url)  # another database: as good as a pooler
    severity, found, do = doctor.one("listen")
    assert severity == "warning"
    assert found.startswith("LISTEN does not work: executors find new work by polling only")
    assert "DBDURABLE_LISTEN_URL" in do
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", "postgresql://ann:s3cret@127.0.0.1:1/shop")
    _, found, _ = doctor.one("listen")
    assert "LISTEN does not work (cannot use PostgreSQL at 127.0.0.1, port 1" in found
    assert "s3cret" not in found
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", "never")
    assert doctor.one("listen")[:2] == (
        "note",
        "executors do not listen (DBDURABLE_LISTEN_URL=never): they find new work by polling only",
    )


# ---- the tables --------------------------------------------------------------------------------------------


def test_the_shape_is_that_of_a_fresh_schema(connection: Connection):
    """What is read from the migrations' text is exactly what they make."""
    columns = connection.execute(
        """
        select table_name, column_name from information_schema.columns c join information_schema.tables t
         using (table_schema, table_name) where table_schema = 'dbdurable' and table_type = 'BASE TABLE'
        """
    ).fetchall()
    objects = connection.execute(
        """
        select case relkind when 'r' then 'table' when 'v' then 'view' else 'index' end, relname from pg_class
         where relnamespace = 'dbdurable'::regnamespace and relkind in ('r', 'v', 'i')
        union select 'function', proname from pg_proc where pronamespace = 'dbdurable'::regnamespace
        """
    ).fetchall()
    assert shape_of().columns == set(columns)
    assert shape_of().objects == set(objects)


def test_edited_migrations(doctor: Doctor, connection: Connection):
    connection.execute("update dbdurable.migration set checksum = 'x' where version = 2")
    severity, found, _ = doctor.one("version")
    assert (severity, "0002_functions.sql was edited" in found) == ("error", True)
    connection.execute("delete from dbdurable.migration where version >= 2")
    assert doctor.one("version")[1].startswith("schema 'dbdurable' lacks 0002_functions.sql, 0003_views.sql")


@pytest.mark.parametrize(
    ("change", "severity", "says"),
    [
        ("drop index dbdurable.ready_order", "error", "lacks index ready_order"),
        ("alter table dbdurable.step drop constraint step_pkey", "error", "lacks index step_pkey"),
        ("drop view dbdurable.queues", "error", "lacks view queues"),
        ("drop table dbdurable.stream", "error", "lacks index stream_pkey, table stream"),
        ("alter table dbdurable.stream drop column at", "error", "lacks column stream.at"),
        ("drop function dbdurable.uuid7", "error", "lacks function uuid7"),
        ("alter table dbdurable.stream add column note text", "note", "these columns are not dbdurable's: stream.note"),
        (
            "create function f() returns trigger language plpgsql as 'begin return new; end';"
            "create trigger t before insert on dbdurable.step for each row execute function f()",
            "warning",
            "there is a trigger on a table of dbdurable: step.t",
        ),
        (
            "create index on dbdurable.workflow (status)",
            "error",
            "the index workflow_status_idx holds a column of workflow that changes",
        ),
        (
            "create index mine on dbdurable.workflow (name) where status = 'running'",
            "error",
            "the index mine holds a column of workflow that changes",
        ),
        (
            "update pg_index set indisvalid = false where indexrelid = 'dbdurable.wait_due'::regclass",
            "error",
            "these indexes are not usable: wait_due",
        ),
    ],
)
def test_tables_that_were_changed(doctor: Doctor, connection: Connection, change: str, severity: str, says: str):
    connection.execute(change)  # type: ignore[arg-type]
    found = doctor.one("shape")
    assert found[0] == severity
    assert says in found[1]


def test_an_index_over_columns_that_stay_is_fine(doctor: Doctor, connection: Connection):
    connection.execute("create index on dbdurable.workflow (name, created_at) where parent_id is null")
    assert doctor() == {}


@pytest.fixture
def role(administrator: Connection, connection: Connection) -> Iterator[str]:
    """A role that may log in and nothing else."""
    name = f"dbdurable_test_{uuid4().hex[:8]}"
    administrator.execute(sql.SQL("create role {} login password 'secret'").format(sql.Identifier(name)))
    yield name
    connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
    administrator.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_grants(doctor: Doctor, connection: Connection, role: str):
    def allow(what: str) -> None:
        connection.execute(sql.SQL("grant {} to {}").format(sql.SQL(what), sql.Identifier(role)))  # type: ignore[arg-type]

    doctor.url = make_conninfo(doctor.url, user=role, password="secret")
    severity, found, _ = doctor()["version"][0]
    assert (severity, "permission denied for schema dbdurable" in found) == ("error", True)
    allow("usage on schema dbdurable")
    allow("select on all tables in schema dbdurable")
    findings = doctor()["grants"]
    assert findings[0][0] == "error"
    assert f"role '{role}' lacks rights that an executor needs: insert, update, delete on dbdurable." in findings[0][1]
    assert "grant insert, update, delete on dbdurable." in findings[0][2]
    allow("insert, update, delete on all tables in schema dbdurable")
    findings = doctor()
    assert [severity for severity, _, _ in findings["grants"]] == ["note"]
    assert f"the tables belong to 'postgres': role '{role}' cannot upgrade them" in findings["grants"][0][1]
    assert f"role '{role}' sees only its own sessions" in findings["snapshots"][0][1]
    allow("pg_read_all_stats")
    assert set(doctor()) == {"grants"}


def test_what_was_granted_is_enough_for_an_executor(doctor: Doctor, connection: Connection, role: str):
    """The counterpart: a role of which doctor finds no fault runs a workflow."""
    who = sql.Identifier(role)
    connection.execute(sql.SQL("grant usage on schema dbdurable to {}").format(who))
    connection.execute(
        sql.SQL("grant select, insert, update, delete on all tables in schema dbdurable to {}").format(who)
    )
    url = make_conninfo(doctor.url, user=role, password="secret")
    durable = Durable(f"{url}", migrate=False)

    @durable.workflow(name="double")
    def double(n: int) -> int:
        return 2 * n

    with durable.executor(threads=1, tasks=1):
        assert double.options(key="k").start(4).result(20) == 8
    durable.close()


def test_autovacuum_of_a_table(doctor: Doctor, connection: Connection):
    connection.execute("alter table dbdurable.ready set (autovacuum_enabled = false)")
    assert doctor.one("vacuum")[1] == "autovacuum is switched off for dbdurable.ready"


def test_dead_rows(doctor: Doctor, database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_tables, "DEAD_MIN", 300)
    with psycopg.connect(database_url, autocommit=True) as writer:  # its end tells the statistics
        tickets(writer, "ship", 400)
        writer.execute("delete from dbdurable.ready")
        writer.execute("update dbdurable.workflow set status = 'succeeded'")
    severity, found, do = doctor.one("vacuum")
    assert (severity, do.endswith("then: vacuum dbdurable.ready.")) == ("warning", True)
    assert found == "dbdurable.ready has 400 dead rows and 0 live ones; it was vacuumed last: never"
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("vacuum dbdurable.ready")
    assert doctor() == {}


def test_updates_that_are_not_hot(doctor: Doctor, database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_tables, "UPDATES_MIN", 200)
    with psycopg.connect(database_url, autocommit=True) as writer:
        writer.execute("create index slow on dbdurable.workflow (status)")
        tickets(writer, "ship", 200)
        writer.execute("delete from dbdurable.ready")
        writer.execute("update dbdurable.workflow set status = 'succeeded'")
        writer.execute("drop index dbdurable.slow")
    assert doctor.one("vacuum")[1].startswith("only 0% of 200 updates of dbdurable.workflow stayed on their page (HOT)")


# ---- the work ----------------------------------------------------------------------------------------------


def test_work_that_no_executor_takes(doctor: Doctor, connection: Connection):
    tickets(connection, "ship", 3)
    severity, found, _ = doctor.one("unclaimable")
    assert (severity, found.startswith("no executor is alive, and work is ready: 3 workflows")) == ("error", True)
    executor(connection, ["ship"], ["default", "mail"])
    executor(connection, ["bill"], ["slow"])
    assert doctor() == {}
    tickets(connection, "old name", 1)
    tickets(connection, "ship", 2, "nobody's")
    tickets(connection, "bill", 1, "mail")
    findings = doctor()["unclaimable"]
    assert [severity for severity, _, _ in findings] == ["error"] * 3
    assert [found.partition(", ready for up to ")[0] for _, found, _ in findings] == [
        "no living executor has a workflow of this name: 1 workflow of 'old name' in queue 'default'",
        "no living executor serves this queue and has this workflow: 1 workflow of 'bill' in queue 'mail'",
        "no living executor serves this queue: 2 workflows of 'ship' in queue \"nobody's\"",
    ]
    assert all(do for _, _, do in findings)


def test_only_the_heads_of_queues_are_counted_unless_deep(
    doctor: Doctor, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor_work, "HEAD_OF_A_LINE", 50)
    executor(connection, ["ship"], ["default"])
    tickets(connection, "gone", 80)
    assert "at least 50 workflows of 'gone'" in doctor.one("unclaimable")[1]
    assert ": 80 workflows of 'gone'" in doctor.one("unclaimable", "--deep")[1]


def test_dead_executors(doctor: Doctor, connection: Connection):
    owner = executor(connection, ["ship"], ["default"], dies_in_s=-5)
    severity, found, _ = doctor.one("executors")
    assert severity == "note"
    assert re.fullmatch(r"box:7 is dead \(its lease ended \d+ s ago\); it holds nothing", found)
    hold(connection, owner, tickets(connection, "ship", 2))
    severity, found, _ = doctor.one("executors")
    assert severity == "error"
    assert "ago) and held 2 workflows; nobody is alive to take over" in found
    executor(connection, ["ship"], ["default"])
    severity, found, _ = doctor.one("executors")
    assert severity == "note"
    assert found.endswith(" ago); 2 workflows of it will be taken over in a moment")
    connection.execute(
        "update dbdurable.executor set expires_at = expires_at - interval '2 min' where id = %s", [owner]
    )
    severity, found, _ = doctor.one("executors")
    assert severity == "error"
    assert found == "box:7 is dead (its lease ended 2 min ago) and held 2 workflows that nobody takes over"
    connection.execute("delete from dbdurable.executor where id = %s", [owner])
    assert doctor.one("executors")[1].startswith(
        "an executor that is not registered any more is dead; 2 workflows of it"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("delete from dbdurable.ready", "1 workflow queued with neither a ticket nor a time to start: ship "),
        (
            "delete from dbdurable.ready; insert into dbdurable.wait (workflow_id, path, kind, due) "
            "select id, '!', 'expiry', now() from dbdurable.workflow where status = 'queued'",
            "1 workflow queued with neither",
        ),
        ("update dbdurable.lease set ids = ids[2:]", "1 workflow running without a lease: ship "),
        (
            "update dbdurable.lease set executor_id = (select id from dbdurable.executor where host = 'other')",
            "3 workflows running without a lease: ship ",
        ),
        (
            "update dbdurable.workflow set status = 'waiting' where status = 'queued'; delete from dbdurable.ready",
            "1 workflow waiting for nothing that is recorded: ship ",
        ),
        (
            "update dbdurable.workflow set status = 'failed' where status = 'queued'; delete from dbdurable.ready",
            "2 workflows failed, but in no list of such: ship ",
        ),
    ],
)
def test_stranded_work(doctor: Doctor, connection: Connection, monkeypatch: pytest.MonkeyPatch, change: str, says: str):
    monkeypatch.setattr(doctor_work, "AGAIN_S", 0.01)
    owner = executor(connection, ["ship"], ["default"])
    executor(connection, ["ship"], ["default"], host="other")
    hold(connection, owner, tickets(connection, "ship", 3))
    tickets(connection, "ship")
    connection.execute(
        "select dbdurable.start('ship', '{}', registered => true, known_queue => true, delay => interval '1 day')"
    )
    assert doctor() == {}
    connection.execute(change)  # type: ignore[arg-type]
    for options in ([], ["--deep"]):
        severity, found, do = doctor.one("stranded", *options)
        assert (severity, says in found) == ("error", True), found
        assert "please report it" in do


def test_only_the_newest_are_looked_at_unless_deep(
    doctor: Doctor, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor_work, "AGAIN_S", 0.01)
    monkeypatch.setattr(doctor_work, "NEWEST", 5)
    executor(connection, ["ship"], ["default"])
    oldest, *_ = sorted(tickets(connection, "ship", 10))
    connection.execute("delete from dbdurable.ready where workflow_id = %s", [oldest])
    assert doctor() == {}
    assert str(oldest) in doctor.one("stranded", "--deep")[1]


def test_too_many_tickets_to_compare(doctor: Doctor, connection: Connection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_work, "TICKETS_BYTES_MAX", 0)
    executor(connection, ["ship"], ["default"])
    tickets(connection, "ship", 3)
    assert doctor.one("stranded")[0] == "note"
    assert "--deep" in doctor.one("stranded")[2]
    assert doctor("--deep") == {}


def test_limits_that_do_not_add_up(doctor: Doctor, connection: Connection):
    owner = executor(connection, ["ship"], ["default"])
    connection.execute("update dbdurable.queue set concurrency = 5, per_partition = 2 where name = 'default'")
    connection.execute(
        "insert into dbdurable.limit_key (queue, partition, used) values ('default', '', 3), ('default', 'it''s', 1)"
    )
    ids = tickets(connection, "ship", 3)
    hold(connection, owner, ids, [""])
    connection.execute("update dbdurable.workflow set slots = array['', 'it''s'] where id = %s", [ids[0]])
    assert doctor() == {}
    connection.execute("update dbdurable.limit_key set used = 4 where partition = ''")
    severity, found, _ = doctor.one("limits")
    assert (severity, found) == ("error", "the limit of queue 'default' says that 4 are taken, but 3 are")
    connection.execute("update dbdurable.limit_key set used = 3 where partition = ''")
    connection.execute("update dbdurable.limit_key set used = 0 where partition > ''")
    _, found, do = doctor.one("limits", "--deep")
    assert found == "the limit of queue 'default', partition \"it's\" says that 0 are taken, but 1 are"
    assert "set used = 0 where queue = 'default' and partition = 'it''s'" in do


def test_what_wants_attention(doctor: Doctor, connection: Connection):
    executor(connection, ["ship"], ["default", "mail"])
    ids = tickets(connection, "ship", 4)
    connection.execute("delete from dbdurable.ready")
    for id, status in zip(ids, ["failed", "failed", "blocked", "paused"], strict=True):
        connection.execute("update dbdurable.workflow set status = %s where id = %s", [status, id])
        connection.execute(
            "insert into dbdurable.attention (workflow_id, status, reason) values (%s, %s, 'why')", [id, status]
        )
    tickets(connection, "ship", 1, "mail")
    connection.execute("update dbdurable.queue set paused = true")
    findings = doctor()
    assert list(findings) == ["attention"]
    assert [(severity, found) for severity, found, _ in findings["attention"]] == [
        ("warning", "1 blocked, the oldest just now: the code no longer fits what they recorded"),
        ("warning", "2 failed, the oldest just now"),
        ("note", "1 paused, the oldest just now"),
        ("note", "queue 'mail' is paused and has work"),
    ]


def test_signs_of_two_applications(doctor: Doctor, connection: Connection):
    executor(connection, ["bill", "ship"], ["default"], pid=1)
    executor(connection, ["ship"], ["default"], pid=2)  # a part of the first: a worker for some functions
    executor(connection, ["report"], ["default"], pid=3)  # shares nothing
    executor(connection, ["ship", "gone"], ["default"], pid=4, dies_in_s=-999)
    assert set(doctor()) == {"executors"}
    executor(connection, ["ship", "shop"], ["default"], pid=5)
    severity, found, do = doctor()["applications"][0]
    assert severity == "note"
    assert found == "box:1 and box:5 share ship, but only the first has bill and only the second shop"
    assert "DBDURABLE_SCHEMA" in do


def test_two_versions_of_the_package(doctor: Doctor, connection: Connection):
    executor(connection, ["ship"], ["default"], version="0.1.0")
    executor(connection, ["ship"], ["default"], version="0.2.0")
    assert doctor.one("applications")[1] == "living executors run different versions of dbdurable: 0.1.0, 0.2.0"
