"""Flask: an application factory, its context around each body, and the reloader that imports twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask

from tests.frameworks.conftest import PROGRAMS
from tests.support.wait import wait_until


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(PROGRAMS)
    import flask_shop

    yield flask_shop
    flask_shop.durable.close()
    flask_shop.db.get_bind().dispose()  # type: ignore[union-attr]


@pytest.fixture
def app(shop: Any, database_url: str) -> Flask:
    app: Flask = shop.create_app(database_url)
    return app


def test_bodies_run_in_the_applications_context(shop: Any, app: Flask, connection: psycopg.Connection[Any]) -> None:
    client = app.test_client()
    id = client.post("/orders/1").text
    with shop.durable.executor():
        assert shop.durable.client.handle(id).result(30) == "corner shop: packed by corner shop"
        assert client.post("/fulfil/1").text == "corner shop: packed by corner shop"
    assert connection.execute("select * from orders").fetchall() == [(1, "packed by corner shop")]


def test_a_view_that_fails_starts_nothing(app: Flask, connection: psycopg.Connection[Any]) -> None:
    client = app.test_client()
    assert client.post("/orders/1").status_code == 200
    assert client.post("/orders/1").status_code == 500  # the same id: the session's commit fails
    assert connection.execute("select count(*) from dbdurable.workflow").fetchone() == (1,)


def test_each_test_may_make_its_own_application(shop: Any, database_url: str) -> None:
    for name in ("first", "second"):
        app = shop.create_app(database_url, name)
        id = app.test_client().post(f"/orders/{len(name)}").text
        with shop.durable.executor():
            assert shop.durable.client.handle(id).result(30).startswith(f"{name}: ")


def test_the_reloader_imports_twice_and_claims_nothing(
    shop: Any,
    app: Flask,
    environment: dict[str, str],
    database_url: str,
    connection: psycopg.Connection[Any],
    tmp_path: Path,
) -> None:
    app.test_client().post("/orders/1")
    imports = tmp_path / "imports"
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / "flask_shop.py"), database_url, str(imports)],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "Debugger PIN" in line or "Debugger is active" in line:
                    break
            wait_until(lambda: imports.exists() and imports.read_text().count("imported") == 2)
        finally:
            import os

            os.killpg(server.pid, signal.SIGKILL)
    assert connection.execute("select status::text from dbdurable.workflow").fetchall() == [("queued",)]
    assert connection.execute("select count(*) from dbdurable.executor").fetchone() == (0,)
