"""Bad input: each time an error of the library's own with a sentence, and no row in any table."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo

from dbdurable import Client, Durable, Retry, current_step
from dbdurable.errors import (
    BadArgument,
    BadConfiguration,
    DatabaseUnavailable,
    DurableError,
    KeyConflict,
    NotInTransaction,
    RemoteError,
    SchemaMismatch,
    UnknownWorkflow,
    WorkflowBlocked,
    WrongColour,
)
from tests.api.conftest import Unchanged, rows_by_table

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  (what is under test)
HOSTILE = [
    "'; drop table stock; --",
    '"; drop schema dbdurable cascade; --',
    "x" * 10_000,
    "🦀",
    "a\0b",
    "",
    " ",
    "a\nb",
]


class Shop:
    """A workflow, a step and a transaction that take anything."""

    def __init__(self, durable: Durable) -> None:
        @durable.workflow
        def echo(value: Any, *, loud: bool = False) -> Any:
            return value

        @durable.workflow
        def checkout(order_id: int, gift: bool = False) -> str:
            return f"r-{order_id}"

        self.durable, self.echo, self.checkout = durable, echo, checkout


@pytest.fixture
def shop(durable: Durable) -> Shop:
    return Shop(durable)


# ---- arguments ---------------------------------------------------------------------------------------------


def cycle() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


UNSTORABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "nan": (lambda: float("nan"), "NaN"),
    "infinity in a list": (lambda: [1, float("inf")], "NaN or an infinity"),
    "nul": (lambda: "a\0b", "NUL"),
    "nul in a key": (lambda: {"a\0b": 1}, "NUL"),
    "lone surrogate": (lambda: "\ud800", "surrogate"),
    "lambda": (lambda: lambda: 1, "function"),
    "cycle": (cycle, "contains itself"),
    "too deep": (lambda: nested(150), "deeper than 100 levels"),
    "far too deep": (lambda: nested(100_000), "deeper than 100 levels"),
    "10 MB": (lambda: "x" * 10_000_000, "at most 4,194,304 are allowed: store it elsewhere"),
    "connection": (lambda: object(), "object"),
    "huge int": (lambda: 10**5000, "more than 4300 digits"),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_argument_that_cannot_be_stored(case: str, shop: Shop, database_url: str, unchanged: Unchanged):
    make, words = UNSTORABLE[case]
    value = make()
    with Client(database_url) as client, psycopg.connect(database_url) as conn, shop.durable.executor():
        ways: list[Callable[[], object]] = [
            lambda: shop.echo(value),
            lambda: shop.echo.start(value),
            lambda: shop.echo.options(tx=conn).start(value),
            lambda: shop.echo.options(key="k").start(value=value),
            lambda: client.workflow("echo").start(value=value),
            lambda: client.workflow("echo").start(value),
        ]
        with unchanged():
            for way in ways:
                with pytest.raises(BadArgument) as error:
                    way()
                assert words in str(error.value)
                assert "echo" in str(error.value)
                assert len(str(error.value)) < 400
            conn.commit()


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing argument order_id"),
        ((1, True, 3), {}, "takes 2 positional arguments, got 3"),
        ((1,), {"order_id": 1}, "got argument order_id twice"),
        ((1,), {"gfit": True}, "has no parameter gfit"),
        (("x",), {}, "argument order_id of workflow checkout must be int, got str 'x'"),
        ((None,), {}, "argument order_id of workflow checkout must be int, got None"),
        ((1, "yes"), {}, "argument gift of workflow checkout must be bool"),
    ],
)
def test_arguments_that_do_not_fit(args: Any, kwargs: Any, words: str, shop: Shop, unchanged: Unchanged):
    with shop.durable.executor(), unchanged():
        for call in (shop.checkout, shop.checkout.start, shop.checkout.options(key="k").start):
            with pytest.raises(BadArgument) as error:
                call(*args, **kwargs)
            assert words in str(error.value)
        if "takes" in words or "missing" in words:
            assert "it takes (order_id: int, gift: bool = False)" in str(error.value)


def test_client_does_not_mix_names_and_positions(shop: Shop, unchanged: Unchanged):
    with unchanged(), pytest.raises(BadArgument, match="all by name"):
        shop.durable.client.workflow("checkout").start(1, gift=True)


def test_arguments_that_fit_nothing_fail_at_the_workflow(shop: Shop, database_url: str):
    """Without the code only the executor can tell: the workflow fails, with the same sentence."""
    with shop.durable.executor(), Client(database_url) as client:
        for kwargs, words in (({"order": 1}, "has no parameter order"), ({"order_id": "x"}, "argument order_id")):
            with pytest.raises(BadArgument, match=words):
                client.workflow("checkout").start(**kwargs).result(10)


# ---- names, keys, options ----------------------------------------------------------------------------------


def test_unknown_workflow_by_client_and_sql(shop: Shop, connection: Connection[Any], unchanged: Unchanged):
    client = shop.durable.client
    with unchanged():
        for name in ("nope", "Orders.nope", "ünknown"):
            with pytest.raises(UnknownWorkflow, match="no executor has registered"):
                client.workflow(name).start()
        for name in HOSTILE[:4]:
            with pytest.raises(psycopg.Error) as error:
                connection.execute("select dbdurable.start(%s, '{}')", [name])
            assert error.value.sqlstate == "DD004"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str, shop: Shop, database_url: str, stock: Connection[Any], unchanged: Unchanged):
    client = shop.durable.client
    with shop.durable.executor(), unchanged():
        for error, way in [
            (BadConfiguration, lambda: Durable(database_url, schema=name)),
            (BadConfiguration, lambda: shop.durable.workflow(name=name)(cycle)),
            (BadArgument, lambda: shop.durable.workflow(queue=name)(cycle)),
            (BadArgument, lambda: shop.durable.queue(name)),
            (BadArgument, lambda: shop.durable.executor(queues=[name])),
            (BadArgument, lambda: client.workflow(name)),
            (BadArgument, lambda: shop.checkout.options(queue=name).start(1)),
            (BadArgument, lambda: shop.checkout.handle(name)),
            (BadArgument, lambda: client.handle(name)),
        ]:
            with pytest.raises(error) as caught:
                way()  # type: ignore[no-untyped-call]
            assert len(str(caught.value)) < 300
            assert "\0" not in str(caught.value)
    with pytest.raises(DurableError):
        Client(database_url, schema=name).workflows()
    assert stock.execute("select count(*) from stock").fetchone() == (0,)


def test_keys_are_any_text_within_bounds(shop: Shop, stock: Connection[Any], unchanged: Unchanged):
    with unchanged():
        for key in ("x" * 10_000, "a\0b", "", "\ud800", 42, b"x"):
            for option in ("key", "partition") if key else ("key",):
                with pytest.raises(BadArgument, match="key"):
                    shop.checkout.options(**{option: key}).start(1)  # type: ignore[arg-type]
    for key in ("'; drop table stock; --", "🦀", " ", "x" * 512):
        started = shop.checkout.options(key=key, partition=key).start(1)
        assert shop.checkout.handle(key=key).info().key == key
        assert shop.checkout.handle(key=key).id == started.id
    assert stock.execute("select count(*) from stock").fetchone() == (0,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": -1}, "delay= must not be negative"),
        ({"delay": float("nan")}, "delay= must be a timedelta or a number of seconds, got nan"),
        ({"delay": timedelta(seconds=-1)}, "delay= must not be negative"),
        ({"delay": "5m"}, "delay= must be a timedelta or a number of seconds"),
        ({"delay": 1e300}, "delay= must be less than a hundred years"),
        ({"expires": -1}, "expires= must not be negative"),
        ({"timeout": -1}, "timeout= must not be negative"),
        ({"at": NAIVE}, "no time zone"),
        ({"at": "tomorrow"}, "at= takes an aware datetime"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "pass one of them"),
        ({"id": "42"}, "id= takes a uuid.UUID"),
        ({"priority": 1.5}, "priority= takes a whole number"),
        ({"priority": 10**9}, "from -10000 to 10000"),
        ({"priority": True}, "priority= takes a whole number"),
        ({"attributes": {"a": object()}}, "attributes= takes a mapping of plain JSON values"),
        ({"attributes": {"a": float("nan")}}, "attributes= takes a mapping of plain JSON values"),
        ({"attributes": {"a": "b\0"}}, "NUL"),
        ({"attributes": {"a": "\ud800"}}, "attributes="),
        ({"attributes": {"a": cycle()}}, "attributes= takes a mapping of plain JSON values"),
        ({"attributes": {"a": nested(100_000)}}, "attributes= takes a mapping of plain JSON values"),
        ({"attributes": {"a": "x" * 10_000_000}}, "attributes="),
        ({"attributes": [1]}, "attributes= takes a mapping"),
        ({"queue": 3}, "the name of a queue must be a str"),
        ({"retry": 5}, "retry= goes with a call inside a workflow"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str, shop: Shop, unchanged: Unchanged):
    with unchanged(), pytest.raises(DurableError) as error:
        shop.checkout.options(**options).start(1)
    assert words in str(error.value)
    assert len(str(error.value)) < 400


def test_key_with_other_arguments(shop: Shop, database_url: str, connection: Connection[Any], unchanged: Unchanged):
    with shop.durable.executor():
        shop.checkout.options(key="k").start(1).result(10)
        with Client(database_url) as client, psycopg.connect(database_url) as conn, unchanged():
            for way in (
                lambda: shop.checkout.options(key="k")(2),
                lambda: shop.checkout.options(key="k").start(2),
                lambda: shop.checkout.options(key="k", tx=conn).start(1, gift=True),
                lambda: client.workflow("checkout").options(key="k").start(order_id=2, gift=False),
            ):
                with pytest.raises(KeyConflict, match=r"'k' already started checkout with other arguments"):
                    way()
                conn.rollback()
            with pytest.raises(psycopg.Error, match="already started checkout with other arguments") as error:
                connection.execute("""select dbdurable.start('checkout', '{"order_id": 2}', key => 'k')""")
            assert error.value.sqlstate == "DD003"


# ---- decorators, executor, configuration -------------------------------------------------------------------


def test_bad_decorator_arguments(durable: Durable):
    for words, way in [
        ("retry= takes a number of attempts or a Retry", lambda: durable.step(retry="5")),
        ("max_attempts must be at least 1", lambda: durable.step(retry=0)),
        ("max_attempts must be at least 1", lambda: durable.step(retry=Retry(-3))),
        ("max_attempts must be at most 32,767, or None for ever", lambda: durable.step(retry=Retry(32_768))),
        ("retry", lambda: durable.step(retry=Retry(initial=-1))),
        ("retry", lambda: durable.step(retry=Retry(on="ConnectionError"))),  # type: ignore[arg-type]
        ("timeout= must not be negative", lambda: durable.step(timeout=-1)),
        ("timeout= must be a timedelta or a number", lambda: durable.workflow(timeout="1h")),
        ("isolation= takes one of read committed", lambda: durable.transaction(isolation="x")),
        ("max_attempts= takes a whole number", lambda: durable.workflow(max_attempts=0)),
        ("must be a str", lambda: durable.step(name=3)),
        ("has no option", lambda: durable.transaction(queue="x")),
    ]:

        def fn(tx: Connection[Any]) -> None: ...

        with pytest.raises((BadConfiguration, BadArgument)) as error:
            way()(fn)  # type: ignore[operator]
        assert words in str(error.value)


def test_bad_executors(shop: Shop, unchanged: Unchanged):
    with unchanged():
        for kwargs, words in (
            ({"threads": -1}, "threads= takes a whole number from 0"),
            ({"tasks": "64"}, "tasks= takes a whole number"),
            ({"threads": True}, "threads= takes a whole number"),
            ({"threads": 10**6}, "threads= takes a whole number"),
            ({"queues": "orders"}, "queues= takes a list"),
            ({"queues": [3]}, "must be a str"),
        ):
            with pytest.raises(DurableError) as error:
                shop.durable.executor(**kwargs)  # type: ignore[arg-type]
            assert words in str(error.value)
        with pytest.raises(BadConfiguration, match=r"no workflow, step or transaction is registered.*include="):
            Durable(shop.durable.url).executor().open()
    with shop.durable.executor() as here:
        for wrong in (-1, float("nan"), "5"):
            with pytest.raises(BadArgument, match="timeout="):
                here.wait_idle(timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(BadConfiguration, match="close it first"):
            shop.durable.configure(schema="other")
        with pytest.raises(BadConfiguration, match="an executor of this Durable is open already"):
            shop.durable.executor().open()
        with pytest.raises(BadArgument, match="timeout="):
            here.close(timeout=-1)
        assert shop.checkout(1) == "r-1"  # still open


def test_bad_configuration(database_url: str):
    for kwargs, words in (
        ({"schemma": "x"}, "no option 'schemma'"),
        ({"schema": 3}, "a schema is named"),
        ({"include": "shop.flows"}, 'include=["shop.flows"]'),
        ({"include": [3]}, "include= takes a list"),
        ({"migrate": "no"}, "migrate= takes True or False"),
        ({"around": 3}, "around= takes a function"),
        ({"sources": [3]}, "sources= takes a list"),
    ):
        with pytest.raises(BadConfiguration) as error:
            Durable(database_url, **kwargs)  # type: ignore[arg-type]
        assert words in str(error.value)
    with pytest.raises(BadConfiguration, match=r"include=\['no_such_module'\]"):
        Durable(database_url, include=["no_such_module"]).executor().open()


def test_bad_questions(shop: Shop, unchanged: Unchanged):
    client = shop.durable.client
    handle = client.handle(uuid4())
    with unchanged():
        for words, way in [
            ("timeout= must not be negative", lambda: handle.result(timeout=-1)),
            ("timeout= must be a timedelta", lambda: handle.result(timeout="5")),
            ("timeout=", lambda: handle.result(timeout=float("nan"))),
            ("limit= takes a whole number from 1", lambda: client.workflows(limit=0)),
            ("limit=", lambda: client.workflows(limit="x")),
            ("limit=", lambda: client.workflows(limit=True)),
            ("status= takes one of queued", lambda: client.workflows(status="failde")),
            ("the name of a workflow", lambda: client.workflows(name=3)),
            ("a workflow's id is a UUID", lambda: client.handle("42")),
            ("a workflow's id is a UUID", lambda: shop.checkout.handle("42")),
            ("a workflow's id is a UUID", lambda: shop.checkout.handle(42)),
            ("key", lambda: shop.checkout.handle(key="")),
            ("NUL", lambda: handle.cancel("a\0b")),
            ("reason", lambda: handle.cancel("x" * 100_000)),
            ("reason", lambda: handle.cancel(3)),
            ("no JSON form", lambda: client.workflow("checkout", returns=type("Socket", (), {}))),
        ]:
            with pytest.raises(DurableError) as error:
                way()  # type: ignore[no-untyped-call]
            assert words in str(error.value)
        for ask in (handle.status, handle.info, handle.cancel, handle.pause, handle.resume, handle.result):
            with pytest.raises(UnknownWorkflow, match=f"there is no workflow {handle.id}"):
                ask()


# ---- databases that cannot be used -------------------------------------------------------------------------


def ways_to_use(durable: Durable) -> list[Callable[[], object]]:
    shop = Shop(durable)
    client = Client(durable.url)
    return [
        lambda: shop.checkout.start(1),
        lambda: durable.executor().open(),
        lambda: durable.client.workflows(),
        lambda: client.workflows(),
        lambda: client.handle(uuid4()).status(),
        lambda: client.workflow("checkout").start(1),
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://ann:s3cr3t@no-such-host.invalid/shop", "the host name is unknown"),
        ("postgresql://ann:s3cr3t@127.0.0.1:9/shop", "nothing answers there"),
        ("postgresql://no_such_role:s3cr3t@", "refuses this user"),
    ],
)
def test_unreachable_database(url: str, words: str, server_url: str):
    if url.endswith("@"):
        url = make_conninfo(server_url, user="no_such_role", password="s3cr3t")
    durable = Durable(url)
    assert "s3cr3t" not in repr(durable) + repr(durable.client)
    for way in ways_to_use(durable):
        with pytest.raises(DatabaseUnavailable, match=words) as error:
            way()
        report = "".join(traceback.format_exception(error.value))
        assert "s3cr3t" not in report + repr(error.value) + repr(error.value.__context__)
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__


def test_url_that_cannot_be_parsed():
    for url in ("postgresql://ann:s3c/r3t#@[", "host", "mysql://ann:s3cr3t@db/shop", "", "postgresql://h:port/x"):
        with pytest.raises(DurableError) as error:
            Durable(url).client.workflows()
        assert "s3c" not in "".join(traceback.format_exception(error.value))


def test_read_only_database(shop: Shop, database_url: str, connection: Connection[Any], unchanged: Unchanged):
    name = connection.info.dbname
    with shop.durable.executor():
        pass  # registers the names
    connection.execute(f"alter database {name} set default_transaction_read_only = on")
    with unchanged():
        for way in ways_to_use(Durable(database_url)):
            if "start" in way.__code__.co_names or "executor" in way.__code__.co_names:
                with pytest.raises(DatabaseUnavailable, match="read-only"):
                    way()


def test_schema_older_newer_and_absent(database_url: str, empty_database_url: str, connection: Connection[Any]):
    with pytest.raises(SchemaMismatch, match="run `dbdurable migrate`"):
        Client(empty_database_url).workflows()
    with pytest.raises(SchemaMismatch, match="run `dbdurable migrate`"):
        Client(database_url, schema="other").workflows()
    connection.execute("insert into dbdurable.migration values (9998, '9998_later.sql', 'x', now(), 0)")
    for way in ways_to_use(Durable(database_url)):
        with pytest.raises(SchemaMismatch, match="newer than this package"):
            way()
    connection.execute("delete from dbdurable.migration where version > 1")
    for way in ways_to_use(Durable(database_url, migrate=False)):
        with pytest.raises(SchemaMismatch, match=r"lacks 0002.*run `dbdurable migrate`"):
            way()


# ---- transactions ------------------------------------------------------------------------------------------


def enter(tx: Connection[Any]) -> None:
    with tx:
        pass


ENDINGS: dict[str, Callable[[Connection[Any]], object]] = {
    "commit": lambda tx: tx.commit(),
    "rollback": lambda tx: tx.rollback(),
    "close": lambda tx: tx.close(),
    "with": enter,
}


@pytest.mark.parametrize("case", ENDINGS)
def test_a_step_does_not_end_its_transaction(case: str, durable: Durable, stock: Connection[Any]):
    @durable.transaction(retry=3)
    def sell(tx: Connection[Any]) -> int:
        tx.execute("insert into stock values ('apple')")
        ENDINGS[case](tx)
        return current_step().attempt

    @durable.workflow
    def shop() -> int:
        return sell()

    with durable.executor(), pytest.raises(NotInTransaction, match=r"\(\) inside transaction sell.*raise"):
        shop()
    assert stock.execute("select count(*) from stock").fetchone() == (0,)


async def test_an_async_step_does_not_end_its_transaction(durable: Durable, stock: Connection[Any]):
    @durable.transaction
    async def sell(tx: AsyncConnection[Any], how: str) -> None:
        await tx.execute("insert into stock values ('apple')")
        await getattr(tx, how)()

    @durable.workflow
    async def shop(how: str) -> None:
        await sell(how)

    async with durable.executor():
        for how in ("commit", "rollback", "close"):
            with pytest.raises(NotInTransaction, match=rf"{how}\(\) inside transaction sell"):
                await shop(how)
    assert stock.execute("select count(*) from stock").fetchone() == (0,)


@pytest.mark.parametrize("statement", ["commit", "rollback", "commit and chain", "commit; begin"])
def test_commit_as_sql_blocks_the_workflow(statement: str, durable: Durable, stock: Connection[Any]):
    @durable.transaction
    def sell(tx: Connection[Any]) -> None:
        tx.execute("insert into stock values ('apple')")
        tx.execute(statement)

    @durable.workflow
    def shop() -> None:
        sell()

    with durable.executor(), pytest.raises(WorkflowBlocked) as error:
        shop()
    assert "ended its own transaction with SQL (COMMIT or ROLLBACK)" in str(error.value)
    status, steps = stock.execute(
        "select status, (select count(*) from dbdurable.steps) from dbdurable.workflows"
    ).fetchone()  # type: ignore[misc]
    assert (status, steps) == ("blocked", 0)


@pytest.mark.parametrize("statement", ["select 1", "commit; begin", "commit and chain"])
def test_the_same_where_transactions_are_deferrable_by_default(
    statement: str, durable: Durable, stock: Connection[Any]
):
    """A step's transaction is told from others by that mode: whichever of both is not the default."""
    stock.execute(f"alter database {stock.info.dbname} set default_transaction_deferrable = on")

    @durable.transaction
    def sell(tx: Connection[Any]) -> tuple[str, ...]:
        tx.execute("insert into stock values ('apple')")
        tx.execute(statement)
        return tx.execute("show transaction_deferrable").fetchone()  # type: ignore[return-value]

    @durable.workflow
    def shop() -> str:
        return sell()[0]

    with durable.executor():
        if statement == "select 1":
            assert shop() == "off"
        else:
            with pytest.raises(WorkflowBlocked, match="ended its own transaction"):
                shop()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_savepoints_and_rollbacks_to_them_are_no_end(isolation: Any, durable: Durable, stock: Connection[Any]):
    @durable.transaction(isolation=isolation)
    def sell(tx: Connection[Any]) -> list[tuple[str]]:
        tx.execute("savepoint before_pear")
        tx.execute("insert into stock values ('pear')")
        tx.execute("rollback to before_pear")
        with tx.transaction():
            tx.execute("insert into stock values ('apple')")
        return tx.execute("select item from stock").fetchall()

    @durable.workflow
    def shop() -> list[tuple[str]]:
        return sell()

    with durable.executor():
        assert shop() == [("apple",)]


