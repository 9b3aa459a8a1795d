"""An executor that is declared dead while a step of it has a transaction open: that transaction is ended, no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from dbdurable import Durable
from dbdurable._sql.upkeep import DECLARE_EXPIRED
from dbdurable.ext.sqlalchemy import SQLAlchemy
from tests.support.wait import wait_until
from tests.support.workflows import LIMIT_S, Gate

INSERT = "insert into stock values ('of the step')"
EXPIRE = "update dbdurable.executor set expires_at = clock_timestamp() - interval '1 s'"
ALIVE = "select count(*) from pg_stat_get_activity(%s) where pid is not null"

Make = Callable[[Durable, Gate, list[int]], Any]
"""A transaction, for `def` code; it notes its session each time, and stops at the gate until that is open."""


def by_psycopg(durable: Durable, gate: Gate, sessions: list[int]) -> Any:
    @durable.transaction
    def write(tx: psycopg.Connection[Any]) -> None:
        sessions.append(tx.info.backend_pid)
        tx.execute(INSERT)
        gate.wait()

    return write


def by_psycopg_async(durable: Durable, gate: Gate, sessions: list[int]) -> Any:
    @durable.transaction
    async def write(tx: psycopg.AsyncConnection[Any]) -> None:
        sessions.append(tx.info.backend_pid)
        await tx.execute(INSERT)
        await asyncio.to_thread(gate.wait)

    return write.sync


def by_session(durable: Durable, gate: Gate, sessions: list[int]) -> Any:
    @durable.transaction
    def write(session: Session) -> None:
        sessions.append(session.execute(text("select pg_backend_pid()")).scalar_one())
        session.execute(text(INSERT))
        gate.wait()

    return write


def by_async_session(durable: Durable, gate: Gate, sessions: list[int]) -> Any:
    @durable.transaction
    async def write(session: AsyncSession) -> None:
        sessions.append((await session.execute(text("select pg_backend_pid()"))).scalar_one())
        await session.execute(text(INSERT))
        await asyncio.to_thread(gate.wait)

    return write.sync


@pytest.fixture
def durable(
    database_url: str, maker: sessionmaker[Any], async_maker: async_sessionmaker[Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Durable]:
    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "0.2")
    durable = Durable(database_url, sources=[SQLAlchemy(maker), SQLAlchemy(async_maker)])
    yield durable
    durable.close()


@pytest.mark.parametrize("make", [by_psycopg, by_psycopg_async, by_session, by_async_session])
def test_what_it_has_begun_is_ended(
    make: Make, durable: Durable, connection: psycopg.Connection[Any], database_url: str, async_engine: AsyncEngine
) -> None:
    connection.execute("create table stock (item text primary key)")
    gate, sessions = Gate(), list[int]()
    write = make(durable, gate, sessions)
    with psycopg.connect(database_url) as bystander, durable.executor():
        bystander.execute("insert into stock values ('of somebody')")
        handle = write.start()
        gate.wait_reached()
        connection.execute(EXPIRE)
        declared = connection.execute(DECLARE_EXPIRED.render("dbdurable")).fetchall()
        assert [ended for *_, ended in declared] == [1]
        wait_until(lambda: connection.execute(ALIVE, [sessions[0]]).fetchone() == (0,))
        gate.go.set()
        handle.result(LIMIT_S)
        bystander.commit()
    assert len(set(sessions)) == 2, "it ran once more, in another session"
    assert connection.execute("select item from stock order by 1").fetchall() == [("of somebody",), ("of the step",)]


def marks(connection: psycopg.Connection[Any]) -> list[int]:
    """What other sessions carry: the marks of their executors, each as its first half."""
    locks = "select classid::bigint from pg_locks where locktype = 'advisory' and granted and mode = 'ShareLock'"
    return [mark for (mark,) in connection.execute(locks).fetchall()]


def test_sessions_of_it_that_have_nothing_open_are_left_alone(
    durable: Durable, connection: psycopg.Connection[Any]
) -> None:
    """The process may be alive: what its other threads do on them needs no executor."""
    sessions = list[int]()

    @durable.transaction
    def write(tx: psycopg.Connection[Any]) -> None:
        sessions.append(tx.info.backend_pid)

    with durable.executor():
        write.start().result(LIMIT_S)
        assert len(marks(connection)) == 1
        connection.execute(EXPIRE)
        declared = connection.execute(DECLARE_EXPIRED.render("dbdurable")).fetchall()
        assert [ended for *_, ended in declared] == [0]
        assert connection.execute(ALIVE, [sessions[0]]).fetchone() == (1,)
