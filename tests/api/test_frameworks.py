"""Decorated functions act as functions: web frameworks may stand above them, and see their colour and signature."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

import pytest

from dbdurable import Durable

durable = Durable("postgresql://nowhere.invalid/x")


@durable.workflow
def checkout(order_id: int, gift: bool = False) -> str:
    return f"r-{order_id}"


@durable.workflow
async def acheckout(order_id: int) -> str:
    return f"r-{order_id}"


COROUTINE_FUNCTIONS = [acheckout, acheckout.start, checkout.aio, checkout.aio.start, checkout.aio.bind(1)]
PLAIN_FUNCTIONS = [checkout, checkout.start, checkout.bind, acheckout.bind, acheckout.sync, acheckout.sync.start]


def is_coroutine_function(function: Any) -> bool:
    """As Starlette, FastAPI and Django ask."""
    ask = getattr(inspect, "iscoroutinefunction" if hasattr(inspect, "markcoroutinefunction") else "", None)
    ask = ask or asyncio.iscoroutinefunction
    return ask(function) or ask(getattr(function, "__call__", None))  # noqa: B004


def test_colour_is_visible():
    assert all(map(is_coroutine_function, COROUTINE_FUNCTIONS))
    assert not any(map(is_coroutine_function, PLAIN_FUNCTIONS))
    assert is_coroutine_function(functools.partial(acheckout, 1).func)


def test_signature_is_what_callers_pass():
    assert str(inspect.signature(checkout)) == "(order_id: 'int', gift: 'bool' = False) -> 'str'"
    assert inspect.signature(checkout.aio) == inspect.signature(checkout)
    assert inspect.unwrap(checkout)(1) == "r-1"


def test_fastapi(database_url: str):
    fastapi = pytest.importorskip("fastapi")
    TestClient = pytest.importorskip("fastapi.testclient").TestClient
    application = Durable(database_url)
    api = fastapi.FastAPI()

    @api.post("/sync/{order_id}")
    @application.workflow
    def sync_order(order_id: int, gift: bool = False) -> str:
        return f"r-{order_id}{'!' if gift else ''}"

    @api.post("/async/{order_id}")
    @application.workflow
    async def async_order(order_id: int) -> str:
        return f"r-{order_id}"

    async def later(order_id: int, tasks: fastapi.BackgroundTasks) -> None:
        tasks.add_task(sync_order.aio.start, order_id)
        tasks.add_task(async_order.sync.start, order_id)
        tasks.add_task(async_order.bind(order_id).start)

    later.__annotations__ = {"order_id": int, "tasks": fastapi.BackgroundTasks}
    api.post("/later/{order_id}")(later)

    with application.executor() as here:
        client = TestClient(api)
        assert client.post("/sync/7?gift=true").json() == "r-7!"
        assert client.post("/async/8").json() == "r-8"
        assert client.post("/sync/x").status_code == 422
        assert client.post("/later/9").status_code == 200
        here.wait_idle(10)
        assert [info.name for info in application.client.workflows(status="succeeded")].count("sync_order") == 2
        assert [info.name for info in application.client.workflows(status="succeeded")].count("async_order") == 3
    application.close()


def test_flask(database_url: str):
    flask = pytest.importorskip("flask")
    application = Durable(database_url)
    app = flask.Flask("shop")

    @app.post("/orders/<int:order_id>")
    @application.workflow
    def order(order_id: int) -> str:
        return f"r-{order_id}"

    with application.executor():
        assert app.test_client().post("/orders/7").text == "r-7"
    application.close()