def test_swallowed_sql_error(durable: Durable, stock: Connection[Any]):
    @durable.transaction
    def sell(tx: Connection[Any]) -> str:
        tx.execute("insert into stock values ('apple')")
        with suppress(psycopg.errors.UniqueViolation):
            tx.execute("insert into stock values ('apple')")
        return "sold"

    @durable.workflow
    def shop() -> str:
        return sell()

    with durable.executor(), pytest.raises(NotInTransaction, match=r"caught a database error.*savepoint"):
        shop()
    assert stock.execute("select count(*) from stock").fetchone() == (0,)


def test_tx_that_cannot_carry_a_start(shop: Shop, database_url: str, unchanged: Unchanged):
    autocommit = psycopg.connect(database_url, autocommit=True)
    closed = psycopg.connect(database_url)
    closed.close()
    failed = psycopg.connect(database_url)
    with pytest.raises(psycopg.errors.UndefinedTable):
        failed.execute("select 1 from no_such_table")
    elsewhere = psycopg.connect(make_conninfo(database_url, dbname="postgres"))
    with unchanged():
        for tx, kind, words in [
            (autocommit, NotInTransaction, "autocommit connection that is in no transaction"),
            (closed, DatabaseUnavailable, "closed"),
            (failed, NotInTransaction, "aborted"),
            (elsewhere, SchemaMismatch, "check the URL"),
            (object(), BadArgument, "select dbdurable.start("),
            ("postgresql://", BadArgument, "tx= takes a psycopg 3 connection"),
        ]:
            with pytest.raises(kind) as error:
                shop.checkout.options(tx=tx).start(1)  # type: ignore[arg-type]
            assert words in str(error.value)
    with autocommit.transaction():
        shop.checkout.options(tx=autocommit).start(1)
    for connection in (autocommit, failed, elsewhere):
        connection.close()


