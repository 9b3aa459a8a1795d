"""What a newcomer reads: each common mistake has an error of its own class that says what to write instead."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow

from dbdurable import Client, Durable, Handle, aio, current_step, current_workflow, run_step
from dbdurable.errors import (
    BadArgument,
    BadConfiguration,
    DuplicateName,
    KeyConflict,
    NotInWorkflow,
    NotRunning,
    StepTimeout,
    UnknownWorkflow,
    WrongColour,
)

if TYPE_CHECKING:
    from decimal import Decimal as Money


def says(error: pytest.ExceptionInfo[BaseException], *words: str) -> None:
    """The essential words, in any order."""
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, f"{missing} not in: {error.value}"


class Shop:
    """Functions of each kind and colour, on one application."""

    def __init__(self, durable: Durable) -> None:
        @durable.step
        def charge(order: int) -> str:
            return f"r-{order}"

        @durable.step
        async def acharge(order: int) -> str:
            return f"r-{order}"

        @durable.transaction
        def reserve(tx: Connection, order: int) -> int:
            return order

        @durable.transaction
        async def areserve(tx: AsyncConnection, order: int) -> int:
            return order

        @durable.workflow
        def checkout(order: int) -> str:
            return charge(order)

        @durable.workflow
        async def acheckout(order: int) -> str:
            return await acharge(order)

        self.durable = durable
        self.charge, self.acharge, self.reserve, self.areserve = charge, acharge, reserve, areserve
        self.checkout, self.acheckout = checkout, acheckout


@pytest.fixture
def shop(durable: Durable) -> Shop:
    return Shop(durable)


@pytest.fixture
def offline() -> Shop:
    """An application that never gets to a database."""
    return Shop(Durable("postgresql://nowhere.invalid/x"))


# ---- where calls are allowed -------------------------------------------------------------------------------


def test_step_outside_of_a_workflow(offline: Shop):
    with pytest.raises(NotInWorkflow) as error:
        offline.charge(1)
    says(
        error, "step charge was called outside of a workflow", "nothing would be recorded", "@durable.workflow",
        "`charge.start(...)`", "`charge.fn(...)`",
    )  # fmt: skip
    with pytest.raises(NotInWorkflow) as error:
        offline.reserve(1)
    says(error, "transaction reserve", "`reserve.fn(connection, ...)`")


async def test_step_outside_of_a_workflow_in_async_code(offline: Shop):
    for call in (offline.acharge, offline.charge.aio, offline.areserve):
        with pytest.raises(NotInWorkflow, match="outside of a workflow: nothing would be recorded"):
            call(1)  # when it is made, not when it is awaited


def test_threads_of_a_body_are_outside_of_it(shop: Shop):
    @shop.durable.workflow
    def album() -> list[str]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(shop.charge, [1, 2]))

    with shop.durable.executor(), pytest.raises(NotInWorkflow) as error:
        album()
    says(
        error, "step charge was called outside of a workflow", "A thread that a workflow's body starts is outside of it"
    )


def test_no_executor(offline: Shop):
    with pytest.raises(NotRunning) as error:
        offline.checkout(42)
    says(
        error,
        "checkout() runs here and now",
        "`with durable.executor():`",
        "`checkout.start(...)`",
        "worker",
        "python -m",
    )


async def test_no_executor_in_async_code(offline: Shop):
    with pytest.raises(NotRunning, match=r"no executor is open in this process"):
        offline.acheckout(42)


def test_calls_between_the_kinds(shop: Shop):
    seen: dict[str, BaseException] = {}

    def attempt(name: str, call: Any) -> None:
        try:
            call()
        except Exception as error:
            seen[name] = error

    @shop.durable.step
    def inner_step() -> str:
        attempt("workflow in a step", lambda: shop.checkout(1))
        attempt("transaction in a step", lambda: shop.reserve(1))
        return shop.charge(7)  # part of this step

    @shop.durable.transaction
    def inner_transaction(tx: Connection) -> int:
        attempt("workflow in a transaction", lambda: shop.checkout(1))
        assert shop.charge(7) == "r-7"
        return shop.reserve(3)  # joins this one

    @shop.durable.workflow
    def outer() -> str:
        return inner_step() + str(inner_transaction())

    with shop.durable.executor():
        handle = outer.start()
        assert handle.result(10) == "r-73"
    assert {type(error) for error in seen.values()} == {NotInWorkflow}
    texts = {name: str(error) for name, error in seen.items()}
    assert "`checkout.start(...)`" in texts["workflow in a step"]
    assert "inside transaction inner_transaction" in texts["workflow in a transaction"]
    assert "it would be repeated with the step" in texts["transaction in a step"]
    assert [step.name for step in handle.steps()] == ["inner_step", "inner_transaction"]


def test_current_things_outside(offline: Shop):
    with pytest.raises(NotInWorkflow, match="outside of a workflow, or in a thread of its own"):
        current_workflow()
    with pytest.raises(NotInWorkflow, match="Decorate the caller"):
        run_step("x", lambda: 1)
    assert current_step().attempt == 1  # fresh values: a step can be tested as a function


def test_current_step_between_steps(shop: Shop):
    @shop.durable.workflow
    def confused() -> str:
        return str(current_step().attempt)

    with (
        shop.durable.executor(),
        pytest.raises(NotInWorkflow, match=r"in the body of workflow confused.*current_workflow\(\)"),
    ):
        confused()


# ---- colour ------------------------------------------------------------------------------------------------


async def test_def_in_async_code_says_what_to_write(shop: Shop):
    client = shop.durable.client
    id = uuid4()
    handle = client.handle(id)
    for call, write in [
        (lambda: shop.checkout(1), "`await checkout.aio(...)`"),
        (lambda: shop.acheckout.sync(1), "`await acheckout(...)`"),
        (lambda: shop.checkout.start(1), "`await checkout.aio.start(...)`"),
        (lambda: shop.acheckout.sync.start(1), "`await acheckout.start(...)`"),
        (lambda: handle.result(), "`await handle.aio.result()`"),
        (lambda: handle.status(), "`await handle.aio.status()`"),
        (lambda: handle.info(), "`await handle.aio.info()`"),
        (lambda: handle.steps(), "`await handle.aio.steps()`"),
        (lambda: handle.cancel(), "`await handle.aio.cancel()`"),
        (lambda: handle.pause(), "`await handle.aio.pause()`"),
        (lambda: handle.resume(), "`await handle.aio.resume()`"),
        (lambda: shop.checkout.handle(key="k").id, "`(await handle.aio.info()).id`"),
        (lambda: client.workflows(), "`await client.aio.workflows()`"),
        (lambda: shop.durable.executor().open(), "`async with durable.executor():`"),
    ]:
        with pytest.raises(WrongColour) as error:
            call()
        says(error, "blocks", write)


def test_def_step_in_an_async_workflow(shop: Shop):
    @shop.durable.workflow
    async def mixed() -> str:
        return shop.charge(1)

    with shop.durable.executor(), pytest.raises(WrongColour) as error:
        mixed.sync()
    says(error, "charge(...) blocks the event loop of workflow mixed", "`await charge.aio(...)`")


def test_call_that_is_never_awaited_is_named(shop: Shop):
    @shop.durable.workflow
    async def forgetful() -> str:
        made.append(shop.acharge(1))
        return "done"

    made: list[Any] = []
    with shop.durable.executor(), pytest.raises(BadArgument) as error:
        forgetful.sync()
    assert made[0].__qualname__ == "acharge"  # so does Python's own warning name it
    made[0].close()
    says(error, "workflow forgetful returned, but never awaited", "acharge", "`await`")


def test_async_step_in_a_def_workflow(shop: Shop):
    @shop.durable.workflow
    def mixed() -> str:
        made.append(shop.acharge(1))
        return made[0]

    made: list[Any] = []
    with shop.durable.executor(), pytest.raises(BadArgument) as error:
        mixed()
    made[0].close()
    says(error, "workflow mixed returned, but never awaited acharge", "`acharge.sync(...)`: `def` code cannot await")


# ---- decoration --------------------------------------------------------------------------------------------


def test_own_connection(shop: Shop, database_url: str):
    with psycopg.connect(database_url) as conn:

        @shop.durable.workflow
        def passes() -> int:
            return shop.reserve(conn, 42)

        with shop.durable.executor(), pytest.raises(BadArgument) as error:
            passes()
        says(error, "the connection is filled in", "`reserve(order)`")
        with pytest.raises(BadArgument, match=r"the connection is filled in.*`reserve\(order\)`"):
            shop.reserve.start(conn, 42)


def test_static_and_class_methods(durable: Durable):
    for kind in (staticmethod, classmethod):
        with pytest.raises(TypeError, match=f"swap the decorators: @durable.step goes below @{kind.__name__}"):
            durable.step(kind(lambda: 1))


def test_things_that_are_no_functions(durable: Durable):
    def items() -> Iterator[int]:
        yield 1

    async def aitems() -> Any:
        yield 1

    for generator in (items, aitems):
        with pytest.raises(TypeError, match=r"is a generator: return a list, or make each item a step"):
            durable.step(generator)
    with pytest.raises(TypeError, match=r"decorates functions, not type"):
        durable.workflow(Shop)
    with pytest.raises(TypeError, match=r"decorates functions, not int"):
        durable.workflow(3)
    with pytest.raises(TypeError, match=r"charge is decorated already, as step"):
        durable.workflow(Shop(durable).charge)


def test_lambda_needs_a_name(durable: Durable):
    with pytest.raises(BadConfiguration, match=r"a lambda has no name .*pass name="):
        durable.step(lambda: 1)
    assert durable.step(name="one")(lambda: 1).name == "one"


def test_untyped_connection(durable: Durable):
    def untyped(tx, order: int) -> int:  # type: ignore[no-untyped-def]
        return order

    def nothing() -> int:
        return 1

    def text(order: int) -> int:
        return order

    for fn in (untyped, nothing):
        with pytest.raises(
            TypeError, match=rf"{fn.__name__} needs a first parameter .*`def {fn.__name__}\(tx: psycopg.Connection"
        ):
            durable.transaction(fn)
    with pytest.raises(TypeError, match=r"first parameter is a int, which is no connection or session"):
        durable.transaction(text)


def test_connection_of_the_other_colour(durable: Durable):
    async def sync_in_async(tx: Connection) -> int:
        return 1

    def async_in_sync(tx: AsyncConnection[DictRow]) -> int:
        return 1

    with pytest.raises(TypeError, match=r"`async def` and needs an async connection or session, not Connection"):
        durable.transaction(sync_in_async)
    with pytest.raises(TypeError, match=r"`def` and needs a sync connection or session, not AsyncConnection"):
        durable.transaction(async_in_sync)


def test_row_type_that_only_row_factory_can_make(durable: Durable):
    class Item:
        pass

    def typed(tx: Connection[Item]) -> int:
        return 1

    with pytest.raises(TypeError, match="names a row type that needs row_factory="):
        durable.transaction(typed)


def test_two_functions_of_one_name(durable: Durable):
    def one() -> None: ...
    def two() -> None: ...

    durable.step(name="x")(one)
    with pytest.raises(DuplicateName) as error:
        durable.step(name="x")(two)
    says(
        error,
        "two functions are named 'x'",
        f"{__file__}:{one.__code__.co_firstlineno}",
        f"{__file__}:{two.__code__.co_firstlineno}",
        "name=",
    )


def test_the_same_function_defined_again_replaces(durable: Durable, caplog: pytest.LogCaptureFixture):
    def define(answer: int) -> Any:
        @durable.workflow
        def again() -> int:
            return answer

        return again

    define(1)
    assert not caplog.records
    latest = define(2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "workflow again was defined again at " in caplog.text
    with durable.executor():
        assert latest() == 2


def test_annotations_under_type_checking(durable: Durable):
    @durable.workflow
    def later(amount: Money) -> None: ...

    with pytest.raises(BadConfiguration) as error:
        later.start(1)
    says(
        error,
        "amount: Money",
        "'Money' is unknown at run time",
        "not under TYPE_CHECKING",
        "runtime-evaluated-decorators",
    )
    with pytest.raises(BadConfiguration, match="'Money' is unknown at run time"):
        durable.executor().open()


def test_parameter_type_without_json(durable: Durable):
    class Socket:
        pass

    @durable.workflow
    def connect(to: Socket) -> None: ...

    with pytest.raises(BadConfiguration) as error:
        durable.executor().open()
    says(error, "parameter to of workflow connect", "Socket", "no JSON form", "dataclass")


def test_unknown_decorator_options(durable: Durable):
    with pytest.raises(BadConfiguration) as error:
        durable.step(retries=5)  # type: ignore[call-overload]
    says(error, "@durable.step has no option retries", "name, retry, timeout")
    with pytest.raises(BadConfiguration, match=r"write @durable.workflow\(queue=...\) above the function"):
        durable.workflow(lambda: 1, queue="x")  # type: ignore[call-overload]


def test_include_is_a_list(durable: Durable):
    with pytest.raises(BadConfiguration, match=r'include=\["shop"\]'):
        durable.configure(include="shop")


# ---- methods -----------------------------------------------------------------------------------------------


def test_method_without_register(durable: Durable):
    class Orders:
        @durable.workflow
        def checkout(self, order: int) -> int:
            return order

    with pytest.raises(NotRunning) as error:
        Orders().checkout.start(1)
    says(
        error, "Orders.checkout is a method", "no executor could find its object", "durable.register(Orders(...), name="
    )
    with pytest.raises(BadConfiguration, match="int has no methods decorated as workflow, step or transaction"):
        durable.register(3)
    orders = durable.register(Orders(), name="orders-eu")
    with durable.executor():
        assert orders.checkout(3) == 3
        assert orders.checkout.start(4).info().name == "orders-eu.checkout"


# ---- options, keys, names ----------------------------------------------------------------------------------


def test_unknown_options(offline: Shop):
    with pytest.raises(BadArgument) as error:
        offline.checkout.options(kee="x")  # type: ignore[call-arg]
    says(error, "checkout.options() has no option kee", "key", "delay", "tx")


def test_options_of_start_on_a_call(shop: Shop):
    with shop.durable.executor():
        for option, value in {"delay": 5, "priority": 1, "partition": "p", "queue": "q"}.items():
            with pytest.raises(BadArgument) as error:
                shop.checkout.options(**{option: value})(1)  # type: ignore[arg-type]
            says(error, f"{option}= goes with start", f"`checkout.options({option}=...).start(...)`")


def test_options_of_a_step_inside_a_workflow(shop: Shop):
    @shop.durable.step
    def slow() -> None:
        asyncio.run(asyncio.sleep(5))

    @shop.durable.workflow
    def refused() -> None:
        shop.charge.options(key="k")(1)

    @shop.durable.workflow
    def limited() -> None:
        slow.options(timeout=0.05)()

    with shop.durable.executor():
        with pytest.raises(BadArgument, match=r"key= goes with start, `charge.options\(key=...\).start\(...\)`"):
            refused()
        with pytest.raises(StepTimeout, match=r"slow took longer than 0.05 s"):
            limited()
        with pytest.raises(BadArgument, match="retry= goes with a call inside a workflow"):
            shop.charge.options(retry=5).start(1)


def test_tx_on_a_call(shop: Shop, database_url: str):
    with psycopg.connect(database_url) as conn, shop.durable.executor(), pytest.raises(BadArgument) as error:
        shop.checkout.options(tx=conn)(1)
    says(error, "tx= goes with start, `checkout.options(tx=...).start(...)`")


def test_key_with_other_arguments(shop: Shop):
    call = shop.checkout.options(key="k")
    first = call.start(1)
    assert call.start(order=1).id == first.id
    with pytest.raises(KeyConflict) as error:
        call.start(2)
    says(
        error,
        "'k'",
        "already started checkout with other arguments",
        str(first.id),
        "use another key, or the same arguments",
    )
    with shop.durable.executor():
        assert call(1) == "r-1"  # waits for the one that holds the key
        with pytest.raises(KeyConflict, match="with other arguments"):
            call(2)


def test_unknown_names_come_with_a_hint(shop: Shop, database_url: str):
    with Client(database_url) as client:
        with pytest.raises(UnknownWorkflow, match="no executor has connected to this schema yet"):
            client.workflow("chekout").start(order=1)
        with shop.durable.executor(), pytest.raises(UnknownWorkflow) as error:
            client.workflow("chekout").start(order=1)
        says(error, "no executor has registered a workflow named 'chekout'", "known names:", "checkout", "charge")


def test_handles_of_nothing(shop: Shop):
    with pytest.raises(UnknownWorkflow, match=r"there is no workflow .* in this schema"):
        shop.durable.client.handle(uuid4()).status()
    with pytest.raises(UnknownWorkflow, match="no workflow checkout was started with key 'nope'"):
        shop.checkout.handle(key="nope").result(1)
    for bad in ({}, {"id": uuid4(), "key": "k"}):
        with pytest.raises(BadArgument, match="takes an id or key=, one of them"):
            shop.checkout.handle(**bad)  # type: ignore[arg-type]


def test_result_before_the_commit_of_its_start(shop: Shop, database_url: str):
    with psycopg.connect(database_url) as conn:
        handle = shop.checkout.options(tx=conn).start(1)
        with pytest.raises(UnknownWorkflow, match="started with tx=, that transaction has not committed yet"):
            handle.result(timeout=5)
        conn.commit()
        with shop.durable.executor():
            assert handle.result(10) == "r-1"


# ---- values ------------------------------------------------------------------------------------------------


class DataFrame:
    """As little of pandas as the codec looks at."""


def test_table_as_a_result(durable: Durable):
    @durable.step
    def load() -> Any:
        return DataFrame()

    @durable.workflow
    def report() -> int:
        load()
        return 1

    with durable.executor(), pytest.raises(BadArgument) as error:
        report()
    says(error, "the result of step load", "DataFrame", "return rows or a path")


# ---- functions as objects ----------------------------------------------------------------------------------

pickled = Durable("postgresql://nowhere.invalid/x")


@pickled.workflow
def by_name(order: int) -> str:
    """What it does."""
    return f"r-{order}"


def plainly(function: Any) -> Any:
    return function.fn(1)


def test_functions_pickle_by_name():
    assert pickle.loads(pickle.dumps(by_name)).fn(1) == "r-1"
    assert pickle.loads(pickle.dumps(by_name)) is by_name
    assert pickle.loads(pickle.dumps(by_name.aio)).name == "by_name"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(plainly, [by_name, by_name]) == ["r-1", "r-1"]
    for carries in (by_name.options(key="k"), by_name.aio.options(priority=2)):
        with pytest.raises(TypeError, match="with options, or of an object, cannot be pickled"):
            pickle.dumps(carries)


def test_functions_keep_their_looks():
    assert (by_name.__name__, by_name.__doc__, by_name.__module__) == ("by_name", "What it does.", __name__)
    assert repr(by_name) == "<workflow by_name>"
    assert isinstance(by_name.handle(uuid4()), Handle)
    with pytest.raises(AttributeError):
        by_name.name = "other"  # type: ignore[misc]


def test_queued_for_long_gets_one_warning(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dbdurable._protocol.start.CLAIM_WARNING_S", 0.0)
    caplog.set_level(logging.WARNING)
    with pytest.raises(TimeoutError) as error:
        shop.checkout.start(1).result(timeout=0.1)
    says(error, "has not finished within 0.1 s: it is queued; it goes on, ask again with result()")
    assert caplog.text.count("nobody has claimed it") == 1


async def test_run_step_in_async_code(shop: Shop):
    with pytest.raises(NotInWorkflow, match="Decorate the caller"):
        await aio.run_step("x", lambda: asyncio.sleep(0))
