"""A door in front of PostgreSQL, in a process of its own: it adds latency, or counts what goes through.

    python -m tests.benchmarks.wire HOST PORT DELAY_S      # not for people

Clients reach it over a Unix socket, so there is no TLS to look into.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from tests.support.urls import through_socket

CHUNK = 1 << 16
PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
READY_FOR_QUERY = b"Z"
STATEMENTS = (b"Q", b"E")
"""Simple Query and Execute: what makes the server run a statement."""


@dataclass
class Traffic:
    """What went through, by exact count of the protocol's frames."""

    statements: int = 0
    round_trips: int = 0
    """How often a client began to speak after the server had nothing left to answer."""


class Frames:
    """Cuts one direction of a connection into the protocol's frames."""

    def __init__(self, *, untyped_first: bool) -> None:
        self._untyped = untyped_first  # the startup packet has no type
        self._rest = b""

    def kinds(self, data: bytes) -> Iterator[bytes]:
        """The types of the frames that end in this piece."""
        held, start = self._rest + data, 0
        while True:
            head = 0 if self._untyped else 1
            if len(held) < start + head + 4:
                break
            (length,) = struct.unpack_from("!i", held, start + head)
            if len(held) < start + head + length:
                break
            yield b"" if self._untyped else held[start : start + 1]
            self._untyped, start = False, start + head + length
        self._rest = held[start:]


class Server:
    """Listens in `directory`, passes on to `target`."""

    def __init__(self, target: tuple[str, int], delay_s: float) -> None:
        self._target = target
        self._delay_s = delay_s
        self.traffic = Traffic()

    async def link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client and its connection to the server, until either ends."""
        host, port = self._target
        if host.startswith("/"):
            upstream, upwriter = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            upstream, upwriter = await asyncio.open_connection(host, port)
        answered = [False]

        def sent(data: bytes) -> None:
            if answered[0]:
                answered[0] = False
                self.traffic.round_trips += 1
            self.traffic.statements += sum(kind in STATEMENTS for kind in asked.kinds(data))

        def received(data: bytes) -> None:
            answered[0] |= READY_FOR_QUERY in list(told.kinds(data))

        asked, told = Frames(untyped_first=True), Frames(untyped_first=False)
        with suppress(OSError):
            await asyncio.gather(self._pump(reader, upwriter, sent), self._pump(upstream, writer, received))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Any) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._delay_s:
                    loop.call_later(self._delay_s, _write, writer, data)  # equal delays keep the order
                else:
                    look(data)
                    writer.write(data)
        loop.call_later(self._delay_s, writer.close)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)


async def serve(target: tuple[str, int], delay_s: float) -> None:
    """Until standard input ends; each line of it asks for the counts so far."""
    directory = tempfile.mkdtemp(prefix="dbd-wire-")
    os.chmod(directory, 0o755)
    server, loop = Server(target, delay_s), asyncio.get_running_loop()
    try:
        listener = await asyncio.start_unix_server(server.link, f"{directory}/{SOCKET}", backlog=500)
        print(directory, flush=True)
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(asdict(server.traffic)), flush=True)
        listener.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Door:
    """The door's process, seen from outside."""

    def __init__(self, process: subprocess.Popen[str], directory: str) -> None:
        self._process = process
        self._directory = directory

    def url_of(self, url: str) -> str:
        """The same database, through the door."""
        return through_socket(url, self._directory)

    def traffic(self) -> Traffic:
        """Everything that went through until now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Traffic(**json.loads(self._process.stdout.readline()))


@contextmanager
def door(url: str, delay_s: float = 0.0) -> Iterator[Door]:
    """A door to that server; `delay_s` each way. It counts only where it does not delay."""
    said: dict[str, Any] = dict(conninfo_to_dict(url))
    host, port = str(said.get("host") or "localhost"), str(said.get("port") or PORT)
    command = [sys.executable, "-m", "tests.benchmarks.wire", host, port, str(delay_s)]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Door(process, process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait(30)


if __name__ == "__main__":
    # select() takes its timeout in microseconds; epoll would round a quarter of a millisecond up to a whole one.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])))
    os._exit(0)
