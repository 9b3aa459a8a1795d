"""Who runs the server: PostgreSQL refuses root, so root hands it to an account with fewer rights."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dbdurable.errors import DatabaseUnavailable

__all__ = ["Account", "server_account"]


class Account(NamedTuple):
    """The account that runs the server; `switch` says that it is another one than ours (we are root)."""

    name: str
    uid: int
    gid: int
    switch: bool

    def can_enter(self, directory: Path) -> bool:
        """Say whether the account can enter `directory`; a missing directory counts as its parent."""
        while not directory.exists() and directory != directory.parent:
            directory = directory.parent
        # Asked of the kernel, as that account: permission bits alone know nothing of ACLs and mounts.
        return self.succeeds(["/bin/sh", "-c", 'test -x "$1"', "sh", str(directory)])

    def succeeds(self, command: Sequence[str]) -> bool:
        """Say whether the account can run `command` and gets exit status 0."""
        try:
            done = subprocess.run(  # noqa: S603 - commands of this package only
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                user=self.uid if self.switch else None,
                group=self.gid if self.switch else None,
                extra_groups=[] if self.switch else None,
            )
        except OSError:
            return False
        return done.returncode == 0


def server_account() -> Account:
    """Return the account that runs the server: ours, or as root `postgres`, else `nobody`.

    Raises:
        DatabaseUnavailable: our uid has no entry in the password database, or root finds neither account.
    """
    uid = os.geteuid()
    if uid != 0:
        try:
            return Account(pwd.getpwuid(uid).pw_name, uid, os.getegid(), switch=False)
        except KeyError:
            raise DatabaseUnavailable(
                f"PostgreSQL cannot run as uid {uid}, which has no entry in the password database "
                "(/etc/passwd): add one, or set DBDURABLE_DATABASE_URL to use a server of your own"
            ) from None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise DatabaseUnavailable(
        "PostgreSQL refuses to run as root and there is no account 'postgres' or 'nobody' to run it as: "
        "create one, or set DBDURABLE_DATABASE_URL to use a server of your own"
    )
