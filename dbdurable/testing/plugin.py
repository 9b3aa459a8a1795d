"""The pytest plugin: with dbdurable installed, tests may ask for `durable_harness`.

Imports nothing of the library until a test asks: every pytest run of the environment loads this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dbdurable.testing.databases import Databases
    from dbdurable.testing.harness import Harness


@pytest.fixture(scope="session")
def durable_server() -> Iterator[str]:
    """The URL of the PostgreSQL that holds the databases of tests: DBDURABLE_TEST_DATABASE_URL, else an embedded one.

    Define a fixture of this name to bring your own, for example a container's. Its user must be allowed to
    create databases.
    """
    if url := os.environ.get("DBDURABLE_TEST_DATABASE_URL"):
        yield url
        return
    from dbdurable.testing.databases import embedded_server

    with embedded_server() as url:
        yield url


@pytest.fixture(scope="session")
def durable_databases(durable_server: str) -> Iterator[Databases]:
    """Makes databases with the library's tables, from a template that is migrated once a session."""
    from dbdurable.testing.databases import Databases

    with Databases(durable_server) as databases:
        yield databases


@pytest.fixture
def durable_harness(durable_databases: Databases) -> Iterator[Harness]:
    """A fresh database, and what tests of workflows need; see `dbdurable.testing.Harness`."""
    from dbdurable.testing.harness import Harness

    with Harness(durable_databases) as harness:
        yield harness
