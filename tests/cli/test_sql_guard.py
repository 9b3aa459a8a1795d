"""Which SQL may run, what is said about the rest, and that what runs can change nothing."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from dbdurable._core.sql_guard import check_query, wrapped
from dbdurable._sql.inspect import CATALOG
from dbdurable.errors import BadArgument
from tests.cli.conftest import Cli, Shop

# ruff: noqa: E501
ALLOWED = """
select status, count(*) from workflows group by 1 order by 2 desc
select id, name from dbdurable.workflows where status in ('failed', 'blocked')
select w.name, percentile_cont(0.95) within group (order by extract(epoch from s.duration)) from workflows w join steps s on s.workflow_id = w.id where w.created_at > now() - interval '1 day' group by 1
with slow as (select workflow_id, max(duration) as d from steps group by 1) select * from slow join workflows on workflows.id = slow.workflow_id order by d desc
select input ->> 'order_id' as o, e.key, e.value from workflows, lateral jsonb_each(input) e
select x.key from workflows cross join lateral jsonb_each(workflows.input) as x(key, value) where x.key like 'o%'
select date_bin('5 min', created_at, 'epoch') as b, count(*) from workflows group by 1
select g from generate_series(1, 3) g
select to_jsonb(w) from workflows w
select w.* from workflows w where input @> '{"order_id": 42}' and not input ? 'x'
select (select count(*) from steps where steps.workflow_id = w.id) as n, name from workflows w union all select 1, 'x'
select count(*) filter (where status = 'failed') over (partition by name) from workflows
select distinct on (name) name, id from workflows order by name, id desc
with recursive t(n) as (values (1) union all select n + 1 from t where n < 5) select sum(n) from t
select case when status = 'failed' then 1 else 0 end, coalesce(reason, ''), greatest(1, 2) from workflows
select created_at at time zone 'UTC', extract(dow from created_at) from workflows
select Name from Workflows W where W.Status like '%ed'
select array(select name from workflows), unnest(string_to_array('a,b', ','))
select random(), gen_random_uuid(), clock_timestamp(), current_user
select 'a\\' as "; drop table workflow", $$b$$, E'c\\'d' -- ) and a comment;
select 1;
table failures
"""

REFUSED = {
    "delete from workflows": "only SELECT (or WITH ... SELECT) may run here, not DELETE",
    "with d as (delete from workflows returning *) select * from d": "only SELECT may run here",
    "insert into workflows values (1)": "not INSERT",
    "copy workflows to '/tmp/x'": "not COPY",
    "explain analyze delete from workflows": "not EXPLAIN",
    "do $$ begin end $$": "not DO",
    "listen x": "not LISTEN",
    "set statement_timeout = 0": "not SET",
    "begin": "not BEGIN",
    "values (1)": "not VALUES",
    "select 1; drop table workflow": "one statement, please; these are 2",
    "select 1; select 2": "one statement, please; these are 2",
    "": "there is no statement",
    "-- nothing": "there is no statement",
    "select id from workflows where": "syntax error at line 1, column 30 near “where”",
    "selct 1": "syntax error",
    "select 'open": "this is not SQL",
    "select 1) as q, (select pg_sleep(1)": "syntax error",
    "select * from workflows for update": "they would hold up executors",
    "select * into x from workflows": "SELECT INTO is not allowed",
    "select * from workflows where id = $1": "write the value",
    "select * from workflows where id = %s": "write the value",
    "select * from runs": "no table “runs” - there are: executors, failures, queues, steps, unclaimable, waiting, workflows",
    "select * from workflow": "no table “workflow” - did you mean “workflows”?",
    "select * from pg_shadow": "no table “pg_shadow”",
    "select * from public.users": "only the views of schema “dbdurable” can be read",
    "select * from other.dbdurable.workflows": "only the views of schema",
    "select * from workflows w, pg_stat_activity": "no table “pg_stat_activity”",
    "select 1 limit (select count(*) from pg_class)": "no table “pg_class”",
    "select 1 from workflows order by (select 1 from pg_class)": "no table “pg_class”",
    "select (with pg_shadow as (select 1) select 1 from pg_shadow), p from pg_shadow": "no table “pg_shadow”",
    "select * from xmltable('/a' passing (select '<a/>' from pg_class) columns x text path '.')": "pg_class",
    "select nam from workflows": "no column “nam” - did you mean “name”?",
    "select w.foo from workflows w": "no column “foo”",
    "select x.id from workflows w": "no column “id” in “x”",
    "select id from workflows w, failures f": "column “id” is in more than one of the tables",
    "select pg_sleep(100)": "function pg_sleep() is not on the list",
    "select set_config('transaction_read_only', 'off', false)": "function set_config()",
    "select query_to_xml('delete from workflow', true, true, '')": "function query_to_xml()",
    "select * from dblink('x', 'y') as t(a int)": "function dblink()",
    "select dbdurable.cancel(id) from workflows": "write functions without a schema's name",
    "select * from evil.lower('x')": "write functions without a schema's name",
    "select 1 operator(evil.+) 2": "write the plain operator",
    "select * from rows from (generate_series(1, 2), pg_ls_dir('x')) a": "function pg_ls_dir()",
    "select " + "(" * 5000 + "1" + ")" * 5000: "not",
    "select " + "1," * 20_000 + "1": "characters",
}

# PostgreSQL calls them volatile, because they answer differently each time; they change nothing.
HARMLESS = {"clock_timestamp", "gen_random_uuid", "random", "timeofday"}


@pytest.fixture(scope="module")
def catalog(shop: Shop) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    with psycopg.connect(shop.url) as connection:
        for view, column, type in connection.execute(CATALOG.render("dbdurable").encode()):
            found.setdefault(view, {})[column] = type
    return found


@pytest.mark.parametrize("query", ALLOWED.strip().splitlines())
def test_allowed_and_runs(cli: Cli, shop: Shop, query: str):
    run = cli("sql", query, "--json", url=shop.url)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)


@pytest.mark.parametrize("query", REFUSED, ids=lambda query: query[:60])
def test_refused_with_a_sentence(catalog: dict[str, dict[str, str]], query: str):
    with pytest.raises(BadArgument) as caught:
        check_query(query, catalog, "dbdurable")
    assert REFUSED[query] in str(caught.value)


def test_no_function_that_changes_something_passes(catalog: dict[str, dict[str, str]], shop: Shop):
    """PostgreSQL's own list of functions decides, not ours."""
    volatile = "select distinct proname from pg_proc where provolatile = 'v' and prorettype <> 'trigger'::regtype"
    with psycopg.connect(shop.url) as connection:
        names = {name for (name,) in connection.execute(volatile)}
    assert len(names) > 200
    assert {name for name in names if passes(name, catalog)} == HARMLESS


