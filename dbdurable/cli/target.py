"""The application that a command talks to, and what it reads from there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dbdurable.cli.app import chosen

if TYPE_CHECKING:
    from dbdurable._executor.runtime import Runtime
    from dbdurable._sql.statement import Statement
    from dbdurable.client import Client

__all__ = ["Target", "target"]

PREFIX_DIGITS_MIN = 6


class Target:
    """One schema of one database."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @property
    def client(self) -> Client:
        """A client of it."""
        from dbdurable.client import Client

        return Client.of(self.runtime)

    def rows(self, statement: Statement, *params: object) -> list[tuple[Any, ...]]:
        """What a statement answers."""
        from dbdurable._protocol.start import resend

        return self.runtime.drive(resend(statement, *params))

    def objects(self, statement: Statement, *params: object) -> list[dict[str, Any]]:
        """The rows of a statement that answers JSON objects."""
        return [json.loads(text) for (text,) in self.rows(statement, *params)]

    def id_of(self, text: str) -> UUID:
        """The workflow's id, which may be given by its first digits.

        Raises:
            BadArgument: It is no UUID, nor a prefix of one that only one workflow has.
            UnknownWorkflow: No workflow's id begins so.
        """
        from dbdurable._sql.inspect import FIND_BY_PREFIX
        from dbdurable.errors import BadArgument, UnknownWorkflow

        digits = text.strip().replace("-", "").lower()
        if not re.fullmatch(r"[0-9a-f]{1,32}", digits) or len(digits) < PREFIX_DIGITS_MIN:
            raise BadArgument(
                f"{text[:50]!r} is no workflow id: pass a UUID, or at least its first {PREFIX_DIGITS_MIN} digits"
            )
        found = self.rows(FIND_BY_PREFIX, UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
        if not found:
            raise UnknownWorkflow(
                f"no workflow in schema {self.runtime.settings.schema_name!r} has an id that begins with {text}; "
                "`dbdurable list` shows the newest"
                if len(digits) < 32
                else f"there is no workflow {UUID(digits)} in schema {self.runtime.settings.schema_name!r}"
            )
        if len(found) > 1:
            shown = "".join(f"\n  {id}  {name} ({status})" for id, name, status in found[:5])
            more = "\n  ..." if len(found) > 5 else ""
            raise BadArgument(f"more than one id begins with {text}; write more of it:{shown}{more}")
        return UUID(found[0][0])


@contextmanager
def target(url: str | None, schema: str | None) -> Iterator[Target]:
    """The database that the options, else the environment, name; its tables are checked, never changed."""
    from dbdurable._executor.runtime import Configuration, Runtime

    url, schema = chosen(url, schema)
    runtime = Runtime(Configuration(url=url, schema=schema, migrate=False))
    try:
        yield Target(runtime)
    finally:
        runtime.database.close()
