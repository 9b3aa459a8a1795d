"""The application that the commands register with: global options, and errors as one sentence."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dbdurable.__about__ import __version__

__all__ = ["Json", "Schema", "Url", "app", "choose", "chosen", "fail"]

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database; else DBDURABLE_DATABASE_URL, DATABASE_URL, the embedded one.",
    ),
]
Schema = Annotated[
    str | None,
    typer.Option("--schema", metavar="NAME", help="The schema of the tables; else DBDURABLE_SCHEMA."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Commands(TyperGroup):
    """The top group: a mistake is answered with one sentence and status 1; the help has headings."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from dbdurable.errors import DurableError  # imports asyncio

            if not isinstance(error, DurableError):
                raise
            fail(str(error))
            raise typer.Exit(1) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands of the help, under the headings that they were registered with."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            heading = command.rich_help_panel if isinstance(command.rich_help_panel, str) else "Commands"
            sections.setdefault(heading, []).append((name, command.get_short_help_str(formatter.width - 20)))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def fail(message: str) -> None:
    """One sentence on stderr, red where that is a terminal; passwords in it are masked."""
    from dbdurable.settings import mask_url

    typer.secho(mask_url(message), fg="red" if sys.stderr.isatty() else None, err=True)


app = typer.Typer(
    name="dbdurable",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs 0.2 s of imports
    pretty_exceptions_enable=False,  # its tracebacks show local variables: passwords
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_chosen: dict[str, str | None] = {}


@app.callback()
def options(
    url: Url = None,
    schema: Schema = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Durable execution on PostgreSQL: look after workflows, run workers, query with SQL.

    --url and --schema go before or after the command's name.
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit()
    _chosen.update(url=url, schema=schema)
    # The library's warnings (which embedded server is used, ...) as lines without decoration.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


def choose(url: str | None, schema: str | None) -> None:
    """Keeps the options that stand before the name of a subcommand; later ones win."""
    _chosen.update({name: value for name, value in (("url", url), ("schema", schema)) if value is not None})


def chosen(url: str | None, schema: str | None) -> tuple[str | None, str | None]:
    """The options of the command, else those that stood before its name."""
    return url or _chosen.get("url"), schema or _chosen.get("schema")
