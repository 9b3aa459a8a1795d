"""An application whose waits park after 50 ms, and what the database says of a workflow that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from dbdurable import Durable
from tests.support.wait import wait_until

PARK_AFTER_S = 0.05
Connection = psycopg.Connection[Any]
Parked = Callable[[Any], list[tuple[Any, ...]]]


@pytest.fixture
def durable(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Durable]:
    monkeypatch.setenv("DBDURABLE_PARK_AFTER_S", str(PARK_AFTER_S))
    application = Durable(database_url)
    yield application
    application.close()


@pytest.fixture
def parked(connection: Connection) -> Parked:
    """Waits until a workflow is parked and nothing of it is left in its process: what it waits for, by path."""

    def wait_for(handle: Any) -> list[tuple[Any, ...]]:
        def is_parked() -> bool:
            row = connection.execute("select status from dbdurable.workflow where id = %s", [handle.id]).fetchone()
            ticket = connection.execute("select from dbdurable.ready where workflow_id = %s", [handle.id]).fetchone()
            executor = handle.runtime.executor
            return (
                row == ("waiting",) and ticket is None and (not executor or executor.attempts.find(handle.id) is None)
            )

        wait_until(is_parked, what="the workflow to wait")
        return connection.execute(
            "select path, kind::text, subject from dbdurable.wait where workflow_id = %s order by path", [handle.id]
        ).fetchall()

    return wait_for


def make_due(connection: Connection, id: Any) -> None:
    """Each time that the workflow waits for is due now; what has no time goes on waiting for what it waits for."""
    connection.execute(
        "update dbdurable.wait set due = clock_timestamp(), rung = false where workflow_id = %s and due is not null",
        [id],
    )
