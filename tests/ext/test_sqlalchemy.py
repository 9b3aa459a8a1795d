"""Transactions on SQLAlchemy: the ORM's writes and the step's record are one commit."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from dbdurable import Durable, Retry
from dbdurable._io.drive_async import AsyncDriver
from dbdurable._protocol.effects import Begin, Note, Rollback
from dbdurable.errors import BadConfiguration, NotInTransaction, StepTimeout, WorkflowBlocked
from dbdurable.ext.sqlalchemy import SQLAlchemy
from tests.ext.conftest import on_psycopg
from tests.ext.model import Order

Maker = sessionmaker[Any]
Orders = Callable[[], dict[int, str]]
Records = Callable[[], list[tuple[Any, ...]]]


# ---- one commit ----------------------------------------------------------------------------------------------


def test_writes_and_record_commit_together(
    durable: Durable, maker: Maker, orders: Orders, connection: psycopg.Connection[Any]
) -> None:
    @durable.transaction
    def add(session: Session, order_id: int) -> str:
        session.add(Order(id=order_id, state="new"))
        return "added"

    @durable.workflow
    def work() -> str:
        return add(1)

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "added"
    assert orders() == {1: "new"}
    same = connection.execute(
        "select o.xmin = s.xmin, s.kind::text, s.output::text from orders o, dbdurable.step s"
    ).fetchall()
    assert same == [(True, "transaction", '"added"')]


def test_an_error_undoes_the_writes_and_is_recorded(
    durable: Durable, maker: Maker, orders: Orders, records: Records
) -> None:
    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))
        session.flush()
        raise ValueError("no")

    @durable.workflow
    def work() -> str:
        try:
            add()
        except ValueError as error:
            return str(error)
        return ""

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "no"
    assert (orders(), records()) == ({}, [("add", 1, "ValueError")])


def test_an_error_of_the_flush_is_the_steps_own(
    durable: Durable, maker: Maker, orders: Orders, records: Records
) -> None:
    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))  # flushed after the function

    @durable.workflow
    def work() -> str:
        add()
        try:
            add()
        except IntegrityError as error:
            return type(error.orig).__name__
        return ""

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "UniqueViolation"
    assert orders() == {1: "new"}
    assert records() == [("add", 1, None), ("add", 1, "IntegrityError")]


def test_retries_run_in_sessions_of_their_own(durable: Durable, maker: Maker, orders: Orders, records: Records) -> None:
    sessions: list[Session] = []

    @durable.transaction(retry=Retry(3, initial=0))
    def add(session: Session) -> int:
        sessions.append(session)
        session.add(Order(id=len(sessions), state="new"))
        session.flush()
        if len(sessions) < 3:
            raise ValueError(len(sessions))
        return len(sessions)

    @durable.workflow
    def work() -> int:
        return add()

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == 3
    assert len(set(map(id, sessions))) == 3
    assert (orders(), records()) == ({3: "new"}, [("add", 3, None)])


def test_serialization_failures_run_the_body_again_without_an_attempt(
    durable: Durable, maker: Maker, orders: Orders, records: Records, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("insert into orders values (1, '')")
    runs: list[str] = []

    @durable.transaction(isolation="repeatable read")
    def change(session: Session) -> str:
        order = session.get_one(Order, 1)
        runs.append(session.scalar(text("select current_setting('transaction_isolation')")) or "")
        if len(runs) == 1:
            connection.execute("update orders set state = 'theirs'")
        order.state += "+ours"
        return order.state

    @durable.workflow
    def work() -> str:
        return change()

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "theirs+ours"
    assert runs == ["repeatable read"] * 2
    assert (orders(), records()) == ({1: "theirs+ours"}, [("change", 1, None)])
    with maker() as session:  # the level does not stay with the pool's connection
        assert session.scalar(text("select current_setting('transaction_isolation')")) == "read committed"


def test_a_flush_fills_in_what_the_result_needs(durable: Durable, maker: Maker) -> None:
    @durable.transaction
    def add(session: Session) -> dict[str, int]:
        order = Order(state="new")
        session.add(order)
        session.flush()
        return {"id": order.id}

    @durable.workflow
    def work() -> int:
        return add()["id"]

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == 1


@pytest.mark.parametrize("point", ["after call", "after record"])
def test_a_connection_lost_before_the_commit_leaves_nothing_and_runs_again(
    durable: Durable, maker: Maker, orders: Orders, records: Records, connection: psycopg.Connection[Any], point: str
) -> None:
    ran: list[int] = []

    @durable.transaction
    def add(session: Session) -> int:
        ran.append(session.scalar(text("select pg_backend_pid()")) or 0)
        session.add(Order(id=len(ran), state="new"))
        session.flush()
        if len(ran) == 1 and point == "after call":
            connection.execute("select pg_terminate_backend(%s, 5000)", ran)
        return len(ran)

    @durable.workflow
    def work() -> int:
        return add()

    def end_backend(_: Session) -> None:
        if len(ran) == 1 and point == "after record":
            connection.execute("select pg_terminate_backend(%s, 5000)", ran)

    event.listen(maker, "before_commit", end_backend)
    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == 2
    assert (orders(), records()) == ({2: "new"}, [("add", 1, None)])


def test_a_commit_without_an_answer_is_found_and_not_repeated(
    durable: Durable, maker: Maker, orders: Orders, records: Records
) -> None:
    ran: list[int] = []

    @durable.transaction
    def add(session: Session) -> int:
        ran.append(1)
        session.add(Order(id=len(ran), state="new"))
        driver: Any = session.connection().connection.driver_connection
        commit_really = driver.pipeline

        def cut() -> Any:
            del driver.pipeline
            return _CutAfter(commit_really(), driver)

        driver.pipeline = cut
        return len(ran)

    @durable.workflow
    def work() -> int:
        return add()

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == 1
    assert (orders(), records()) == ({1: "new"}, [("add", 1, None)])


class _CutAfter:
    """A pipeline whose answers arrive, and whose connection is gone before anybody has seen them."""

    def __init__(self, pipeline: Any, driver: Any) -> None:
        self.pipeline, self.driver = pipeline, driver

    def __enter__(self) -> Any:
        return self.pipeline.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self.pipeline.__exit__(*exc)
        self.driver.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")


def test_a_cancelled_workflow_commits_nothing(durable: Durable, maker: Maker, orders: Orders) -> None:
    inside, go = threading.Event(), threading.Event()

    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))
        session.flush()
        inside.set()
        assert go.wait(10)

    @durable.workflow
    def work() -> None:
        add()

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        handle = work.start()
        assert inside.wait(10)
        handle.cancel("enough")
        go.set()
        with pytest.raises(Exception, match="enough"):
            handle.result(10)
    assert orders() == {}


def test_hooks_run_and_a_failing_one_behind_the_commit_changes_nothing(
    durable: Durable, maker: Maker, orders: Orders, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    @durable.transaction
    def add(session: Session) -> str:
        session.add(Order(id=1, state="new"))
        return "added"

    @durable.workflow
    def work() -> str:
        return add()

    def write_more(session: Session) -> None:
        seen.append("before")
        session.add(Order(id=2, state="by a hook"))

    def fail(_: Session) -> None:
        seen.append("after")
        raise RuntimeError("mail server away")

    event.listen(maker, "before_commit", write_more)
    event.listen(maker, "after_commit", fail)
    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor(), caplog.at_level(logging.ERROR, "dbdurable"):
        assert work() == "added"
    assert seen == ["before", "after"]
    assert orders() == {1: "new", 2: "by a hook"}
    assert records() == [("add", 1, None)]
    assert "add has committed" in caplog.text


def test_deferred_constraints_fail_the_step_at_commit(
    durable: Durable, maker: Maker, orders: Orders, records: Records, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("alter table orders add unique (state) deferrable initially deferred")

    @durable.transaction
    def add(session: Session) -> None:
        session.add_all([Order(id=1, state="same"), Order(id=2, state="same")])

    @durable.workflow
    def work() -> str:
        try:
            add()
        except psycopg.errors.UniqueViolation:
            return "refused"
        return ""

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "refused"
    assert (orders(), records()) == ({}, [("add", 1, "UniqueViolation")])


# ---- what the function may do, and what not ------------------------------------------------------------------


def test_savepoints_are_allowed(durable: Durable, maker: Maker, orders: Orders) -> None:
    @durable.transaction
    def add(session: Session) -> str:
        session.add(Order(id=1, state="new"))
        session.flush()
        try:
            with session.begin_nested():
                session.add(Order(id=1, state="twice"))
        except IntegrityError:
            pass
        with session.begin_nested() as savepoint:
            session.add(Order(id=2, state="undone"))
            savepoint.rollback()
        with session.begin_nested():
            session.add(Order(id=3, state="nested"))
        return "done"

    @durable.workflow
    def work() -> str:
        return add()

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "done"
    assert orders() == {1: "new", 3: "nested"}


def driver_of(session: Session) -> Any:
    return session.connection().connection.driver_connection


def with_session(session: Session) -> None:
    with session:
        pass


def in_nested(session: Session) -> None:
    session.begin_nested()
    session.commit()


FORBIDDEN: dict[str, Callable[[Session], Any]] = {
    "session.commit": lambda session: session.commit(),
    "session.rollback": lambda session: session.rollback(),
    "session.close": lambda session: session.close(),
    "session.reset": lambda session: session.reset(),
    "session.invalidate": lambda session: session.invalidate(),
    "with session": with_session,
    "session.commit in a savepoint": in_nested,
    "transaction.commit": lambda session: session.get_transaction().commit(),  # type: ignore[union-attr]
    "connection.commit": lambda session: session.connection().commit(),
    "connection.rollback": lambda session: session.connection().rollback(),
    "connection.close": lambda session: session.connection().close(),
    "connection.detach": lambda session: session.connection().detach(),
    "connection.transaction.commit": lambda session: session.connection().get_transaction().commit(),  # type: ignore[union-attr]
    "driver.commit": lambda session: driver_of(session).commit(),
    "driver.close": lambda session: driver_of(session).close(),
}


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("call", FORBIDDEN)
def test_calls_that_would_end_the_transaction_raise(
    durable: Durable, maker: Maker, orders: Orders, call: str, swallowed: bool
) -> None:
    teaching: list[str] = []

    @durable.transaction
    def add(session: Session) -> str:
        session.add(Order(id=1, state="new"))
        session.flush()
        try:
            FORBIDDEN[call](session)
        except NotInTransaction as error:
            teaching.append(str(error))
            if not swallowed:
                raise
        return "went on"

    @durable.workflow
    def work() -> str:
        try:
            return add()
        except NotInTransaction:
            return "refused"

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        result = work()
    assert "inside transaction add" in teaching[0]
    assert "begin_nested" in teaching[0] or "connection.transaction()" in teaching[0]
    if not swallowed:
        assert (result, orders()) == ("refused", {})
    else:  # either nothing has happened to the transaction, or nothing commits
        assert (result, orders()) in [("went on", {1: "new"}), ("refused", {})]


ROLLBACKS: dict[str, Callable[[Session], Any]] = {
    "transaction.rollback": lambda session: session.get_transaction().rollback(),  # type: ignore[union-attr]
    "transaction.close": lambda session: session.get_transaction().close(),  # type: ignore[union-attr]
    "connection.transaction.rollback": lambda session: session.connection().get_transaction().rollback(),  # type: ignore[union-attr]
    "connection.invalidate": lambda session: session.connection().invalidate(),
    "driver.rollback": lambda session: driver_of(session).rollback(),
}


@pytest.mark.parametrize("call", ROLLBACKS)
def test_side_doors_to_a_rollback_leave_nothing_behind(
    durable: Durable, maker: Maker, orders: Orders, records: Records, call: str
) -> None:
    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="lost"))
        session.flush()
        ROLLBACKS[call](session)
        session.add(Order(id=2, state="behind"))

    @durable.workflow
    def work() -> str:
        try:
            add()
        except Exception as error:
            return type(error).__name__
        return "went on"

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "NotInTransaction"
    assert (orders(), records()) == ({}, [("add", 1, "NotInTransaction")])


@pytest.mark.parametrize("statement", ["commit", "rollback", "commit; begin", "rollback; begin"])
def test_ending_it_with_sql_blocks_the_workflow(
    durable: Durable, maker: Maker, records: Records, statement: str
) -> None:
    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))
        session.flush()
        session.execute(text(statement))

    @durable.workflow
    def work() -> None:
        add()

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor(), pytest.raises(WorkflowBlocked, match="ended its own transaction"):
        work()
    assert records() == []


@pytest.mark.parametrize("how", ["flush", "execute"])
def test_a_swallowed_database_error_cannot_commit(durable: Durable, maker: Maker, orders: Orders, how: str) -> None:
    @durable.transaction
    def add(session: Session) -> str:
        session.add(Order(id=1, state="new"))
        session.flush()
        try:
            if how == "flush":
                session.add(Order(id=1, state="twice"))
                session.flush()
            else:
                session.execute(text("insert into orders values (1, 'twice')"))
        except IntegrityError:
            pass
        return "as if nothing had happened"

    @durable.workflow
    def work() -> str:
        try:
            return add()
        except NotInTransaction as error:
            return str(error)

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert "begin_nested" in work()
    assert orders() == {}


def test_a_pool_that_keeps_nothing(durable: Durable, database_url: str, engine: Engine, orders: Orders) -> None:
    maker = sessionmaker(create_engine(on_psycopg(database_url), poolclass=NullPool))

    @durable.transaction
    def add(session: Session, ok: bool) -> None:
        session.add(Order(state="new"))
        session.flush()
        if not ok:
            raise ArithmeticError

    @durable.workflow
    def work() -> None:
        add(True)
        with pytest.raises(ArithmeticError):
            add(False)

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        work()
    assert list(orders().values()) == ["new"]


def test_a_timeout_ends_the_statement_and_the_transaction(durable: Durable, maker: Maker, orders: Orders) -> None:
    @durable.transaction(timeout=0.2)
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))
        session.flush()
        session.execute(text("select pg_sleep(30)"))

    @durable.workflow
    def work() -> str:
        try:
            add()
        except StepTimeout:
            return "too slow"
        return ""

    durable.configure(sources=[SQLAlchemy(maker)])
    with durable.executor():
        assert work() == "too slow"
    assert orders() == {}


# ---- other first parameters ----------------------------------------------------------------------------------


def test_scoped_sessions_are_the_steps_session_while_it_runs(durable: Durable, maker: Maker, orders: Orders) -> None:
    db = scoped_session(maker)

    def by_global(order_id: int) -> None:
        db.add(Order(id=order_id, state="by the global session"))

    @durable.transaction
    def add(session: Session) -> bool:
        by_global(1)
        return db() is session

    @durable.transaction
    def fail(session: Session) -> None:
        by_global(2)
        db.flush()
        raise ArithmeticError

    @durable.transaction(timeout=10)  # on a thread of its own
    def add_in_time(session: Session) -> bool:
        by_global(3)
        return db() is session

    @durable.transaction
    def forbidden(session: Session) -> None:
        db.remove()

    @durable.workflow
    def work() -> list[bool]:
        mine = db()
        same = [add()]
        with pytest.raises(ArithmeticError):
            fail()
        same.append(add_in_time())
        with pytest.raises(NotInTransaction):
            forbidden()
        same.append(db() is mine)
        db.remove()
        same.append(add())  # an error here would be a repetition of id 1
        return same

    durable.configure(sources=[SQLAlchemy(db)])
    with durable.executor():
        with pytest.raises(IntegrityError):
            work()
        assert not db.registry.has()
    assert orders() == {1: "by the global session", 3: "by the global session"}


def test_connections(durable: Durable, engine: Engine, orders: Orders, records: Records) -> None:
    @durable.transaction(isolation="serializable")
    def add(tx: sa.Connection, order_id: int) -> str:
        tx.execute(sa.insert(Order).values(id=order_id, state="core"))
        try:
            with tx.begin_nested():
                tx.execute(sa.insert(Order).values(id=order_id, state="twice"))
        except IntegrityError:
            pass
        return str(tx.scalar(text("select current_setting('transaction_isolation')")))

    @durable.transaction
    def commits(tx: sa.Connection) -> None:
        tx.commit()

    @durable.transaction
    def fails(tx: sa.Connection) -> None:
        tx.execute(sa.insert(Order).values(id=2, state="core"))
        raise ArithmeticError

    @durable.workflow
    def work() -> str:
        with pytest.raises(NotInTransaction, match=r"connection\.commit\(\) inside transaction commits"):
            commits()
        with pytest.raises(ArithmeticError):
            fails()
        return add(1)

    durable.configure(sources=[SQLAlchemy(engine)])
    with durable.executor():
        assert work() == "serializable"
    assert orders() == {1: "core"}
    assert [name for name, *_ in records()] == ["commits", "fails", "add"]


async def test_async_sessions(durable: Durable, async_maker: Any, orders: Orders, records: Records) -> None:
    @durable.transaction(isolation="repeatable read")
    async def add(session: AsyncSession, order_id: int) -> str:
        session.add(Order(id=order_id, state="async"))
        try:
            async with session.begin_nested():
                await session.execute(sa.insert(Order).values(id=order_id, state="twice"))
        except IntegrityError:
            pass
        return str(await session.scalar(text("select current_setting('transaction_isolation')")))

    @durable.transaction
    async def fails(session: AsyncSession) -> None:
        session.add(Order(id=1, state="twice"))

    @durable.workflow
    async def work() -> str:
        isolation = await add(1)
        with pytest.raises(IntegrityError):
            await fails()
        return isolation

    durable.configure(sources=[SQLAlchemy(async_maker)])
    async with durable.executor():
        assert await work() == "repeatable read"
    assert orders() == {1: "async"}
    assert records() == [("add", 1, None), ("fails", 1, "IntegrityError")]


async def aclose(session: AsyncSession) -> None:
    async with session:
        pass


ASYNC_FORBIDDEN: dict[str, Callable[[AsyncSession], Any]] = {
    "commit": lambda session: session.commit(),
    "rollback": lambda session: session.rollback(),
    "close": lambda session: session.close(),
    "async with session": aclose,
    "aclose": lambda session: session.aclose(),
    "sync_session.commit": lambda session: session.run_sync(lambda s: s.commit()),
}


@pytest.mark.parametrize("call", ASYNC_FORBIDDEN)
async def test_async_calls_that_would_end_the_transaction_raise(
    durable: Durable, async_maker: Any, orders: Orders, call: str
) -> None:
    @durable.transaction
    async def add(session: AsyncSession) -> None:
        session.add(Order(id=1, state="new"))
        await session.flush()
        await ASYNC_FORBIDDEN[call](session)

    @durable.workflow
    async def work() -> None:
        await add()

    durable.configure(sources=[SQLAlchemy(async_maker)])
    async with durable.executor():
        with pytest.raises(NotInTransaction, match="inside transaction add"):
            await work()
    assert orders() == {}


async def test_async_driver_side_doors(durable: Durable, async_maker: Any, orders: Orders) -> None:
    async def driver(session: AsyncSession) -> Any:
        return (await (await session.connection()).get_raw_connection()).driver_connection

    @durable.transaction
    async def commits(session: AsyncSession) -> None:
        session.add(Order(id=1, state="new"))
        await session.flush()
        await (await driver(session)).commit()

    @durable.transaction
    async def rolls_back(session: AsyncSession) -> None:
        session.add(Order(id=1, state="new"))
        await session.flush()
        await (await driver(session)).rollback()

    @durable.workflow
    async def work() -> None:
        for step in (commits, rolls_back):
            with pytest.raises(NotInTransaction):
                await step()

    durable.configure(sources=[SQLAlchemy(async_maker)])
    async with durable.executor():
        await work()
    assert orders() == {}


async def test_async_connections(durable: Durable, async_engine: AsyncEngine, orders: Orders) -> None:
    @durable.transaction
    async def add(tx: AsyncConnection, order_id: int) -> None:
        await tx.execute(sa.insert(Order).values(id=order_id, state="async core"))
        async with tx.begin_nested():
            await tx.execute(sa.insert(Order).values(id=order_id + 1, state="nested"))

    @durable.transaction
    async def commits(tx: AsyncConnection) -> None:
        await tx.commit()

    @durable.workflow
    async def work() -> None:
        await add(1)
        with pytest.raises(NotInTransaction):
            await commits()

    durable.configure(sources=[SQLAlchemy(async_engine)])
    async with durable.executor():
        await work()
    assert orders() == {1: "async core", 2: "nested"}


async def test_an_async_connection_lost_before_the_commit_runs_again(
    durable: Durable, async_maker: Any, orders: Orders, records: Records, connection: psycopg.Connection[Any]
) -> None:
    ran: list[Any] = []

    @durable.transaction
    async def add(session: AsyncSession) -> int:
        ran.append(await session.scalar(text("select pg_backend_pid()")))
        session.add(Order(id=len(ran), state="new"))
        await session.flush()
        if len(ran) == 1:
            connection.execute("select pg_terminate_backend(%s, 5000)", ran)
        return len(ran)

    @durable.workflow
    async def work() -> int:
        return await add()

    durable.configure(sources=[SQLAlchemy(async_maker)])
    async with durable.executor():
        assert await work() == 2
    assert (orders(), records()) == ({2: "new"}, [("add", 1, None)])


def test_several_sources_serve_by_annotation(durable: Durable, engine: Engine, maker: Maker) -> None:
    class Special(Session):
        pass

    special = sessionmaker(engine, class_=Special)

    @durable.transaction
    def orm(session: Session) -> str:
        return type(session).__mro__[1].__name__

    @durable.transaction
    def orm_special(session: Special) -> str:
        return type(session).__mro__[1].__name__

    @durable.transaction
    def core(tx: sa.Connection) -> str:
        return type(tx).__name__

    @durable.transaction
    def raw(tx: psycopg.Connection) -> str:
        return type(tx).__name__

    @durable.workflow
    def work() -> list[str]:
        return [orm(), orm_special(), core(), raw()]

    durable.configure(sources=[SQLAlchemy(maker), SQLAlchemy(special), SQLAlchemy(engine)])
    with durable.executor():
        assert work() == ["Session", "Special", "Connection", "StepConnection"]


def test_starts_inside_a_transaction_are_in_its_commit(durable: Durable, maker: Maker, connection: Any) -> None:
    @durable.workflow
    def other() -> None: ...

    @durable.transaction
    def start(session: Session, ok: bool) -> None:
        other.start()
        if not ok:
            raise ArithmeticError

    @durable.workflow
    def work(ok: bool) -> None:
        start(ok)

    durable.configure(sources=[SQLAlchemy(maker)])
    count = "select count(*) from dbdurable.workflow where name = 'other'"
    with durable.executor():
        with pytest.raises(ArithmeticError):
            work(False)
        assert connection.execute(count).fetchone() == (0,)
        work(True)
        assert connection.execute(count).fetchone() == (1,)


# ---- what cannot work says so --------------------------------------------------------------------------------


def test_other_databases_and_drivers_are_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"not on sqlite\+pysqlite: a step's record"):
        SQLAlchemy(create_engine("sqlite://"))
    with pytest.raises(BadConfiguration, match=r"not on sqlite\+pysqlite"):
        SQLAlchemy(sessionmaker(create_engine("sqlite://")))
    with pytest.raises(BadConfiguration, match="takes a sessionmaker"):
        SQLAlchemy(Session)  # type: ignore[arg-type]


def test_a_driver_that_is_found_out_late_fails_the_step(durable: Durable, maker: Maker) -> None:
    unbound: Maker = sessionmaker()
    source = SQLAlchemy(unbound)
    unbound.configure(bind=create_engine("sqlite://"))

    @durable.transaction
    def add(session: Session) -> None: ...

    @durable.workflow
    def work() -> None:
        add()

    durable.configure(sources=[source])
    with durable.executor(), pytest.raises(BadConfiguration, match="sqlite"):
        work()


def test_engines_that_commit_each_statement_are_refused(durable: Durable, engine: Engine) -> None:
    @durable.transaction
    def add(session: Session) -> None: ...

    @durable.workflow
    def work() -> None:
        add()

    auto = engine.execution_options(isolation_level="AUTOCOMMIT")
    durable.configure(sources=[SQLAlchemy(sessionmaker(auto))])
    with durable.executor(), pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
        work()


@pytest.mark.parametrize("options", [{"twophase": True}, {"bind": "a connection in a transaction"}])
def test_sessions_whose_commit_is_not_one_are_refused(
    durable: Durable, engine: Engine, orders: Orders, records: Records, options: dict[str, Any]
) -> None:
    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))

    @durable.workflow
    def work() -> str:
        try:
            add()
        except (BadConfiguration, NotInTransaction) as error:
            return str(error)
        return ""

    with engine.connect() as outer, outer.begin():
        bind: Any = outer if "bind" in options else engine
        durable.configure(sources=[SQLAlchemy(sessionmaker(bind, twophase="twophase" in options))])
        with durable.executor():
            assert "bind the sessionmaker to an engine" in work() or "twophase" in work()
    assert orders() == {}
    assert all(error is not None for *_, error in records())


def test_without_a_source_the_error_names_it(durable: Durable) -> None:
    @durable.transaction
    def add(session: Session) -> None: ...

    @durable.workflow
    def work() -> None:
        add()

    with durable.executor(), pytest.raises(BadConfiguration, match=r"sources=\[SQLAlchemy\(sessionmaker\)\]"):
        work()


def test_a_pool_without_free_connections_is_waited_for(
    durable: Durable, database_url: str, engine: Engine, orders: Orders
) -> None:
    small = create_engine(on_psycopg(database_url), pool_size=1, max_overflow=0, pool_timeout=0.05)

    @durable.transaction
    def add(session: Session) -> None:
        session.add(Order(id=1, state="new"))

    @durable.workflow
    def work() -> None:
        add()

    asked, asks = threading.Event(), list[int]()

    def maker(**_: object) -> Session:
        asks.append(1)
        if len(asks) == 3:
            asked.set()
        return Session(small)

    durable.configure(sources=[SQLAlchemy(scoped_session(maker))])  # type: ignore[arg-type]
    with durable.executor():
        with small.connect():
            handle = work.start()
            assert asked.wait(10)
        handle.result(10)
    assert orders() == {1: "new"}
    small.dispose()


async def test_who_is_cancelled_twice_while_rolling_back_gives_the_connection_back(
    durable: Durable, async_engine: AsyncEngine
):
    driver = AsyncDriver(durable._runtime.database)
    await driver._perform(Begin(SQLAlchemy(async_engine), None, None, Note("1", 1), "step"))
    assert async_engine.pool.checkedout() == 1  # type: ignore[attr-defined]
    assert driver._unit is not None
    async with driver._unit.connection.lock:
        rolling_back = asyncio.ensure_future(driver._perform(Rollback()))
        for _ in range(2):
            await asyncio.sleep(0)
            rolling_back.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await rolling_back
    assert async_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
