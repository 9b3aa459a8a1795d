"""Programs run as real processes, the way people run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT_S = 60


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    """What a program finds: the database's URL, and the programs' directory to import from."""
    path = os.pathsep.join([str(PROGRAMS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "DBDURABLE_DATABASE_URL": database_url, "PYTHONPATH": path}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs `python arguments...` among the programs, to its end."""

    def run(*arguments: str) -> Ended:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=PROGRAMS,
            env=environment,
            timeout=TIMEOUT_S,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
