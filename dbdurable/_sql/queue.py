"""Statements on queues, for clients: what is in them, and what they allow."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.statement import Statement

LIST_QUEUES: Final = Statement(
    "list_queues",
    """
    select name, paused, ready, oldest, running, delayed, concurrency, worker_concurrency, per_partition,
           rate_limit, rate_per, rate_burst, partition_rate_limit, partition_rate_per, partition_rate_burst, max_depth
      from {schema}.queues order by name
    """,
)

SET_QUEUE: Final = Statement("set_queue", "select {schema}.set_queue($1::text, $2::jsonb)")

PAUSE_QUEUE: Final = Statement("pause_queue", "select {schema}.pause_queue($1::text)")

RESUME_QUEUE: Final = Statement("resume_queue", "select {schema}.resume_queue($1::text)")
