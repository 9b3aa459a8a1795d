# pyright: strict
"""`async def` code on the application's own loop, with steps of both colours."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID

from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow

from dbdurable import (
    AsyncCall,
    AsyncFunction,
    AsyncHandle,
    AsyncStep,
    AsyncTransaction,
    AsyncWorkflow,
    Cancelled,
    Durable,
    Executor,
    Function,
    Handle,
    Status,
    aio,
    errors,
)

durable = Durable()


@durable.transaction
async def hold(tx: AsyncConnection, room: int) -> Decimal:
    cursor = await tx.execute("select price from room where id = %s", [room])
    row = await cursor.fetchone()
    assert row
    return Decimal(row[0])


@durable.transaction(isolation="repeatable read")
async def rows(tx: AsyncConnection[DictRow], limit: int = 10) -> list[dict[str, Any]]:
    return await (await tx.execute("select 1 limit %s", [limit])).fetchall()


@durable.transaction
def note(tx: Connection, text: str) -> None:
    tx.execute("insert into note values (%s)", [text])


@durable.step(retry=5, timeout=10)
async def quote(room: int, currency: str = "EUR") -> Decimal:
    await asyncio.sleep(0)
    return Decimal(room)


@durable.step
def pay(guest: str, amount: Decimal) -> str:
    return guest


@durable.workflow
async def book(guest: str, room: int) -> str:
    price = await hold(room)
    assert_type(price, Decimal)
    a, b = await asyncio.gather(quote(room), pay.aio(guest, price))
    assert_type(a, Decimal)
    assert_type(b, str)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(quote(room, currency="CHF"))
    assert_type(task.result(), Decimal)
    await note.aio("booked")
    assert_type(await aio.run_step("title", lambda: asyncio.sleep(0, "x"), retry=2), str)
    child = await quote.start(room)
    assert_type(child, AsyncHandle[Decimal])
    try:
        return await pay.aio(guest, amount=price)
    except Cancelled:
        raise


workflow: AsyncWorkflow[[str, int], str] = book
step: AsyncStep[..., Decimal] = quote
transaction: AsyncTransaction[..., Decimal] = hold
face: AsyncFunction[..., str] = book
TOOLS: dict[str, Callable[[str, Decimal], Awaitable[str]]] = {"pay": pay.aio}


async def serve() -> None:
    async with durable.executor(tasks=128) as here:
        assert_type(here, Executor)
        assert_type(await book("Ann", 7), str)
        handle = await book.options(key="k").start("Ann", room=7)
        assert_type(handle, AsyncHandle[str])
        assert_type(handle.id, UUID)
        assert_type(await handle.result(timeout=2), str)
        assert_type(await handle.status(), Status)
        assert_type(handle.sync, Handle[str])
        await handle.cancel()
        await here.await_idle(5)


async def handler(conn: AsyncConnection) -> str:
    handle = await pay.aio.options(tx=conn, key="pay-1").start("Ann", Decimal(2))
    assert_type(handle, AsyncHandle[str])
    try:
        return await book.handle(key="k").result(1)
    except errors.WaitTimeout:
        return ""
    except TimeoutError:
        return "late"


async def as_functions(conn: AsyncConnection) -> None:
    assert_type(await quote.fn(3), Decimal)
    assert_type(await hold.fn(conn, 3), Decimal)
    call = quote.bind(3)
    assert_type(call, AsyncCall[Decimal])
    assert_type(await call(), Decimal)
    assert_type(await call.start(), AsyncHandle[Decimal])


def nightly_script() -> None:
    assert_type(book.sync.options(key="nightly").start("Ann", 7), Handle[str])
    assert_type(quote.sync.bind(3).start().result(), Decimal)
    again: Function[[int], Decimal] | Function[..., Decimal] = quote.sync
    assert_type(again.aio.name, str)
