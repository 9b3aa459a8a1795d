"""The command line: `dbdurable --help`.

Each module here holds a few commands. Importing one must stay cheap (no psycopg, pydantic, rich, sqlglot,
asyncio: they are imported inside the commands), because all of them are imported to print the help.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The entry point `dbdurable`."""
    from dbdurable.cli.commands import app

    app()