def test_no_function_that_looks_outside_passes(catalog: dict[str, dict[str, str]], shop: Shop):
    outside = "select distinct proname from pg_proc where proname ~ '^pg_|_xml|^lo_|setting|dblink|_file|has_'"
    with psycopg.connect(shop.url) as connection:
        names = {name for (name,) in connection.execute(outside)}
    assert {name for name in names if passes(name, catalog)} == {"pg_typeof"}


def passes(function: str, catalog: dict[str, dict[str, str]]) -> bool:
    for arguments in ("", "'a'", "'a', 'b'", "1, 2, 3"):
        try:
            check_query(f"select {function}({arguments})", catalog, "dbdurable")
        except BadArgument:
            continue
        return True
    return False


# ---- running -----------------------------------------------------------------------------------------------


def test_a_table_that_fits_and_one_that_does_not(cli: Cli, shop: Shop):
    lines = cli("sql", "select id, status, name from workflows order by id", url=shop.url).stdout.splitlines()
    assert lines[0].split() == ["id", "status", "name"]
    assert lines[2].split() == [shop.ids["succeeded"], "succeeded", "checkout"]
    wide = cli("sql", "select * from workflows order by id", url=shop.url).stdout
    assert "row 4" in wide
    assert max(map(len, wide.splitlines())) <= 100


def test_json_keeps_types(cli: Cli, shop: Shop):
    values = "1 as i, 1.5 as n, true as b, null as z, input as j, interval '90 s' as d, now() as t"
    query = f"select {values} from workflows order by id limit 1"
    (row,) = json.loads(cli("sql", query, "--json", url=shop.url).stdout)
    assert row.pop("t").startswith("20")
    assert row == {"i": 1, "n": 1.5, "b": True, "z": None, "j": {"order_id": 42, "gift": True}, "d": 90.0}


def test_from_stdin_cut_at_the_limit(cli: Cli, shop: Shop):
    run = cli("sql", "-", "--limit", "2", "--json", url=shop.url, input="select id\nfrom workflows -- all\n;\n")
    assert len(json.loads(run.stdout)) == 2
    assert "only the first 2 rows" in run.stderr
    assert cli("sql", "select 1 from workflows where false", url=shop.url).stdout == "no rows\n"


def test_errors_of_postgresql_and_a_time_limit(cli: Cli, shop: Shop):
    assert "PostgreSQL says: division by zero" in cli("sql", "select 1/0", url=shop.url).stderr
    slow = cli("sql", "select count(*) from generate_series(1, 1000000000)", "--timeout", "0.05", url=shop.url)
    assert slow.exit_code == 1
    assert "took longer than 0.05 s" in slow.stderr


def test_a_teaching_error_is_what_the_user_sees(cli: Cli, shop: Shop):
    refused = cli("sql", "select * from runs", url=shop.url)
    assert refused.exit_code == 1
    assert (
        refused.stderr
        == "no table “runs” - there are: executors, failures, queues, steps, unclaimable, waiting, workflows\n"
    )


def test_what_runs_is_read_only_one_statement(shop: Shop, monkeypatch: pytest.MonkeyPatch, cli: Cli):
    """Should the parser be fooled one day, two more walls stand."""
    monkeypatch.setattr("dbdurable._core.sql_guard.check_query", lambda *_: None)
    for query, says in (
        ("select 1) as q; select (2", "syntax error"),
        ("select dbdurable.cancel(id) from workflows", "read-only transaction"),
    ):
        refused: Any = cli("sql", query, url=shop.url)
        assert refused.exit_code == 1
        assert says in refused.stderr


def test_wrapped_survives_comments_and_semicolons():
    assert wrapped("select 1 -- x", 5) == "select * from (\nselect 1 -- x\n) as q limit 6"
    assert wrapped("select ';' ; -- ;", 5) == "select * from (\nselect ';'   -- ;\n) as q limit 6"
