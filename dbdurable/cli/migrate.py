"""`migrate`: brings the tables to this package's version, or says what would."""

from __future__ import annotations

from typing import Annotated

import typer

from dbdurable.cli.app import Schema, Url, chosen

__all__ = ["migrate"]


def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the script for psql instead; connects nowhere.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look: status 1 if something is pending.")] = False,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Create or upgrade the tables; safe to run from many places at once."""
    from dbdurable._io.connect import connect, resolve_url
    from dbdurable._io.migrate import check as check_schema
    from dbdurable._io.migrate import migrate as apply
    from dbdurable._io.migration_files import migration_sql
    from dbdurable.errors import BadArgument
    from dbdurable.settings import load_settings

    if sql and check:
        raise BadArgument("pass one of --sql and --check")
    url, schema = chosen(url, schema)
    settings = load_settings(url, schema=schema)
    name = settings.schema_name
    if sql:
        print(migration_sql(name), end="")
        return
    with connect(resolve_url(settings)) as connection:
        if check:
            check_schema(connection, name)
            applied = []
        else:
            applied = apply(connection, name)
    for file in applied:
        typer.echo(f"applied {file}")
    typer.echo(f"schema {name!r} is up to date")
