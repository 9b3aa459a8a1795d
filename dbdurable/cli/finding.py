"""What a check of `doctor` finds, and what it is given to look with."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from dbdurable._sql.statement import Statement

__all__ = ["Finding", "Patient", "Severity", "error", "note", "some", "warning"]

WALK_TIMEOUT_S = 30


class Severity(StrEnum):
    """How bad it is: only errors make the exit status 1."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """What was found, and one sentence on what to do."""

    severity: Severity
    found: str
    do: str
    check: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def error(found: str, do: str) -> Finding:
    """Something is wrong."""
    return Finding(Severity.ERROR, found, do)


def warning(found: str, do: str) -> Finding:
    """Something becomes a problem, or wants somebody's decision."""
    return Finding(Severity.WARNING, found, do)


def note(found: str, do: str) -> Finding:
    """Good to know."""
    return Finding(Severity.NOTE, found, do)


def some(names: Collection[str], most: int) -> str:
    """The first of them, in order, and how many more there are.

    Example:
        >>> some(["b", "a", "c"], 2)
        'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(sorted(names)[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass
class Patient:
    """One schema of one database, looked at over one connection."""

    connection: psycopg.Connection[Any]
    listen_url: str | None
    schema: str
    server: dict[str, Any]
    deep: bool = False
    old_s: float = 300.0

    def rows(self, statement: Statement, *params: object) -> list[tuple[Any, ...]]:
        """What a statement answers."""
        cursor = psycopg.RawCursor(self.connection)
        return cursor.execute(statement.render(self.schema).encode(), params or None).fetchall()

    def objects(self, statement: Statement, *params: object) -> list[dict[str, Any]]:
        """The rows of a statement that answers JSON objects."""
        return [json.loads(text) for (text,) in self.rows(statement, *params)]

    @contextmanager
    def walking(self) -> Iterator[None]:
        """Statements that must walk an index, whatever the statistics say; not when all is to be read."""
        from dbdurable._sql.tickets import WALK_SETTINGS

        if self.deep:
            yield
            return
        with self.connection.transaction():
            self.rows(WALK_SETTINGS, f"{WALK_TIMEOUT_S}s")
            yield
