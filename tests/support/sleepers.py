"""Workflows that sleep, made by SQL."""

from __future__ import annotations

from typing import Any

import psycopg

__all__ = ["put_to_sleep"]


def put_to_sleep(
    connection: psycopg.Connection[Any], many: int, name: str = "nap", due_s: float = 3600, queue: str = "default"
) -> None:
    """So many that were parked in their first call, all due at the same moment; `number` counts on."""
    connection.execute(
        """
        with w as (
            insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                            status, epoch, executor_id, attempt, started_at)
            select dbdurable.uuid7(), %(name)s, %(queue)s, '', 0, 20, now(), json_build_object('number', n),
                   'waiting', 1, gen_random_uuid(), 1, now()
              from (select count(*) from dbdurable.workflow) as before(many),
                   generate_series(before.many + 1, before.many + %(many)s) n
            returning id)
        insert into dbdurable.wait (workflow_id, path, kind, due)
        select id, '1', 'sleep', now() + make_interval(secs => %(due_s)s) from w
        """,
        {"many": many, "name": name, "queue": queue, "due_s": due_s},
    )
