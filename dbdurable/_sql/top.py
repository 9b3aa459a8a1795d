"""What `dbdurable top` asks once a second: each statement costs the same with a million rows as with ten."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import with_parts
from dbdurable._sql.statement import Statement
from dbdurable._sql.tickets import LINES

COUNTERS: Final = Statement(
    "top_counters",
    # PostgreSQL counts rows as they are written: differences are exact, but each session reports its own about
    # once a second. A claim deletes the ticket and updates the workflow; an end only updates the workflow.
    """
    select extract(epoch from clock_timestamp())::float8,
           pg_stat_get_tuples_inserted(t.workflow), pg_stat_get_tuples_deleted(t.ready),
           pg_stat_get_tuples_updated(t.workflow), pg_stat_get_tuples_inserted(t.step),
           pg_stat_get_live_tuples(t.ready)
      from (select '{schema}.workflow'::regclass::oid as workflow, '{schema}.ready'::regclass::oid as ready,
                   '{schema}.step'::regclass::oid as step) t
    """,
)

DEPTHS: Final = Statement(
    "top_depths",
    # Tickets are counted up to $1.
    with_parts(
        """
    with recursive {lines}
    select coalesce(q.name, h.queue), coalesce(q.paused, false), h.oldest_s,
           (select count(*) from (select from {schema}.ready r
                                   where r.queue = coalesce(q.name, h.queue) limit $1::int) x)
      from {schema}.queue q
      full join (select queue, extract(epoch from clock_timestamp() - min(at))::float8 as oldest_s
                   from head group by queue) h on h.queue = q.name
    """,
        lines=LINES,
    ),
)

RUNNING: Final = Statement(
    "top_running",
    """
    select w.queue, l.executor_id, count(*)
      from {schema}.lease l cross join unnest(l.ids) as i(id)
      join {schema}.workflow w on w.id = i.id and w.executor_id = l.executor_id and w.status = 'running'
     group by 1, 2
    """,
)

WAITS: Final = Statement(
    "top_waits",
    # Delayed starts, and what waits for something else; each counted up to $1.
    """
    select (select count(*) from (select from {schema}.wait where kind = 'start' limit $1::int) x),
           (select count(*) from (select from {schema}.wait where kind in
                ('retry', 'sleep', 'message', 'event', 'result') limit $1) x)
    """,
)

EXECUTORS: Final = Statement(
    "top_executors",
    """
    select id, host, pid, version, expires_at > clock_timestamp(),
           extract(epoch from clock_timestamp() - started_at)::float8, queues
      from {schema}.executor order by started_at limit 200
    """,
)

FAILURES: Final = Statement(
    "top_failures",
    # The newest $1 of what failed or was blocked, by the index on since.
    """
    select w.id, w.name, a.status::text, a.reason, extract(epoch from clock_timestamp() - a.since)::float8,
           w.error ->> 'type', left(w.error ->> 'message', 500)
      from (select workflow_id, status, reason, since from {schema}.attention
             where status in ('failed', 'blocked') order by since desc limit $1::int) a
      join {schema}.workflow w on w.id = a.workflow_id order by a.since desc
    """,
)

FAILED: Final = Statement(
    "top_failed",
    # Those of the last seconds; who asks twice counts each once, however late it was committed.
    """
    select workflow_id, since from {schema}.attention
     where since > clock_timestamp() - make_interval(secs => $1::float8) and status = 'failed'
     order by since desc limit 10000
    """,
)
