"""Rows as executors and starts write them, for tests of what the command line makes of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg

__all__ = ["executor", "hold", "tickets"]


def executor(
    connection: psycopg.Connection[Any],
    names: list[str],
    queues: list[str],
    *,
    dies_in_s: float = 3600,
    host: str = "box",
    pid: int = 7,
    version: str = "0.1.0",
) -> UUID:
    """A registered executor, dead since a while where `dies_in_s` is negative."""
    id = uuid4()
    connection.execute(
        """
        insert into dbdurable.executor (id, expires_at, names, queues, host, pid, version)
        values (%s, clock_timestamp() + make_interval(secs => %s), %s, %s, %s, %s, %s)
        """,
        [id, dies_in_s, names, queues, host, pid, version],
    )
    for queue in queues:
        connection.execute("insert into dbdurable.queue (name) values (%s) on conflict do nothing", [queue])
    return id


def tickets(connection: psycopg.Connection[Any], name: str, count: int = 1, queue: str = "default") -> list[UUID]:
    """Workflows that are ready."""
    rows = connection.execute(
        "select dbdurable.start(%s, '{}', queue => %s, registered => true, known_queue => true) "
        "from generate_series(1, %s)",
        [name, queue, count],
    )
    return [id for (id,) in rows]


def hold(connection: psycopg.Connection[Any], owner: UUID, ids: list[UUID], slots: list[str] | None = None) -> None:
    """Claims them, as far as tables tell."""
    connection.execute("delete from dbdurable.ready where workflow_id = any(%s)", [ids])
    connection.execute(
        "update dbdurable.workflow set status = 'running', epoch = 1, executor_id = %s, slots = %s where id = any(%s)",
        [owner, slots, ids],
    )
    connection.execute("insert into dbdurable.lease (executor_id, batch, ids) values (%s, 1, %s)", [owner, ids])
