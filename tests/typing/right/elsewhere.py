# pyright: strict
"""Without the code: clients of both colours; helpers that users write for any function; SQLAlchemy's `tx=`."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar, assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from dbdurable import (
    AsyncClient,
    AsyncFunction,
    AsyncHandle,
    Client,
    Config,
    Durable,
    Duration,
    Function,
    Handle,
    Options,
    Status,
    Step,
    WorkflowInfo,
)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def other_service(url: str) -> None:
    with Client(url, schema="shop") as client:
        checkout = client.workflow("checkout", returns=str)
        assert_type(checkout, Function[..., str])
        assert_type(checkout.options(key="o-1").start(order_id=1).result(10), str)
        assert_type(client.workflow("checkout").start(1), Handle[Any])
        assert_type(client.handle("0198c0de-0000-7000-8000-000000000000"), Handle[Any])
        listed: Collection[WorkflowInfo] = client.workflows(name="checkout", status=Status.FAILED, limit=5)
        assert_type(client.aio, AsyncClient)
        print(listed)


async def other_async_service(client: AsyncClient) -> None:
    async with client:
        checkout = client.workflow("checkout", returns=list[int])
        assert_type(checkout, AsyncFunction[..., list[int]])
        handle = await checkout.start(order_id=1)
        assert_type(handle, AsyncHandle[list[int]])
        assert_type(await handle.result(), list[int])
        assert_type(client.sync, Client)


def around() -> AbstractContextManager[None]:
    return nullcontext()


config: Config = {"include": ["shop.flows"], "around": around, "schema": "shop"}
durable = Durable("postgresql://localhost/shop", **config)
assert_type(durable.client, Client)


def start_for(tenant: str, fn: Function[P, R], *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
    return fn.options(partition=tenant, attributes={"tenant": tenant}).start(*args, **kwargs)


async def astart_for(wait: Duration, fn: AsyncFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> AsyncHandle[R]:
    options: Options = {"delay": wait}
    return await fn.options(**options).start(*args, **kwargs)


def results(handles: list[Handle[R]]) -> list[R]:
    return [handle.result() for handle in handles]


def twice(fn: Callable[[str], R]) -> R:
    fn("a")
    return fn("b")


@durable.workflow
def report(day: str, pages: int = 1) -> list[str]:
    return [day] * pages


@durable.workflow
async def areport(day: str) -> list[str]:
    return [day]


@durable.step
def first(items: list[T]) -> T:
    return items[0]


assert_type(start_for("t", report, "mon", pages=2), Handle[list[str]])
assert_type(twice(report), list[str])
assert_type(report.fn("mon"), list[str])
assert_type(results([report.start("mon")]), list[list[str]])
HANDLERS: dict[str, Function[[str, int], list[str]]] = {"report": report}
optional: Step[[str], int] | None = None


async def use() -> None:
    assert_type(await astart_for(3, areport, "mon"), AsyncHandle[list[str]])
    assert_type(await astart_for(3.5, report.aio, day="mon"), AsyncHandle[list[str]])


def with_sqlalchemy(session: Session, registry: "scoped_session[Session]") -> None:
    assert_type(report.options(tx=session).start("mon"), Handle[list[str]])
    report.options(tx=registry).start("mon")
    report.options(tx=session.connection()).start("mon")
    areport.sync.options(tx=session).start("mon")


async def with_async_sqlalchemy(session: AsyncSession) -> None:
    assert_type(await areport.options(tx=session).start("mon"), AsyncHandle[list[str]])
    await report.aio.options(tx=await session.connection()).start("mon")
