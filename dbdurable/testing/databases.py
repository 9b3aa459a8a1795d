"""Fresh databases in milliseconds: each is a copy of a template."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbdurable._embedded import EmbeddedServer
from dbdurable._io.migrate import migrate

__all__ = ["Databases", "embedded_server"]

PREFIX = "dbdurable_test_"


@contextmanager
def embedded_server() -> Iterator[str]:
    """A PostgreSQL that forgets everything at its end: its URL."""
    # Not pytest's tmp_path: root's is closed to the account that the server runs as.
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    directory.chmod(0o755)
    server = EmbeddedServer(directory / "pg", durable=False, linger_s=0.5)
    try:
        with server:
            yield server.url
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def with_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    if "://" not in url:
        return make_conninfo(url, dbname=name)
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


class Databases:
    """Makes and drops databases of one server; used as `with`."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._template: str | None = None

    def __enter__(self) -> Self:
        self._admin = psycopg.connect(self._server_url, autocommit=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._template is not None:
            self.drop(self._template)
        self._admin.close()

    def migrated(self) -> str:
        """The name of a fresh database with the library's tables in schema `dbdurable`."""
        if self._template is None:
            name = self.copy("template0")
            with psycopg.connect(self.url(name), autocommit=True) as connection:
                migrate(connection, "dbdurable")
            self._template = name
        return self.copy(self._template)

    def copy(self, template: str) -> str:
        """The name of a new database with everything that `template` holds; nobody may be connected to that."""
        name = f"{PREFIX}{uuid4().hex[:12]}"
        self._run("create database {} template {} strategy file_copy", name, template)
        return name

    def drop(self, name: str) -> None:
        """Drops a database, whoever is connected."""
        self._run("drop database if exists {} with (force)", name)

    def url(self, name: str) -> str:
        """Where it is."""
        return with_database(self._server_url, name)

    def _run(self, text: str, *names: str) -> None:
        self._admin.execute(sql.SQL(text).format(*map(sql.Identifier, names)))
