"""`tx=`: a start in the transaction of a session or connection exists if and only if that commits."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from dbdurable import Durable
from dbdurable.errors import BadArgument, NotInTransaction, WrongColour
from tests.ext.model import Order

Maker = sessionmaker[Any]
Orders = Callable[[], dict[int, str]]


@pytest.fixture
def started(connection: psycopg.Connection[Any]) -> Callable[[], list[str]]:
    return lambda: [
        key for (key,) in connection.execute("select key from dbdurable.workflow order by created_at, key").fetchall()
    ]


@pytest.fixture
def work(durable: Durable) -> Any:
    @durable.workflow
    def work(n: int) -> int:
        return n + 1

    return work


class Derived(Session):
    """As an application or SQLModel derives its own."""


def test_a_session(work: Any, engine: Engine, started: Any, orders: Orders) -> None:
    for cls in (Session, Derived):
        with cls(engine) as session:
            session.add(Order(state="kept"))
            work.options(tx=session, key=f"kept by {cls.__name__}").start(1)
            assert not any(cls.__name__ in key for key in started())
            session.commit()
        with cls(engine) as session:
            session.add(Order(state="lost"))
            work.options(tx=session, key="lost").start(1)
            session.rollback()
            work.options(tx=session, key="lost, too").start(1)  # and so does a start without any other statement
        with sessionmaker(engine, class_=cls).begin() as session:
            work.options(tx=session, key=f"alone by {cls.__name__}").start(1)
    assert started() == ["kept by Session", "alone by Session", "kept by Derived", "alone by Derived"]
    assert list(orders().values()) == ["kept", "kept"]


def test_a_scoped_session(work: Any, maker: Maker, started: Any, orders: Orders) -> None:
    db = scoped_session(maker)
    for key in ("kept", "lost"):
        db.add(Order(state=key))
        work.options(tx=db, key=key).start(1)
        if key == "kept":
            db.commit()
        db.remove()
    assert (started(), list(orders().values())) == (["kept"], ["kept"])


def test_a_savepoint(work: Any, maker: Maker, started: Any) -> None:
    with maker.begin() as session:
        with session.begin_nested():
            work.options(tx=session, key="kept").start(1)
        with session.begin_nested() as savepoint:
            work.options(tx=session, key="lost").start(1)
            savepoint.rollback()
    assert started() == ["kept"]


def test_a_connection(work: Any, engine: Engine, started: Any) -> None:
    with engine.connect() as connection:
        work.options(tx=connection, key="kept").start(1)  # its first statement: it begins as any other would
        connection.commit()
        work.options(tx=connection, key="lost").start(1)
        connection.rollback()
        with connection.begin():
            work.options(tx=connection, key="kept, too").start(1)
        work.options(tx=connection, key="lost, too").start(1)
    assert started() == ["kept", "kept, too"]


def test_autocommit_is_refused(work: Any, engine: Engine, started: Any) -> None:
    auto = engine.execution_options(isolation_level="AUTOCOMMIT")
    with auto.connect() as connection, pytest.raises(NotInTransaction, match="would commit alone"):
        work.options(tx=connection).start(1)
    with Session(auto) as session, pytest.raises(NotInTransaction, match="would commit alone"):
        work.options(tx=session).start(1)
    assert started() == []


async def test_an_async_session(work: Any, async_maker: Any, started: Any, orders: Orders) -> None:
    for key in ("kept", "lost"):
        async with async_maker() as session:
            session.add(Order(state=key))
            await work.aio.options(tx=session, key=key).start(1)
            if key == "kept":
                await session.commit()
    async with async_maker.begin() as session:
        await work.aio.options(tx=session, key="alone").start(1)
    assert (started(), list(orders().values())) == (["kept", "alone"], ["kept"])


async def test_an_async_scoped_session(work: Any, async_maker: Any, started: Any) -> None:
    db = async_scoped_session(async_maker, lambda: 1)
    await work.aio.options(tx=db, key="kept").start(1)
    await db.commit()
    await work.aio.options(tx=db, key="lost").start(1)
    await db.remove()
    assert started() == ["kept"]


async def test_an_async_connection(work: Any, async_engine: AsyncEngine, started: Any) -> None:
    async with async_engine.connect() as connection:
        await work.aio.options(tx=connection, key="kept").start(1)
        await connection.commit()
        await work.aio.options(tx=connection, key="lost").start(1)
        await connection.rollback()
        async with connection.begin():
            await work.aio.options(tx=connection, key="kept, too").start(1)
    auto = async_engine.execution_options(isolation_level="AUTOCOMMIT")
    async with auto.connect() as connection:
        with pytest.raises(NotInTransaction):
            await work.aio.options(tx=connection).start(1)
    assert started() == ["kept", "kept, too"]


async def test_the_wrong_colour_is_named(work: Any, engine: Engine, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session, async_engine.connect() as connection:
        for tx in (session, connection):
            with pytest.raises(WrongColour, match=r"await f\.aio\.options"):
                _sync_start(work, tx)
    with Session(engine) as sync_session, engine.connect() as sync_connection:
        for sync_tx in (sync_session, sync_connection, scoped_session(sessionmaker(engine))):
            with pytest.raises(WrongColour, match="was given a sync"):
                await work.aio.options(tx=sync_tx).start(1)


def _sync_start(work: Any, tx: Any) -> None:
    import threading

    caught: list[BaseException] = []

    def start() -> None:
        try:
            work.options(tx=tx).start(1)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    raise caught[0]


def test_connections_of_other_drivers_read_what_to_write(work: Any, started: Any) -> None:
    psycopg2 = ModuleType("psycopg2.extensions")

    class connection:  # psycopg2's and asyncpg's are not needed to see what happens to what is not psycopg's
        __module__ = psycopg2.__name__

        def commit(self) -> None: ...

    with pytest.raises(BadArgument, match=r"not psycopg2\.extensions\..*connection.*select dbdurable\.start\("):
        work.options(tx=connection()).start(1)
    with create_engine("sqlite://").connect() as other, pytest.raises(BadArgument, match=r"Connection on sqlite3"):
        work.options(tx=other).start(1)
    assert started() == []


async def test_async_connections_of_other_drivers_read_what_to_write(work: Any) -> None:
    class Connection:
        __module__ = "asyncpg.connection"

    with pytest.raises(BadArgument, match=r"not asyncpg\.connection\..*select dbdurable\.start\("):
        await work.aio.options(tx=Connection()).start(1)
