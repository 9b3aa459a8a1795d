"""The one server that a program gets without configuring anything, and where its data is."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from dbdurable._embedded.account import server_account
from dbdurable._embedded.binaries import find_binaries, major_version
from dbdurable._embedded.server import EmbeddedServer

__all__ = ["default_location", "start_again", "start_default"]

ROOT_STATE = Path("/var/lib/dbdurable")
PROJECT_MARKS = ("pyproject.toml", ".git")

_log = logging.getLogger("dbdurable")
_servers: dict[Path, EmbeddedServer] = {}
_servers_lock = threading.Lock()


def default_location() -> Path:
    """Return the data directory for the project around the current directory.

    It is `.dbdurable/pg<major>` in the nearest directory upwards that has a pyproject.toml or .git, else in
    the current directory. As root, if the account that runs the server cannot enter that place, it is
    `/var/lib/dbdurable/<hash of the project's path>/pg<major>`. A new major version gets a new directory.

    Raises:
        DatabaseUnavailable: there are no PostgreSQL programs, or no account to run them as.

    Example:
        >>> default_location()  # doctest: +SKIP
        PosixPath('/home/ann/shop/.dbdurable/pg18')
    """
    here = Path.cwd()
    candidates = (place for place in (here, *here.parents) if any((place / m).exists() for m in PROJECT_MARKS))
    project = next(candidates, here)
    name = f"pg{major_version(find_binaries())}"
    account = server_account()
    if account.switch and not account.can_enter(project / ".dbdurable"):
        return ROOT_STATE / hashlib.sha256(os.fsencode(project)).hexdigest()[:12] / name
    return project / ".dbdurable" / name


def start_default() -> EmbeddedServer:
    """Return the running server at `default_location()`, started if need be.

    The first call in a process logs one WARNING with the absolute path. Later calls are cheap, so call it
    again whenever a connection fails: it starts the server anew if it died. Safe to call from any thread,
    and in a forked child, which holds the server on its own account.

    Raises:
        DatabaseUnavailable, BadConfiguration: as `EmbeddedServer.start`.
    """
    with _servers_lock:
        data = default_location()
        server = _servers.get(data)
        if server is not None:
            return server.start()
        server = EmbeddedServer(data).start()
        if data.parent.name == ".dbdurable":
            _keep_out_of_git(data.parent)
        _log.warning(
            "no database URL is set: using the embedded PostgreSQL at %s; set DBDURABLE_DATABASE_URL for your own",
            data,
        )
        _servers[data] = server
        return server


def start_again(server: EmbeddedServer) -> EmbeddedServer:
    """Return the server that `start_default` gave, started anew if it has died. Safe to call from any thread."""
    with _servers_lock:
        return server.start()


def _keep_out_of_git(directory: Path) -> None:
    with suppress(OSError), (directory / ".gitignore").open("x") as file:
        file.write("*\n")


def _new_lock() -> None:
    global _servers_lock
    _servers_lock = threading.Lock()  # the thread that held the old one does not exist in the child


os.register_at_fork(after_in_child=_new_lock)
