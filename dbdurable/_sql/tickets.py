"""How the command line looks at a million tickets: from line to line of the index, never through it."""

from __future__ import annotations

from typing import Final, LiteralString

from dbdurable._sql.statement import Statement

LINES: Final[LiteralString] = """
    named(name) as (
        (select r.queue from {schema}.ready r order by r.queue limit 1)
        union all
        select (select r.queue from {schema}.ready r where r.queue > n.name order by r.queue limit 1)
          from named n where n.name is not null),
    line(queue, partition, rank, at) as (
        select f.queue, f.partition, f.rank, f.at
          from named n cross join lateral (
               select r.queue, r.partition, r.rank, r.at from {schema}.ready r where r.queue = n.name
                order by r.queue, r.partition, r.rank, r.at limit 1) f
        union all
        select f.queue, f.partition, f.rank, f.at
          from line l cross join lateral (
               select r.queue, r.partition, r.rank, r.at from {schema}.ready r
                where r.queue = l.queue and (r.partition, r.rank) > (l.partition, l.rank)
                order by r.queue, r.partition, r.rank, r.at limit 1) f),
    head as materialized (select queue, partition, rank, at from line limit 2000)"""
"""Of a `with recursive`: `head` has the oldest ticket of each line, a line being a queue, partition and rank. One
descent of the index a line, all queues in turn, 2,000 at most."""

WALK_SETTINGS: Final = Statement(
    "walk_settings",
    # For one transaction: the index is walked whatever the statistics say, without the JIT compiler, not for long.
    """
    select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_sort', 'off', true), set_config('jit', 'off', true),
           set_config('statement_timeout', $1::text, true)
    """,
)
