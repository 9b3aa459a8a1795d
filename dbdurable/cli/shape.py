"""What the migrations make, read from their text: the names of tables, columns, indexes, views and functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from dbdurable._io.migration_files import load_migrations

__all__ = ["Shape", "shape_of"]

_CREATE = re.compile(
    r"^create (?:or replace )?(?:unique )?(table|index|view|function) (?:if not exists )?"
    r"(?:concurrently )?(?:\{schema\}\.)?(\w+)",
    re.MULTILINE,
)
_DROP = re.compile(r"^drop (table|index|view|function) (?:if exists )?\{schema\}\.(\w+)", re.MULTILINE)
_TABLE = re.compile(r"^create table \{schema\}\.(\w+) \(\n(.*?)^\)", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    (\w+) +(?!key\b)[\w{]", re.MULTILINE)
_ALTER = re.compile(r"^alter table \{schema\}\.(\w+)\s+(add|drop) column (?:if (?:not )?exists )?(\w+)", re.MULTILINE)
_LEDGER = ("version", "name", "checksum", "applied_at", "duration_ms")
_NO_COLUMNS = {"primary", "constraint", "unique", "check", "foreign", "or", "and"}


@dataclass
class Shape:
    """`objects` are (kind, name); `columns` (table, column)."""

    objects: set[tuple[str, str]] = field(default_factory=set)
    columns: set[tuple[str, str]] = field(default_factory=set)


def shape_of() -> Shape:
    """What a schema at this package's version has. A test compares it with a fresh one."""
    shape = Shape({("table", "migration"), ("index", "migration_pkey")}, {("migration", name) for name in _LEDGER})
    for migration in load_migrations():
        text = re.sub(r"--[^\n]*", "", migration.text)
        shape.objects |= {(found[1], found[2]) for found in _CREATE.finditer(text)}
        for table, body in _TABLE.findall(text):
            columns = [name for name in _COLUMN.findall(body) if name not in _NO_COLUMNS]
            shape.columns |= {(table, name) for name in columns}
            if "primary key" in body:
                shape.objects.add(("index", f"{table}_pkey"))
        for table, verb, column in _ALTER.findall(text):
            (shape.columns.add if verb == "add" else shape.columns.discard)((table, column))
        shape.objects -= {(found[1], found[2]) for found in _DROP.finditer(text)}
    return shape
