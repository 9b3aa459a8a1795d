"""Checks of the server, and of the way to it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from uuid import uuid4

import psycopg

from dbdurable._io.migrate import SERVER_VERSION_MIN
from dbdurable._sql.doctor import PROBE, SESSIONS
from dbdurable.cli.finding import Finding, Patient, error, note, warning
from dbdurable.cli.output import seconds

__all__ = ["clock", "connections", "listen", "pooler", "server", "settings", "snapshots"]

CLOCK_S_MAX = 1.0
CONNECTIONS_SHARE_MAX = 0.8
LISTEN_TIMEOUT_S = 3.0
WAL_BYTES_MAX = 2**30


def server(patient: Patient) -> Iterator[Finding]:
    """Its version, and whether it takes writes."""
    said = patient.server
    if said["version_num"] < SERVER_VERSION_MIN * 10_000:
        yield error(
            f"PostgreSQL {said['version']} is too old: {SERVER_VERSION_MIN} is the oldest that is supported",
            "Upgrade the server.",
        )
    if said["in_recovery"] or said["read_only"]:
        what = "a standby" if said["in_recovery"] else "read-only (default_transaction_read_only)"
        yield error(f"the database is {what}: nothing can run", "Use the primary's URL, or make it writable.")


def settings(patient: Patient) -> Iterator[Finding]:
    """Settings that break promises."""
    said, database = patient.server, patient.server["database"]
    if said["synchronous_commit"] == "off":
        yield error(
            "synchronous_commit is off: COMMIT ANSWERS BEFORE IT IS ON DISK, so a crash of the server forgets steps "
            "that were reported done, and runs them again",
            f'Set it on where it was set off: alter database "{database}" reset synchronous_commit, the same for the '
            "role, and postgresql.conf.",
        )
    if said["fsync"] == "off":
        yield error(
            "fsync is off: a crash of the machine can lose or destroy the whole database",
            "Set fsync = on in postgresql.conf, unless these are throw-away data.",
        )
    if said["full_page_writes"] == "off":
        yield warning(
            "full_page_writes is off: a crash of the machine can leave torn pages",
            "Set full_page_writes = on, unless the file system writes pages whole.",
        )
    for name in ("autovacuum", "track_counts"):
        if said[name] == "off":
            yield error(
                f"{name} is off: dead tickets are never removed, and claims become slower without end",
                f"Set {name} = on in postgresql.conf.",
            )


def connections(patient: Patient) -> Iterator[Finding]:
    """Room for more connections."""
    used, most = int(patient.server["connections"] or 0), patient.server["connections_max"]
    if used >= most * CONNECTIONS_SHARE_MAX:
        yield warning(
            f"{used} of {most} connections are in use",
            "Use fewer threads in a worker (it takes up to threads + 10), put PgBouncer between, or raise "
            "max_connections.",
        )


def clock(patient: Patient) -> Iterator[Finding]:
    """This machine's clock against the database's, which is the one that counts."""
    before = time.time()
    ((_, at_s),) = patient.rows(PROBE)
    after = time.time()
    apart_s = max(before - at_s, at_s - after, 0.0)
    if apart_s > CLOCK_S_MAX:
        direction = "behind" if at_s > after else "ahead of"
        yield note(
            f"the clock of this machine is {seconds(apart_s)} {direction} the database's",
            "Nothing here depends on it (the database's clock decides), but the times in logs will not fit: set up "
            "NTP.",
        )


def pooler(patient: Patient) -> Iterator[Finding]:
    """Whether a pooler stands between."""
    ((pid, _),) = patient.rows(PROBE)
    if pid != patient.connection.info.backend_pid:
        yield note(
            "a pooler stands between here and the server",
            "That works; a killed worker is then noticed by its lease only (15 s instead of 3 s), so give workers "
            "a direct URL if you can.",
        )


def listen(patient: Patient) -> Iterator[Finding]:
    """Whether a notification arrives where executors listen; the session that listens is idle by then, as theirs."""
    from dbdurable._io.connect import connect
    from dbdurable.errors import DurableError

    if patient.listen_url is None:
        yield note(
            "executors do not listen (DBDURABLE_LISTEN_URL=never): they find new work by polling only",
            "Nothing, if that is meant; else unset it, or name a URL of the server itself.",
        )
        return
    channel = f"dbdurable_doctor_{uuid4().hex}"
    reason, arrived = "", False
    try:
        with connect(patient.listen_url) as ear:
            ear.execute(f"listen {channel}")
            patient.connection.execute(f"notify {channel}")
            arrived = any(True for _ in ear.notifies(timeout=LISTEN_TIMEOUT_S, stop_after=1))
            ear.execute("unlisten *")  # behind a pooler the session goes to others
    except (DurableError, psycopg.Error) as refused:
        reason = f" ({str(refused).splitlines()[0]})"
    if not arrived:
        yield warning(
            f"LISTEN does not work{reason}: executors find new work by polling only, and idle ones up to a second late",
            "Set DBDURABLE_LISTEN_URL to the server itself, or to a pooler in session mode; polling is slower, not "
            "wrong.",
        )


def snapshots(patient: Patient) -> Iterator[Finding]:
    """What keeps vacuum from removing dead rows."""
    if not patient.server["sees_all"]:
        role = patient.server["role"]
        yield note(
            f"role {role!r} sees only its own sessions: long transactions of others may be missing here",
            f'Run doctor as an administrator, or: grant pg_read_all_stats to "{role}".',
        )
    for held in patient.objects(SESSIONS, patient.old_s):
        since = f"{held['transactions'] or 0:,} transactions ago"
        age = since if held.get("age_s") is None else f"{seconds(held['age_s'])} ago ({since})"
        match held["what"]:
            case "session":
                who = f"{held['application'] or 'no name'}, role {held['role'] or 'unknown'}, {held['state'] or 'busy'}"
                yield warning(
                    f"session {held['name']} ({who}) has a transaction open that began {age}: no row that died since "
                    "then can be removed, and claims become slower",
                    f"Let it commit, or end it: select pg_terminate_backend({held['name']}).",
                )
            case "prepared":
                name = held["name"].replace("'", "''")
                yield warning(
                    f"the prepared transaction {held['name']!r} of {held['role']} has been open since {age}",
                    f"Decide it: commit prepared '{name}', or rollback prepared '{name}'.",
                )
            case _:
                size = int(held["bytes"] or 0)
                if held["transactions"] is not None or size > WAL_BYTES_MAX:
                    rows = " and dead rows" if held["transactions"] is not None else ""
                    yield warning(
                        f"nobody uses the replication slot {held['name']!r}; it holds {size / 2**20:,.0f} MB of "
                        f"WAL{rows}",
                        f"Start its replica, or drop it: select pg_drop_replication_slot('{_plain(held['name'])}').",
                    )


def _plain(name: str) -> str:
    """PostgreSQL allows only these in the name of a slot."""
    return re.sub(r"[^a-z0-9_]", "", name)
