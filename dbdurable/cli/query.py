"""`sql`: ad-hoc questions to the documented views, which can neither change nor block anything."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbdurable.cli.app import Json, Schema, Url
from dbdurable.cli.output import console, one_line, print_json, print_table, status_text
from dbdurable.cli.target import target

if TYPE_CHECKING:
    from dbdurable._executor.runtime import Runtime

__all__ = ["sql"]

COLUMN_WIDTH_MIN = 12
"""Where columns would be narrower, each row is printed as a table of its own."""


def sql(
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT; - reads it from stdin.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many rows.")] = 200,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, max=3600, help="Seconds.")] = 10,
    url: Url = None,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Query workflows, steps, failures and executors with SQL, read-only.

    Example: dbdurable sql "select name, status, count(*) from workflows group by 1, 2"
    """
    from dbdurable._core.sql_guard import check_query
    from dbdurable._sql.inspect import CATALOG

    text = sys.stdin.read() if query == "-" else query
    with target(url, schema) as database:
        catalog: dict[str, dict[str, str]] = {}
        for view, column, type in database.rows(CATALOG):
            catalog.setdefault(view, {})[column] = type
        check_query(text, catalog, database.runtime.settings.schema_name)
        columns, rows = _run(database.runtime, text, limit, timeout)
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        print_json([dict(zip(columns, map(_plain, row), strict=True)) for row in rows])
    else:
        _print_table(columns, rows)
    if more:
        typer.echo(f"only the first {limit} rows; --limit shows more", err=True)


def _run(runtime: Runtime, text: str, limit: int, timeout_s: float) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The rows, and one more than `limit` if there are more."""
    import psycopg

    from dbdurable._core.sql_guard import wrapped
    from dbdurable._io.connect import connect, connection_error
    from dbdurable._sql.inspect import SESSION_OF_A_QUERY
    from dbdurable.errors import BadArgument

    database = runtime.database
    with connect(database.url) as connection:
        connection.read_only = True
        cursor = psycopg.RawCursor(connection)
        try:
            with connection.transaction():
                cursor.execute(database.text(SESSION_OF_A_QUERY), [f"{timeout_s * 1000:.0f}"])
                # Prepared: the extended protocol takes one statement only, whatever the parser thought.
                cursor.execute(wrapped(text, limit).encode(), prepare=True)
                assert cursor.description is not None
                return [column.name for column in cursor.description], cursor.fetchall()
        except psycopg.errors.QueryCanceled:
            raise BadArgument(f"the query took longer than {timeout_s:g} s; --timeout allows more") from None
        except psycopg.Error as error:
            if connection.closed:
                raise connection_error(error, database.url) from None
            hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
            raise BadArgument(f"PostgreSQL says: {error.diag.message_primary or error}{hint}") from None


def _print_table(columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    screen = console()
    if not rows:
        typer.echo("no rows")
    elif len(columns) * COLUMN_WIDTH_MIN > screen.width:
        for number, row in enumerate(rows, start=1):
            screen.rule(f"row {number}", align="left", style="dim")
            print_table(["column", "value"], zip(columns, map(_cell, row), strict=True), whole=["column"])
    else:
        # Texts and JSON may be cut where it is narrow; ids, times and numbers not.
        whole = [
            column
            for at, column in enumerate(columns)
            if column == "status" or not any(isinstance(row[at], str | dict | list) for row in rows)
        ]
        status = columns.index("status") if "status" in columns else -1
        cells = [
            [status_text(_cell(value)) if at == status else _cell(value) for at, value in enumerate(row)]
            for row in rows
        ]
        print_table(columns, cells, whole=whole)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds")
        case dict() | list():
            return one_line(value)
        case _:
            return one_line(str(value))


def _plain(value: Any) -> Any:
    """As JSON has it."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case None | bool() | int() | float() | str() | dict() | list():
            return value
        case _:
            return str(value)
