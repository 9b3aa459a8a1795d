"""Every statement of the library, on the migrated database: it can be prepared, and depends on no search_path."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import dbdurable._sql
from dbdurable._sql.statement import ALL, SCHEMA_TOKEN

for _module in pkgutil.iter_modules(dbdurable._sql.__path__):
    importlib.import_module(f"dbdurable._sql.{_module.name}")

TABLES = {
    "workflow", "workflow_key", "definition", "ready", "step", "executor", "lease", "wait", "attention", "message",
    "event", "stream", "queue", "limit_key", "schedule", "audit", "migration",
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_it_prepares_with_an_empty_search_path(name: str, connection: psycopg.Connection[Any]) -> None:
    connection.execute("select set_config('search_path', '', false)")
    connection.execute(sql.SQL("prepare it as ") + sql.SQL(ALL[name].render("dbdurable")))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
def test_it_works_in_any_schema(name: str, empty_connection: psycopg.Connection[Any]) -> None:
    text = ALL[name].render('od"d')
    assert SCHEMA_TOKEN not in text
    assert "dbdurable." not in text.replace("dbdurable.step'", "").replace("'dbdurable.errors'", ""), text


@pytest.mark.parametrize("name", ALL)
def test_its_columns_are_named_and_its_tables_qualified(name: str) -> None:
    text = re.sub(r"--[^\n]*", "", ALL[name].text)
    # A column that is added later breaks the prepared statements of every live connection.
    assert not re.search(r"select\s+(\w+\.)?\*(?!\s*,\s*\(w\.executor_id)", _without_local_stars(text)), "select *"
    for found in re.finditer(r"\b(?:from|join|into|update|using)\s+(?!only\b)([a-z_]+)\b(?!\s*\()", text):
        assert found[1] not in TABLES, f"{found[0]}: without its schema"


def _without_local_stars(text: str) -> str:
    """`x.*` of a common table expression or of unnest() names the columns that the statement itself listed."""
    local = set(re.findall(r"(\w+)\s+as\s+(?:not\s+)?(?:materialized\s+)?\(", text))
    local |= set(re.findall(r"as\s+(\w+)\([^)]*\)", text))
    return re.sub(r"\b(" + "|".join(sorted(local) or ["_"]) + r")\.\*", r"\1.columns", text)


def test_all_sql_of_the_library_is_there() -> None:
    """Nothing else than `_sql`, the migrations' runner and connection set-up holds statements on our tables."""
    root = Path(dbdurable._sql.__file__).parents[1]
    words = re.compile(r"\b(insert into|delete from|update|from|join)\s+\{schema\}", re.IGNORECASE)
    holders = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if words.search(path.read_text()) and path.parent.name != "_sql"
    }
    assert holders <= {"_io/migrate.py", "_io/migration_files.py"}, holders
