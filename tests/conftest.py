"""One PostgreSQL for the whole run, a migrated template for each worker, a fresh clone for each test.

The server is the embedded one, shared by all xdist workers and also fine for root; bring your own with
DBDURABLE_TEST_DATABASE_URL=postgresql://... (a superuser's). Templates and clones are pytest-postgresql's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor

from dbdurable import Durable
from dbdurable._embedded import EmbeddedServer
from tests.support.databases import Clone, Server, scratch_directory, scrub_environment
from tests.support.workflows import Gate

pytest_plugins = ["dbdurable.testing.plugin"]

# Named once by the process that starts the run, inherited by its workers. (PYTEST_XDIST_TESTRUNUID would do
# for the workers, but the controller, which cleans up, does not know it.)
OWNS_RUN = "DBDURABLE_TEST_RUN" not in os.environ
RUN = os.environ.setdefault("DBDURABLE_TEST_RUN", uuid4().hex[:8])


DIRECTORY = scratch_directory() / f"dbdurable-test-{RUN}"


def embedded() -> EmbeddedServer:
    settings = {
        "max_connections": 200,
        "max_prepared_transactions": 5,
        "max_wal_size": "128MB",
        "min_wal_size": "32MB",
    }
    return EmbeddedServer(DIRECTORY / "pg", durable=False, linger_s=0.5, settings=settings)


def pytest_configure(config: pytest.Config) -> None:
    scrub_environment()


def pytest_unconfigure(config: pytest.Config) -> None:
    if OWNS_RUN and DIRECTORY.exists():
        embedded().stop()
        shutil.rmtree(DIRECTORY)


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Each test starts without DBDURABLE_*, DATABASE_URL and PG*, whatever the one before has set."""
    scrub_environment()
    yield
    scrub_environment()


# ---- the server --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """The server as pytest-postgresql wants it described."""
    if url := os.environ.get("DBDURABLE_TEST_DATABASE_URL"):
        yield Server(url)
        return
    with embedded() as server:
        yield Server(server.url)


@pytest.fixture(scope="session")
def durable_server(postgresql_server: Server) -> str:
    """The harness's databases are made on the same server."""
    return postgresql_server.url


@pytest.fixture(scope="session")
def server_url(postgresql_server: Server) -> str:
    """The administrator's URL, for tests that make databases and roles of their own."""
    return postgresql_server.url


def _migrate(*, autocommit: bool, **login: Any) -> None:
    from dbdurable._io.migrate import migrate

    with psycopg.connect(**login, autocommit=True) as connection:
        migrate(connection, "dbdurable")


postgresql_template = factories.postgresql_noproc(
    depends_on="postgresql_server", dbname=f"dbdurable_test_{RUN}", load=[_migrate]
)


# ---- databases ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def administrator(server_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The session's connection that makes and drops databases; no test may end it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def database_url(administrator: psycopg.Connection[Any], postgresql_template: NoopExecutor) -> Iterator[str]:
    """The URL of a fresh database with all migrations, in schema `dbdurable`."""
    with Clone(administrator, postgresql_template, postgresql_template.template_dbname) as clone:
        yield clone.url


@pytest.fixture
def empty_database_url(administrator: psycopg.Connection[Any], postgresql_server: Server) -> Iterator[str]:
    """The URL of a fresh database with nothing in it."""
    with Clone(administrator, postgresql_server, None) as clone:
        yield clone.url


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to `database_url`."""
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def durable(database_url: str) -> Iterator[Durable]:
    """An application without functions; tests define their own."""
    application = Durable(database_url)
    yield application
    application.close()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def empty_connection(empty_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to `empty_database_url`."""
    with psycopg.connect(empty_database_url, autocommit=True) as opened:
        yield opened
