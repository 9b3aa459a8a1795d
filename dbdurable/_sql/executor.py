"""Statements of executors: register, beat, end. What one does for all is in `upkeep`, claims are in `claim`."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.statement import Statement

REGISTER: Final = Statement(
    "register",
    """
    insert into {schema}.executor (id, expires_at, names, queues, host, pid, version)
    values ($1::uuid, clock_timestamp() + make_interval(secs => $2::float8), $3::text[], $4::text[],
            $5::text, $6::int, $7::text)
    """,
)

KNOWS: Final = Statement(
    "knows",
    "update {schema}.executor set names = $2::text[], queues = $3::text[] where id = $1::uuid",
)

DEFINE: Final = Statement(
    "define",
    # What a start by name needs; written only where it differs, so that a restart writes nothing.
    """
    insert into {schema}.definition as d (name, queue, max_attempts, timeout)
    select name, queue, max_attempts, make_interval(secs => timeout_s)
      from unnest($1::text[], $2::text[], $3::smallint[], $4::float8[]) as x(name, queue, max_attempts, timeout_s)
    on conflict (name) do update
       set queue = excluded.queue, max_attempts = excluded.max_attempts, timeout = excluded.timeout,
           updated_at = clock_timestamp()
     where (d.queue, d.max_attempts, d.timeout)
           is distinct from (excluded.queue, excluded.max_attempts, excluded.timeout)
    """,
)

SESSION: Final = Statement(
    "session",
    """
    update {schema}.executor set session_pid = s.pid, session_start = s.backend_start
      from pg_stat_get_activity(pg_backend_pid()) s
     where id = $1::uuid and s.pid = $2::int
    """,
)

BEAT: Final = Statement(
    "beat",
    # Never revives: an executor that has expired, or was declared dead, gets no row. Tells the time.
    """
    update {schema}.executor set expires_at = clock_timestamp() + make_interval(secs => $2::float8)
     where id = $1::uuid and expires_at > clock_timestamp()
    returning extract(epoch from clock_timestamp())::float8
    """,
)

HELD: Final = Statement(
    "held",
    # What the database says this executor runs: cancels come with the answer; what the process does not
    # know is handed back. LATERAL and OFFSET: each workflow is looked for by its key, whatever the planner believes
    # when it plans this for the session's whole life.
    """
    select w.id, w.epoch, w.interrupt, w.queue, w.slots
      from {schema}.lease l cross join unnest(l.ids) as i(id) cross join lateral (
           select o.id, o.epoch, o.interrupt, o.queue, o.slots from {schema}.workflow o
            where o.id = i.id and o.executor_id = $1 and o.status = 'running' offset 0) w
     where l.executor_id = $1::uuid
    """,
)

RELEASE_BATCHES: Final = Statement(
    "release_batches",
    "delete from {schema}.lease where executor_id = $1::uuid and batch = any($2::bigint[])",
)

UNREGISTER: Final = Statement(
    "unregister",
    "delete from {schema}.executor where id = $1::uuid",
)

DECLARE_QUEUE: Final = Statement(
    "declare_queue",
    "select {schema}.declare_queue(q.name, q.settings) from unnest($1::text[], $2::jsonb[]) as q(name, settings)",
)

UNBLOCK: Final = Statement(
    "unblock",
    # Workflows that another version of the code could not replay: this one may. Its own version in the row
    # says that it has tried.
    """
    select {schema}.resume(a.workflow_id)
      from {schema}.attention a join {schema}.workflow w on w.id = a.workflow_id
     where a.status = 'blocked' and w.name = any($1::text[]) and $2::text <> '' and a.version <> $2
     limit 100
    """,
)

IDLE: Final = Statement(
    "idle",
    # Whether anything that this executor could run is queued, or runs anywhere.
    """
    select not exists (select from {schema}.ready where queue = any($1::text[]) and name = any($2::text[]))
       and not exists (select from {schema}.lease l, unnest(l.ids) as i(id)
                         join {schema}.workflow w on w.id = i.id and w.status = 'running' and w.name = any($2))
    """,
)

CLOCK: Final = Statement("clock", "select extract(epoch from clock_timestamp())::float8")
