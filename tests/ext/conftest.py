"""An application on SQLAlchemy: engines of both colours on a fresh database, and its table of orders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from tests.ext.model import Base


def on_psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(on_psycopg(database_url))
    Base.metadata.create_all(engine)
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
    engine.dispose()


@pytest.fixture
def maker(engine: Engine) -> sessionmaker[Any]:
    return sessionmaker(engine)


@pytest.fixture
async def async_engine(database_url: str, engine: Engine) -> AsyncIterator[AsyncEngine]:
    async_engine = create_async_engine(on_psycopg(database_url))
    yield async_engine
    assert async_engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
    await async_engine.dispose()


@pytest.fixture
def async_maker(async_engine: AsyncEngine) -> async_sessionmaker[Any]:
    return async_sessionmaker(async_engine)


@pytest.fixture
def orders(connection: psycopg.Connection[Any], engine: Engine) -> Callable[[], dict[int, str]]:
    """What is committed: orders by id."""
    return lambda: dict(connection.execute("select id, state from orders order by id").fetchall())


@pytest.fixture
def records(connection: psycopg.Connection[Any]) -> Callable[[], list[tuple[Any, ...]]]:
    """What the journals hold: name, attempts and error's type of each step."""
    return lambda: connection.execute(
        "select name, attempts, error->>'type' from dbdurable.step order by finished_at"
    ).fetchall()
