"""From what the user asked for to what the keeper is told; everything that can be refused is refused here."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dbdurable._embedded.account import Account, server_account
from dbdurable._embedded.binaries import find_binaries, major_version
from dbdurable._embedded.keeper import Plan
from dbdurable._embedded.staging import reachable_binaries
from dbdurable.errors import BadConfiguration

__all__ = ["as_options", "make_plan"]

OPTIONS = {
    "listen_addresses": "",
    "port": "5432",
    "max_connections": "100",
    "unix_socket_permissions": "0700",
    "log_min_messages": "warning",
}
# What was committed outlives a killed server, not a power failure: with synchronous_commit off it would not
# even outlive the former, and without fsync it saves next to nothing.
FAST_BUT_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
OURS_ALONE = {"data_directory", "unix_socket_directories", "unix_socket_permissions"}
SOCKET_DIR_MAX_BYTES = 90  # the system's limit is 104 or 108, and "/.s.PGSQL.65535" comes after it


def as_options(settings: Mapping[str, object]) -> dict[str, str]:
    """Return server settings in PostgreSQL's spelling. Raises BadConfiguration for those that are not free.

    Example:
        >>> as_options({"jit": False, "max_connections": 20})
        {'jit': 'off', 'max_connections': '20'}
    """
    if taken := sorted(OURS_ALONE & settings.keys()):
        raise BadConfiguration(f"the embedded PostgreSQL's setting {taken[0]!r} cannot be changed")
    return {name: ("off", "on")[value] if isinstance(value, bool) else str(value) for name, value in settings.items()}


def make_plan(data: Path, *, durable: bool, linger_s: float, settings: Mapping[str, str]) -> Plan:
    """Return the keeper's plan.

    Raises:
        DatabaseUnavailable: no programs, or no account to run them.
        BadConfiguration: the data is another major version's, or the account cannot enter its directory.
    """
    account = server_account()
    bindir = find_binaries()
    major = major_version(bindir)
    _check_data(data, account, major)
    socket_dir = _choose_socket_dir(data, account)
    options = OPTIONS | ({} if durable else FAST_BUT_NOT_DURABLE) | dict(settings)
    options["unix_socket_directories"] = '"{}"'.format(str(socket_dir).replace('"', '""'))
    return Plan(
        data=str(data),
        bindir=str(reachable_binaries(bindir, account)),
        major=major,
        socket_dir=str(socket_dir),
        linger_s=linger_s,
        durable=durable,
        options=options,
        user=account.uid if account.switch else None,
        group=account.gid if account.switch else None,
    )


def _check_data(data: Path, account: Account, major: int) -> None:
    if account.switch and not account.can_enter(data.parent):
        raise BadConfiguration(
            f"as root, the embedded PostgreSQL runs as {account.name!r}, which cannot enter {data.parent}: "
            "choose another directory, or set DBDURABLE_DATABASE_URL"
        )
    with suppress(FileNotFoundError):
        made_by = (data / "PG_VERSION").read_text().strip()
        if made_by != str(major):
            raise BadConfiguration(
                f"{data} was made by PostgreSQL {made_by} and the programs found are PostgreSQL {major}: "
                "dump and restore it, or choose another directory"
            )


def _choose_socket_dir(data: Path, account: Account) -> Path:
    name = f"dbdurable-{os.geteuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:10]}"
    place = Path(tempfile.gettempdir())
    too_long = len(os.fsencode(place / name)) > SOCKET_DIR_MAX_BYTES
    if too_long or (account.switch and not account.can_enter(place)):
        place = Path("/tmp")  # noqa: S108 - the keeper refuses a directory that is not its own
    return place / name
