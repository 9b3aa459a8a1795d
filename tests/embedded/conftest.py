"""Real servers in directories of their own, and other processes that use them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbdurable._embedded import EmbeddedServer
from tests.embedded.helpers import LINGER_S, User


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the account running the server can enter (pytest's own is closed to it for root)."""
    directory = Path(tempfile.mkdtemp(prefix="dbd test "))  # with a space, which must not matter
    directory.chmod(0o755)
    yield directory
    for log in directory.rglob("*.keeper"):
        EmbeddedServer(log.with_suffix("")).stop()
    shutil.rmtree(directory)


@pytest.fixture
def data(place: Path) -> Path:
    return place / "state" / "pg"


@pytest.fixture
def server(data: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(data, durable=False, linger_s=LINGER_S) as started:
        yield started


@pytest.fixture
def user(data: Path) -> Iterator[Callable[..., User]]:
    """Start other processes: `user()`."""
    users: list[User] = []

    def start(**popen: object) -> User:
        users.append(User(popen.pop("data", data), **popen))  # type: ignore[arg-type]
        return users[-1]

    yield start
    for each in users:
        each.close()
