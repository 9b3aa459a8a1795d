"""Migrations: applied once whoever races, and a sentence whenever the database is not what it should be."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from hashlib import sha256
from typing import Any

import psycopg
import pytest

from dbdurable._io import migrate as runner
from dbdurable._io.migrate import check, load_migrations, migrate, migration_sql, pending
from dbdurable._io.migration_files import Migration
from dbdurable.errors import DatabaseUnavailable

Connection = psycopg.Connection[Any]
ALL = [m.name for m in load_migrations()]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, not slept."""
    pauses: list[float] = []
    monkeypatch.setattr(runner, "_pause", pauses.append)
    return pauses


def file(version: int, text: str) -> Migration:
    return Migration(version, f"{version:04}_test.sql", text, sha256(text.encode()).hexdigest())


def catalog(connection: Connection, schema: str) -> list[Any]:
    """What a schema consists of, as text, without its name."""
    rows = connection.execute(
        """
        select 'column', c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
               a.attnotnull::text, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
               array_to_string(c.reloptions, ',')
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = %(schema)s::regnamespace
        union all
        select 'index', tablename, indexname, indexdef, '', '', '' from pg_indexes where schemaname = %(name)s
        union all
        select 'view', viewname, definition, '', '', '', '' from pg_views where schemaname = %(name)s
        union all
        select 'function', proname, pg_get_functiondef(oid), '', '', '', ''
        from pg_proc where pronamespace = %(schema)s::regnamespace
        union all
        select 'type', t.typname, e.enumlabel, '', '', '', ''
        from pg_type t join pg_enum e on e.enumtypid = t.oid where t.typnamespace = %(schema)s::regnamespace
        union all
        select 'comment', objoid::regclass::text, description, '', '', '', '' from pg_description
        join pg_class c on c.oid = objoid and c.relnamespace = %(schema)s::regnamespace
        order by 1, 2, 3, 4
        """,
        {"schema": f'"{schema}"', "name": schema},
    ).fetchall()
    names = re.compile(rf'"?\b{schema}\b"?')
    return [tuple(names.sub("S", str(cell)) for cell in row) for row in rows]


# ---- applying ----------------------------------------------------------------------------------------------


def test_files_are_numbered_and_carry_the_token():
    migrations = load_migrations()
    assert [m.version for m in migrations] == list(range(1, len(migrations) + 1))
    for m in migrations:
        assert "{schema}" in m.text
        assert "{schema}" not in m.sql("dbdurable")


def test_applies_everything_once(empty_connection: Connection, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="dbdurable.migrate")
    assert [m.name for m in pending(empty_connection, "dbdurable")] == ALL
    assert migrate(empty_connection, "dbdurable") == ALL
    assert [r.getMessage().split()[1] for r in caplog.records] == ALL
    assert migrate(empty_connection, "dbdurable") == []
    assert pending(empty_connection, "dbdurable") == []
    check(empty_connection, "dbdurable")
    rows = empty_connection.execute(
        "select version, name, duration_ms >= 0 from dbdurable.migration order by 1"
    ).fetchall()
    assert rows == [(n, name, True) for n, name in enumerate(ALL, 1)]


