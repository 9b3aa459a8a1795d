"""One application on a fresh database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbdurable import Durable


@pytest.fixture
def durable(database_url: str) -> Iterator[Durable]:
    durable = Durable(database_url)
    yield durable
    durable.close()
