"""A connection that only listens: it sleeps on its socket until a notification comes, or until it is stopped."""

from __future__ import annotations

import os
import selectors
import socket
import weakref
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from dbdurable._core.control import ConnectionLost
from dbdurable._io.connect import connect

__all__ = ["Ear", "channel_of"]


def channel_of(schema: str) -> str:
    """The channel of an application: two schemas of one database do not wake each other."""
    return f"dbdurable:{schema}"


class Ear:
    """At most one connection, listening on one channel. One thread uses it; `stop` may come from any."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._connection: psycopg.Connection[Any] | None = None
        self.stopped = False

    def open(self, url: str, channel: str) -> None:
        """Connects and listens: from here on nothing is missed. Raises ConnectionLost and DatabaseUnavailable."""
        self.close()
        self._connection = connection = connect(url)
        _open_connections.add(connection)
        self._execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def keep_open(self) -> None:
        """Asks the server not to end the session for being idle. Only for a session that is known to be ours."""
        self._execute(sql.SQL("set idle_session_timeout = 0"))

    def give_up(self) -> None:
        """Takes the `listen` back: behind a pooler it may have been given to a session that others use, too."""
        self._execute(sql.SQL("unlisten *"))

    def hear(self, timeout_s: float | None = None) -> list[str]:
        """The payloads that have come; none when stopped or out of time. Raises ConnectionLost."""
        assert self._connection is not None
        pgconn = self._connection.pgconn
        self._sleep(timeout_s, pgconn.socket)
        try:
            pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise ConnectionLost(str(error).strip(), None) from None
        heard = []
        while (notify := pgconn.notifies()) is not None:
            heard.append(notify.extra.decode(errors="replace"))
        return heard

    def pause(self, timeout_s: float) -> None:
        """Waits; `stop` ends it."""
        self._sleep(timeout_s)

    def stop(self) -> None:
        """Ends whatever waits here, now and from now on."""
        self.stopped = True
        with suppress(OSError):  # closed: nothing waits any more
            self._writer.send(b"\0")

    def close(self) -> None:
        """Closes the connection; `open` makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _open_connections.discard(connection)
            connection.close()

    def end(self) -> None:
        """Closes everything, for good."""
        self.close()
        self._reader.close()
        self._writer.close()

    def _execute(self, statement: sql.Composed | sql.SQL) -> None:
        assert self._connection is not None
        try:
            self._connection.execute(statement)
        except psycopg.Error as error:
            raise ConnectionLost(str(error).strip(), None) from None

    def _sleep(self, timeout_s: float | None, *sockets: int) -> None:
        if self.stopped:
            return
        with selectors.DefaultSelector() as ready:
            for readable in (self._reader.fileno(), *sockets):
                ready.register(readable, selectors.EVENT_READ)
            ready.select(timeout_s)


_open_connections: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    """A child lets go of its parent's socket: nobody reads there once the parent is gone.

    The server would keep what it has to say, and what it says to others, for as long as the child lives.
    psycopg closes nothing in a child that its parent has opened.
    """
    for connection in list(_open_connections):
        with suppress(OSError, psycopg.Error):
            os.close(connection.fileno())
    _inherited.extend(_open_connections)
    _open_connections.clear()


_inherited: list[Any] = []
os.register_at_fork(after_in_child=_after_fork)
