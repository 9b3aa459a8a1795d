"""FastAPI: the executor lives in the lifespan, and durable functions are handlers and background tasks."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from fastapi import BackgroundTasks, FastAPI
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from dbdurable import Durable
from dbdurable.errors import WaitTimeout
from dbdurable.ext.sqlalchemy import SQLAlchemy
from tests.ext.conftest import on_psycopg


class Shop:
    """The application as its modules would hold it."""

    def __init__(self, url: str) -> None:
        self.durable = durable = Durable(url)
        self.pool = AsyncConnectionPool(url, open=False)
        self.threads: set[str] = set()

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
            async with self.pool, durable.executor():
                yield

        self.api = FastAPI(lifespan=lifespan)

        @durable.step
        def charge(order_id: int) -> str:
            self.threads.add(threading.current_thread().name)
            return f"r-{order_id}"

        @durable.transaction
        async def reserve(tx: psycopg.AsyncConnection, order_id: int) -> int:
            cursor = await tx.execute("select count(*)::int from orders where id = %s", [order_id])
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

        @durable.workflow
        def checkout(order_id: int) -> str:
            return charge(order_id)

        @durable.workflow
        async def order(order_id: int, gift: bool = False) -> str:
            self.threads.add(threading.current_thread().name)
            found = await reserve(order_id)
            return f"{await charge.aio(order_id)} {found} {gift}"

        self.checkout, self.order = checkout, order

        @self.api.post("/orders/{order_id}")
        async def create(order_id: int, fail: bool = False) -> dict[str, str]:
            async with self.pool.connection() as connection:
                await connection.execute("insert into orders values (%s)", [order_id])
                handle = await checkout.aio.options(key=f"order-{order_id}", tx=connection).start(order_id)
                if fail:
                    raise ZeroDivisionError
            return {"id": str(handle.id)}

        @self.api.get("/results/{id}")
        async def read(id: UUID) -> dict[str, str | None]:
            try:
                return {"result": await checkout.aio.handle(id).result(timeout=10)}
            except WaitTimeout:
                return {"result": None}

        @self.api.get("/sync/{id}")
        def read_in_a_thread(id: UUID) -> dict[str, str]:
            return {"result": checkout.handle(id).result(timeout=10)}

        @self.api.post("/background/{order_id}")
        async def background(order_id: int, tasks: BackgroundTasks) -> None:
            tasks.add_task(checkout.start, order_id)
            tasks.add_task(checkout.aio.start, order_id + 1)
            tasks.add_task(order.start, order_id + 2)
            tasks.add_task(order, order_id + 3)
            tasks.add_task(checkout, order_id + 4)


@pytest.fixture
def shop(database_url: str, connection: psycopg.Connection[Any]) -> Shop:
    connection.execute("create table orders (id int primary key)")
    return Shop(database_url)


@pytest.fixture
async def client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(shop.api)
    async with (
        shop.api.router.lifespan_context(shop.api),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


async def test_an_async_handler_starts_a_def_workflow_in_its_transaction(client: httpx.AsyncClient) -> None:
    id = (await client.post("/orders/1")).json()["id"]
    assert (await client.get(f"/results/{id}")).json() == {"result": "r-1"}
    assert (await client.get(f"/sync/{id}")).json() == {"result": "r-1"}


async def test_a_handler_that_fails_starts_nothing(
    client: httpx.AsyncClient, connection: psycopg.Connection[Any]
) -> None:
    with pytest.raises(ZeroDivisionError):
        await client.post("/orders/1", params={"fail": True})
    assert connection.execute("select count(*) from dbdurable.workflow").fetchone() == (0,)
    assert connection.execute("select count(*) from orders").fetchone() == (0,)


async def test_a_durable_function_is_a_handler(shop: Shop, connection: psycopg.Connection[Any]) -> None:
    @shop.api.post("/direct/{order_id}")
    @shop.durable.workflow
    async def direct(order_id: int, gift: bool = False) -> dict[str, Any]:
        return {"order": order_id, "gift": gift, "inner": await shop.order(order_id, gift)}

    @shop.api.post("/direct-sync/{order_id}")
    @shop.durable.workflow
    def direct_sync(order_id: int, gift: bool = False) -> dict[str, Any]:
        return {"order": order_id, "gift": gift}

    transport = httpx.ASGITransport(shop.api)
    async with (
        shop.api.router.lifespan_context(shop.api),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        answer = await client.post("/direct/7", params={"gift": True})
        assert answer.json() == {"order": 7, "gift": True, "inner": "r-7 0 True"}
        assert (await client.post("/direct-sync/8")).json() == {"order": 8, "gift": False}
        assert (await client.post("/direct/no-number")).status_code == 422
        parameters = shop.api.openapi()["paths"]["/direct/{order_id}"]["post"]["parameters"]
        assert [parameter["name"] for parameter in parameters] == ["order_id", "gift"]
    ran = connection.execute("select name, status::text from dbdurable.workflow order by created_at").fetchall()
    assert ran == [("direct", "succeeded"), ("order", "succeeded"), ("direct_sync", "succeeded")]
    assert "MainThread" in shop.threads  # `async def` bodies run on the application's own loop


async def test_background_tasks_are_not_dropped(
    shop: Shop, client: httpx.AsyncClient, connection: psycopg.Connection[Any]
) -> None:
    assert (await client.post("/background/10")).status_code == 200
    assert shop.durable._runtime.executor is not None
    await shop.durable._runtime.executor.await_idle(30)
    ran = connection.execute(
        "select (input->>'order_id')::int, name, status::text from dbdurable.workflow order by 1"
    ).fetchall()
    assert ran == [
        (10, "checkout", "succeeded"),
        (11, "checkout", "succeeded"),
        (12, "order", "succeeded"),
        (13, "order", "succeeded"),
        (14, "checkout", "succeeded"),
    ]


async def test_a_handler_without_an_executor_only_starts(shop: Shop, connection: psycopg.Connection[Any]) -> None:
    transport = httpx.ASGITransport(shop.api)  # no lifespan: a web process beside workers
    async with shop.pool, httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.post("/orders/1")).status_code == 200
    assert connection.execute("select status::text from dbdurable.workflow").fetchall() == [("queued",)]
    await shop.durable._runtime.database.aclose()


async def test_a_session_of_a_dependency(database_url: str, connection: psycopg.Connection[Any]) -> None:
    durable, engine = Durable(), create_async_engine(on_psycopg(database_url))
    maker = async_sessionmaker(engine)

    @durable.transaction
    async def now(session: AsyncSession) -> int:
        return int(await session.scalar(text("select 1")) or 0)

    @durable.workflow
    async def work() -> int:
        return await now()

    durable.configure(database_url, sources=[SQLAlchemy(maker)])
    async with durable.executor():
        async with maker.begin() as session:
            handle = await work.options(tx=session).start()
        assert await handle.result(10) == 1
    await engine.dispose()