async def test_tx_of_the_other_colour(shop: Shop, database_url: str, unchanged: Unchanged):
    with psycopg.connect(database_url) as conn, unchanged(), pytest.raises(WrongColour, match="sync Connection"):
        await shop.checkout.aio.options(tx=conn).start(1)  # type: ignore[arg-type]
    closed = await psycopg.AsyncConnection.connect(database_url)
    await closed.close()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await shop.checkout.aio.options(tx=closed).start(1)


def test_async_tx_in_def_code(shop: Shop, database_url: str, unchanged: Unchanged):
    import asyncio

    conn = asyncio.run(psycopg.AsyncConnection.connect(database_url))
    with unchanged(), pytest.raises(WrongColour, match=r"await f.aio.options\(tx=...\)\.start"):
        shop.checkout.options(tx=conn).start(1)  # type: ignore[arg-type]
    conn.pgconn.finish()


# ---- results and errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", UNSTORABLE)
def test_result_that_cannot_be_stored(case: str, durable: Durable):
    make, words = UNSTORABLE[case]

    @durable.step(retry=5)
    def load() -> Any:
        calls.append(1)
        return make()

    @durable.workflow
    def report() -> Any:
        load()

    calls: list[int] = []
    with durable.executor(), pytest.raises(BadArgument) as error:
        report()
    assert "the result of step load" in str(error.value)
    assert words in str(error.value)
    assert len(calls) == 1  # trying again would not mend it


def test_error_whose_class_is_not_loaded(durable: Durable, stock: Connection[Any]):
    class Private(Exception):
        pass

    @durable.step
    def load() -> None:
        raise Private("the disk is full")

    @durable.workflow
    def report() -> str:
        try:
            load()
        except RemoteError as error:
            return f"{error.type.rpartition('.')[2]}: {error.message}"
        return "not raised"

    with durable.executor():
        assert report() == "Private: the disk is full"  # live as on replay
        with pytest.raises(RemoteError, match="Private: the disk is full") as error:
            load.start().result(10)
    assert "raise Private" in error.value.traceback


def test_rows_by_table_sees_every_table(connection: Connection[Any]):
    assert len(rows_by_table(connection)) > 15