def test_up_to_date_is_one_round_trip_without_a_lock(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    statements: list[str] = []
    execute = runner._execute

    def counted(conn: Connection, text: str) -> Any:
        statements.append(text)
        return execute(conn, text)

    monkeypatch.setattr(runner, "_execute", counted)
    assert migrate(connection, "dbdurable") == []
    assert len(statements) == 1
    assert "lock" not in statements[0]


def test_twenty_processes_start_at_once(empty_database_url: str):
    program = (
        "import sys, psycopg\n"
        "from dbdurable._io.migrate import migrate\n"
        "with psycopg.connect(sys.argv[1], autocommit=True) as c:\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    print(len(migrate(c, 'dbdurable')))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(counts) == [0] * 19 + [len(ALL)]


def test_dict_rows_and_serializable_defaults_do_no_harm(empty_connection: Connection):
    empty_connection.row_factory = psycopg.rows.dict_row
    empty_connection.execute("set default_transaction_isolation = 'serializable'")
    empty_connection.execute("set search_path = ''")
    assert migrate(empty_connection, "dbdurable") == ALL


def test_a_failing_file_leaves_nothing_behind(empty_connection: Connection):
    files = [file(1, "create table {schema}.one ()"), file(2, "select 1/0")]
    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        migrate(empty_connection, "app", files)
    assert "while applying 0002_test.sql" in caught.value.__notes__
    assert empty_connection.execute("select to_regnamespace('app')").fetchone() == (None,)


def test_file_without_a_transaction(empty_connection: Connection):
    text = (
        "-- transaction: no\ncreate table if not exists {schema}.one (a int)\n-- statement\n"
        "create index concurrently if not exists one_a on {schema}.one (a)\n-- statement\n-- the end\n"
    )
    files = [file(1, "create table {schema}.zero ()"), file(2, text), file(3, "create table {schema}.two ()")]
    assert migrate(empty_connection, "app", files) == [f.name for f in files]
    assert empty_connection.execute(
        "select indisvalid from pg_index where indrelid = 'app.one'::regclass"
    ).fetchone() == (True,)
    locks = """
        select count(*) from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()
         where l.locktype = 'advisory'
    """
    assert empty_connection.execute(locks).fetchone() == (0,)
    assert migrate(empty_connection, "app", files) == []


def test_waits_for_another_process(
    empty_connection: Connection,
    empty_database_url: str,
    no_pause: list[float],
    monkeypatch: pytest.MonkeyPatch,
):
    with psycopg.connect(empty_database_url, autocommit=True) as other:
        key = "hashtextextended('dbdurable:migrate:dbdurable', 0)"
        other.execute(f"select pg_advisory_lock({key})")
        monkeypatch.setattr(runner, "OTHERS_TIMEOUT_S", 0)
        with pytest.raises(DatabaseUnavailable, match="another process"):
            migrate(empty_connection, "dbdurable")
        assert migrate(empty_connection, "elsewhere") == ALL  # other schemas are other locks

        def pause_once(_: float) -> None:
            other.execute(f"select pg_advisory_unlock({key})")

        monkeypatch.setattr(runner, "OTHERS_TIMEOUT_S", 60)
        monkeypatch.setattr(runner, "_pause", pause_once)
        assert migrate(empty_connection, "dbdurable") == ALL


def test_a_locked_table_is_tried_again_and_then_told(
    empty_connection: Connection,
    empty_database_url: str,
    no_pause: list[float],
    monkeypatch: pytest.MonkeyPatch,
):
    first, second = file(1, "create table {schema}.one ()"), file(2, "alter table {schema}.one add b int")
    migrate(empty_connection, "app", [first])
    monkeypatch.setattr(runner, "SETTINGS", "set local lock_timeout = '5ms'")
    with psycopg.connect(empty_database_url) as other:
        other.execute("lock table app.one")
        with pytest.raises(DatabaseUnavailable, match="somebody holds a lock on its tables"):
            migrate(empty_connection, "app", [first, second])
        assert len(no_pause) == runner.LOCK_ATTEMPTS - 1
        monkeypatch.setattr(runner, "_pause", lambda _: other.rollback())
        assert migrate(empty_connection, "app", [first, second]) == [second.name]


def test_line_ends_are_no_edit(tmp_path: Any):
    from dbdurable._io.migration_files import _load

    for name, end in (("unix", b"\n"), ("windows", b"\r\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0001_a.sql").write_bytes(b"select 1;" + end + b"select 2;" + end)
    assert _load(tmp_path / "unix") == _load(tmp_path / "windows")


def test_gaps_in_the_numbers_are_found(tmp_path: Any):
    from dbdurable._io.migration_files import _load

    (tmp_path / "0002_a.sql").write_text("select 1")
    with pytest.raises(RuntimeError, match="0002_a"):
        _load(tmp_path)


def test_two_applications_in_one_database(empty_connection: Connection):
    assert migrate(empty_connection, "app_a") == ALL
    assert [m.name for m in pending(empty_connection, "app_b")] == ALL
    assert migrate(empty_connection, "app_b") == ALL
    before = catalog(empty_connection, "app_b")
    assert before == catalog(empty_connection, "app_a")
    empty_connection.execute("drop schema app_a cascade")
    check(empty_connection, "app_b")
    assert before == catalog(empty_connection, "app_b")


def test_the_script_makes_what_migrate_makes(empty_connection: Connection):
    migrate(empty_connection, "app_a")
    empty_connection.execute(migration_sql("app_b").encode())
    check(empty_connection, "app_b")
    assert catalog(empty_connection, "app_a") == catalog(empty_connection, "app_b")
    ledgers = [
        empty_connection.execute(f"select version, name, checksum from {schema}.migration order by 1").fetchall()
        for schema in ("app_a", "app_b")
    ]
    assert ledgers[0] == ledgers[1]


def test_the_script_for_an_upgrade_holds_only_what_is_new():
    script = migration_sql("app", after=1)
    assert ALL[0] not in script
    assert all(name in script for name in ALL[1:])
    assert script.endswith("commit;\n")
