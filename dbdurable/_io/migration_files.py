"""The migration files, and the script that they make together. No connection is needed here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from dbdurable._core.names import check_schema

__all__ = ["Migration", "load_migrations", "migration_sql"]

# Somebody may hold a table for long: give the lock queue back soon (others wait behind us) and try again.
LOCK_TIMEOUT_S: Final = 3

# The files qualify every name; a table of somebody else's in `public` must not be able to catch one.
SETTINGS: Final = f"""\
set transaction isolation level read committed;
set local search_path = pg_catalog, pg_temp;
set local statement_timeout = 0;
set local client_min_messages = warning;
set local lock_timeout = '{LOCK_TIMEOUT_S}s';
"""
LOCK_KEY: Final = "hashtextextended('dbdurable:migrate:{schema_name}', 0)"
CREATE_LEDGER: Final = """\
create table if not exists {schema}.migration (
    version     integer primary key,
    name        text not null,
    checksum    text not null,
    applied_at  timestamptz not null default clock_timestamp(),
    duration_ms integer not null
);
"""
_RECORD: Final = """\
insert into {schema}.migration (version, name, checksum, duration_ms)
values ({version}, '{name}', '{checksum}', {duration_ms});
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, text with the `{schema}` token, and checksum of that text."""

    version: int
    name: str
    text: str
    checksum: str

    @property
    def transactional(self) -> bool:
        """Whether the file runs in the transaction of its neighbours."""
        return not re.match(r"--\s*transaction:\s*no\b", self.text)

    def sql(self, schema: str) -> str:
        """The text for one schema."""
        return render(self.text, schema)

    def statements(self, schema: str) -> list[str]:
        """The statements of a file that is not transactional."""
        parts = re.split(r"^--\s*statement\s*$", self.sql(schema), flags=re.MULTILINE)
        return [part for part in parts if re.sub(r"--[^\n]*", "", part).strip()]


@cache
def _load(directory: Path) -> tuple[Migration, ...]:
    found = []
    for path in sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        # git may check files out with \r\n: that is no edit.
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        found.append(Migration(int(path.name[:4]), path.name, text, hashlib.sha256(text.encode()).hexdigest()))
    if not found or [m.version for m in found] != list(range(1, len(found) + 1)):
        names = ", ".join(m.name for m in found) or "none"
        raise RuntimeError(f"migrations in {directory} must be numbered 0001, 0002, ...; there are: {names}")
    return tuple(found)


def load_migrations() -> list[Migration]:
    """All migrations of this package, in order.

    They lie inside the package in a wheel, and beside it in a checkout or an editable install.
    """
    package = Path(__file__).resolve().parents[1]
    packaged = package / "migrations"
    return list(_load(packaged if packaged.is_dir() else package.parent / "migrations"))


def migration_sql(schema: str, after: int = 0) -> str:
    """One script for psql that does what `migrate` does, for whoever has the privileges.

    Args:
        schema: The schema; created when it does not exist.
        after: The version that the database has already; 0 for none.
    """
    parts = [
        "-- The tables of dbdurable; run it with: psql -v ON_ERROR_STOP=1\n",
        _opening(schema),
        render("create schema if not exists {schema};\n" + CREATE_LEDGER, schema),
    ]
    for migration in load_migrations():
        if migration.version > after:
            entry = record(migration, schema, 0)
            if migration.transactional:
                parts.append(f"-- {migration.name}\n{migration.sql(schema)}\n{entry}")
            else:
                parts.append(f"commit;\n-- {migration.name}\n{migration.sql(schema)}\n{entry}{_opening(schema)}")
    return "\n".join([*parts, "commit;\n"])


def _opening(schema: str) -> str:
    return render(f"begin;\n{SETTINGS}select pg_advisory_xact_lock({LOCK_KEY});\n", schema)


def record(migration: Migration, schema: str, duration_ms: int) -> str:
    """The statement that enters an applied file into the ledger."""
    text = render(_RECORD, schema).replace("{version}", str(migration.version))
    text = text.replace("{name}", migration.name).replace("{checksum}", migration.checksum)
    return text.replace("{duration_ms}", str(duration_ms))


def render(text: str, schema: str) -> str:
    """The text with `{schema}` as a quoted identifier; the one place where a name becomes SQL."""
    # After the check nothing is left to escape; quoting is still needed, because "user" and "order" are
    # good names and reserved words.
    check_schema(schema)
    return text.replace("{schema}", f'"{schema}"').replace("{schema_name}", schema)
