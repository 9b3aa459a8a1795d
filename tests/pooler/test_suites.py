"""Tests from elsewhere, once more through the pooler: what they say holds there, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.integration.test_branches import *  # noqa: F403
from tests.integration.test_children import *  # noqa: F403
from tests.integration.test_direct_calls import *  # noqa: F403
from tests.pooler.conftest import PgBouncer


@pytest.fixture
def database_url(database_url: str, pgbouncer: PgBouncer) -> str:
    """What applications connect to."""
    return pgbouncer.url.format(conninfo_to_dict(database_url)["dbname"])


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The tests' own look at the tables, as an application would write it behind a pooler."""
    with psycopg.connect(database_url, autocommit=True, prepare_threshold=None) as opened:
        yield opened
