"""A door in front of PostgreSQL: counts round trips, and loses an answer that the server has given.

Clients reach it over a Unix socket, so there is no TLS to look into. It reads nothing but the frames of the
protocol: a type byte and a length.
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import struct
import tempfile
import threading
from collections import Counter
from typing import Any, Self

from psycopg.conninfo import conninfo_to_dict

from tests.support.urls import through_socket

READY = b"Z"
BACKEND_KEY = b"K"
COMPLETE = b"C"
READY_FRAME = b"Z\0\0\0\5T"
_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
TERMINATED = b"E" + struct.pack("!i", len(_FIELDS) + 4) + _FIELDS


class Proxy:
    """`url` is the same database through the door."""

    def __init__(self, url: str) -> None:
        said: dict[str, Any] = dict(conninfo_to_dict(url))
        self._target = (said.get("host") or "localhost", int(said.get("port") or 5432))
        self._directory = tempfile.mkdtemp(prefix="dbd-proxy-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._directory}/.s.PGSQL.5432")
        self._listener.listen(100)
        self.url = through_socket(url, self._directory)
        self._lock = threading.Lock()
        self._doomed: set[int] = set()
        self._ending: set[int] = set()
        self.round_trips: Counter[int] = Counter()
        """By backend process id: how often the client waited for the server."""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def lose_next_answer(self, backend_pid: int) -> None:
        """The answer to that session's next command is swallowed, and the connection ends. A mere Parse passes."""
        with self._lock:
            self._doomed.add(backend_pid)

    def end_before_ready(self, backend_pid: int) -> None:
        """That session's next command is answered, then the server ends it instead of being ready for another."""
        with self._lock:
            self._ending.add(backend_pid)

    def takes_end(self, backend_pid: int) -> bool:
        """Whether it is to end; once."""
        with self._lock:
            is_ending = backend_pid in self._ending
            self._ending.discard(backend_pid)
            return is_ending

    def has_lost(self, backend_pid: int) -> bool:
        """Whether that answer was swallowed; if it never came, the session is as others again."""
        with self._lock:
            was_lost = backend_pid not in self._doomed
            self._doomed.discard(backend_pid)
            return was_lost

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, port = self._target
            if host.startswith("/"):
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{host}/.s.PGSQL.{port}")
            else:
                server = socket.create_connection((host, port))
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, client, server)
            threading.Thread(target=link.run, name="proxy-link", daemon=True).start()

    def is_doomed(self, pid: int) -> bool:
        with self._lock:
            return pid in self._doomed

    def note_lost(self, pid: int) -> None:
        with self._lock:
            self._doomed.discard(pid)

    def note_turn(self, pid: int) -> None:
        with self._lock:
            self.round_trips[pid] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class _Link:
    """One connection: bytes go on as they come, but for a doomed answer."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._pid = 0
        self._frames = b""
        self._held = b""
        """What a doomed session was answered so far."""
        self._did_something = False
        self._clients_turn = True

    def run(self) -> None:
        with contextlib.closing(self._client), contextlib.closing(self._server), selectors.DefaultSelector() as ready:
            ready.register(self._client, selectors.EVENT_READ)
            ready.register(self._server, selectors.EVENT_READ)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in ready.select():
                        if not self._pass_on(key.fileobj is self._client):
                            return

    def _pass_on(self, from_client: bool) -> bool:
        data = (self._client if from_client else self._server).recv(1 << 16)
        if not data:
            return False
        if from_client:
            if self._clients_turn:
                self._clients_turn = False
                self._proxy.note_turn(self._pid)
            self._server.sendall(data)
            return True
        self._clients_turn = True
        doomed = bool(self._pid) and self._proxy.is_doomed(self._pid)
        answered = self._read(data)
        self._held += data
        if doomed and not answered:
            return True
        if doomed and self._did_something:
            self._proxy.note_lost(self._pid)
            return False
        if answered and self._did_something and self._proxy.takes_end(self._pid):
            self._client.sendall(self._held[: -len(READY_FRAME)] + TERMINATED)
            return False
        self._client.sendall(self._held)
        self._held = b""
        self._did_something = self._did_something and not answered
        return True

    def _read(self, data: bytes) -> bool:
        """Whether the server has said that its answer is complete."""
        self._frames += data
        answered = False
        while len(self._frames) >= 5:
            (length,) = struct.unpack("!i", self._frames[1:5])
            if len(self._frames) < 1 + length:
                break
            kind, body = self._frames[:1], self._frames[5 : 1 + length]
            self._frames = self._frames[1 + length :]
            if kind == BACKEND_KEY:
                (self._pid,) = struct.unpack("!i", body[:4])
            self._did_something = self._did_something or kind == COMPLETE
            answered = kind == READY or answered
        return answered
