"""`db`: the embedded PostgreSQL of the current project, by hand."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dbdurable._embedded import EmbeddedServer

__all__ = ["app"]

app = typer.Typer(
    help="The embedded PostgreSQL of the project around the current directory.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def start() -> None:
    """Start it, and keep it up until `db stop`."""
    url = _kept()
    typer.echo(f"running at {url} until `dbdurable db stop`")


@app.command()
def stop() -> None:
    """Stop it now, for all that use it; the data stays."""
    from dbdurable._embedded import EmbeddedServer, default_location
    from dbdurable.cli.hold import let_go

    location = default_location()
    let_go(location)
    stopped = EmbeddedServer(location).stop()
    typer.echo(f"stopped; the data stays at {location}" if stopped else "it was not running")


@app.command()
def url() -> None:
    """Print its URL; it is started if need be, and stays up until `db stop`."""
    typer.echo(_kept())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENTS]...", help="Passed on to psql.", show_default=False)
    ] = None,
) -> None:
    """Open psql on it; it is started if need be, and stays up as long as psql runs."""
    from dbdurable._embedded import find_binaries
    from dbdurable.cli.hold import share
    from dbdurable.errors import DatabaseUnavailable

    program = find_binaries() / "psql"
    if not os.access(program, os.X_OK):
        raise DatabaseUnavailable(f"there is no psql at {program}: install PostgreSQL's client programs")
    server = _server()
    share(server.data)  # inherited: psql now is a user of the server
    os.execv(program, [str(program), *(arguments or []), server.url])  # noqa: S606 - the found binaries


def _kept() -> str:
    from dbdurable.cli.hold import hold

    server = _server()
    hold(server.data)
    return server.url


def _server() -> EmbeddedServer:
    from dbdurable._embedded import start_default

    # Its one warning tells an application which database it has got; here that is what was asked for.
    logging.getLogger("dbdurable").setLevel(logging.ERROR)
    if any(os.environ.get(name) for name in ("DBDURABLE_DATABASE_URL", "DATABASE_URL")):
        typer.echo("note: a database URL is set, so applications use that and not this server", err=True)
    return start_default()
