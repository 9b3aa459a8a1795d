"""Looking at servers and processes from outside, and processes that use a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg

from dbdurable._embedded.keeper import read_postmaster

REPOSITORY = Path(__file__).parents[2]
LINGER_S = 0.3

# Holds the server until its standard input ends, as any program would that uses it.
USER = f"""
import json, os, sys
from pathlib import Path
from dbdurable._embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), durable=False, linger_s={LINGER_S}).start()
print(json.dumps({{"url": server.url, "pid": os.getpid()}}), flush=True)
sys.stdin.read()
"""


def postmaster(data: Path) -> int:
    found = read_postmaster(data)
    assert found is not None
    return found.pid


def keeper(data: Path) -> int:
    return int(Path(f"{data}.keeper").read_text())


def query(url: str, statement: str) -> object:
    """Run one statement and return the first column of its first row, if it has rows."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchone()[0] if cursor.description else None


class User:
    """Another process that uses the server at `data`."""

    def __init__(self, data: Path, python: str = sys.executable, **popen: object) -> None:
        self.process = subprocess.Popen(
            [python, "-c", USER, str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **{"env": os.environ | {"PYTHONPATH": str(REPOSITORY)}, **popen},  # type: ignore[call-overload]
        )

    def url(self) -> str:
        """Wait until it uses the server."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)["url"]

    def end(self, how: signal.Signals | None = None) -> None:
        if how is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(how)
        self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
