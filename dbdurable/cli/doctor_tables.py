"""Checks of the tables: that they are whole, that this role may use them, and how vacuum copes."""

from __future__ import annotations

from collections.abc import Iterator

from dbdurable._io.migrate import pending
from dbdurable._sql.doctor import COLD_INDEXES, COLUMNS, GRANTS, OBJECTS, TABLES
from dbdurable.cli.finding import Finding, Patient, error, note, some, warning
from dbdurable.cli.output import seconds
from dbdurable.cli.shape import shape_of
from dbdurable.errors import SchemaMismatch

__all__ = ["grants", "shape", "vacuum", "version"]

DEAD_MIN = 100_000
VACUUM_S_MAX = 600.0
UPDATES_MIN = 5_000
HOT_SHARE_MIN = 0.9
NAMES_MAX = 8


def version(patient: Patient) -> Iterator[Finding]:
    """The version of the tables, and that no migration was edited after it was applied."""
    try:
        missing = pending(patient.connection, patient.schema)
    except SchemaMismatch as mismatch:
        yield error(str(mismatch), "Do what it says; nothing starts before.")
        return
    if missing:
        names = ", ".join(migration.name for migration in missing)
        yield error(f"schema {patient.schema!r} lacks {names}", "Run `dbdurable migrate`.")


def shape(patient: Patient) -> Iterator[Finding]:
    """Tables, columns, indexes, views and functions as the migrations made them, and nothing more on the tables."""
    wanted = shape_of()
    found = {(kind, name): is_usable for kind, name, is_usable in patient.rows(OBJECTS)}
    columns = set(patient.rows(COLUMNS))
    lacking = [f"{kind} {name}" for kind, name in sorted(wanted.objects - found.keys())]
    lacking += [
        f"column {table}.{column}" for table, column in sorted(wanted.columns - columns) if ("table", table) in found
    ]
    if lacking:
        yield error(
            f"schema {patient.schema!r} lacks {some(lacking, NAMES_MAX)}",
            "Somebody changed it by hand: make it again as in `dbdurable migrate --sql`, or restore a backup.",
        )
    broken = sorted(name for (kind, name), is_usable in found.items() if kind == "index" and not is_usable)
    if broken:
        yield error(
            f"these indexes are not usable: {some(broken, NAMES_MAX)}",
            f'Build them again: reindex index concurrently "{patient.schema}"."{broken[0]}".',
        )
    for kind, name in sorted(found.keys() - wanted.objects):
        if kind == "trigger":
            yield warning(
                f"there is a trigger on a table of dbdurable: {name}",
                "It runs inside every claim and commit, and an error in it stops them: drop it, and let a step or a "
                "query of the views do its work.",
            )
    extra = sorted(columns - wanted.columns)
    extra = [(table, column) for table, column in extra if ("table", table) in wanted.objects]
    if extra:
        yield note(
            f"these columns are not dbdurable's: {some([f'{table}.{name}' for table, name in extra], NAMES_MAX)}",
            "They do no harm now, but a later migration may use the same names: keep your data in tables of your own.",
        )
    for (index,) in patient.rows(COLD_INDEXES):
        yield error(
            f"the index {index} holds a column of workflow that changes: every claim and every end now writes all "
            "indexes of the table, about four times as much",
            f'Drop it: drop index concurrently "{patient.schema}"."{index}"; `attention` and `ready` list what is '
            "failed or queued.",
        )


def grants(patient: Patient) -> Iterator[Finding]:
    """Whether this role can do what an executor needs, and whose the tables are."""
    role = patient.server["role"]
    lacking: dict[str, list[str]] = {}
    for privilege, what in patient.rows(GRANTS):
        lacking.setdefault(what, []).append(privilege)
    if lacking:
        first, privileges = next(iter(lacking.items()))
        yield error(
            f"role {role!r} lacks rights that an executor needs: "
            + some([f"{', '.join(rights)} on {what}" for what, rights in lacking.items()], NAMES_MAX),
            f'Let the owner grant them: grant {", ".join(privileges)} on {first} to "{role}".',
        )
    owners = {table["owner"]: table["owned"] for table in patient.objects(TABLES)}
    if len(owners) > 1:
        yield warning(
            f"the tables have more than one owner: {', '.join(sorted(owners))}",
            "Give them all to one role (alter table ... owner to ...), or the next migration fails.",
        )
    elif owners and not all(owners.values()):
        yield note(
            f"the tables belong to {next(iter(owners))!r}: role {role!r} cannot upgrade them",
            "Run `dbdurable migrate` as the owner before each deploy, and set DBDURABLE_MIGRATE=false for this role.",
        )


def vacuum(patient: Patient) -> Iterator[Finding]:
    """Dead rows, and updates that found no room on their page."""
    for table in patient.objects(TABLES):
        name = f"{patient.schema}.{table['name']}"
        if not table["vacuumed"]:
            yield error(
                f"autovacuum is switched off for {name}",
                f"Switch it on: alter table {name} reset (autovacuum_enabled).",
            )
        ago_s = table["vacuum_s"]
        is_late = ago_s is None or ago_s > VACUUM_S_MAX
        if table["dead"] > max(DEAD_MIN, table["live"]) and is_late:
            when = "never" if ago_s is None else f"{seconds(ago_s)} ago"
            yield warning(
                f"{name} has {table['dead']:,} dead rows and {table['live']:,} live ones; it was vacuumed last: {when}",
                f"End what holds an old snapshot (see snapshots), then: vacuum {name}.",
            )
        updates = table["updates"]
        if table["name"] == "workflow" and updates >= UPDATES_MIN and table["hot"] / updates < HOT_SHARE_MIN:
            yield warning(
                f"only {table['hot'] / updates:.0%} of {updates:,} updates of {name} stayed on their page (HOT); "
                f"{HOT_SHARE_MIN:.0%} are usual",
                "Look for an index of somebody else's on the table, a lowered fillfactor, or transactions left open; "
                "select pg_stat_reset_single_table_counters(oid) counts anew.",
            )
