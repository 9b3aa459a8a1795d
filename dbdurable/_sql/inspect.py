"""What the command line reads: each row is one JSON object, named by its columns."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.statement import Statement

LIST_JSON: Final = Statement(
    "list_json",
    """
    select to_json(q)::text from (
        select id, name, status, reason, key, queue, attempt, created_at, started_at, finished_at,
               error_type, error_message, executor, progress,
               extract(epoch from clock_timestamp() - created_at)::float8 as age_s
          from {schema}.workflows
         where ($1::text is null or name = $1) and ($2::text is null or status = $2)
         order by id desc limit $3::int) q
    """,
)

SHOW_JSON: Final = Statement(
    "show_json",
    """
    select to_json(q)::text from (
        select v.id, v.name, v.status, v.reason, v.key, v.queue, v.priority, v.partition, v.attributes,
               v.attempt, v.max_attempts, v.parent_id, v.created_at, v.deadline, v.started_at, v.finished_at,
               extract(epoch from v.duration)::float8 as duration_s, v.executor, v.epoch, v.input, v.output,
               v.progress,
               v.error_type, v.error_message, w.error ->> 'traceback' as error_traceback,
               array(select to_json(x) from (
                        select path, kind, subject, due from {schema}.wait t
                         where workflow_id = v.id
                           and (kind <> 'retry' or not exists (
                                select from {schema}.step s where s.workflow_id = v.id and s.path = t.path))
                         order by due, path) x) as waits,
               extract(epoch from clock_timestamp() - v.created_at)::float8 as age_s
          from {schema}.workflows v join {schema}.workflow w on w.id = v.id
         where v.id = $1::uuid) q
    """,
)

STEPS_JSON: Final = Statement(
    "steps_json",
    """
    select to_json(q)::text from (
        select path, name, kind, status, attempts, output, error_type, error_message, started_at, finished_at,
               extract(epoch from duration)::float8 as duration_s,
               extract(epoch from clock_timestamp() - finished_at)::float8 as age_s
          from {schema}.steps where workflow_id = $1::uuid order by seq) q
    """,
)

FAILURES_JSON: Final = Statement(
    "failures_json",
    """
    select to_json(q)::text from (
        select id, name, status, reason, since, error_type, error_message, key, queue, input, attempt, created_at,
               extract(epoch from clock_timestamp() - since)::float8 as age_s
          from {schema}.failures order by since desc limit $1::int) q
    """,
)

EXECUTORS_JSON: Final = Statement(
    "executors_json",
    """
    select to_json(q)::text from (
        select id, host, pid, version, alive, running, queues, names, started_at, expires_at,
               extract(epoch from clock_timestamp() - started_at)::float8 as age_s
          from {schema}.executors order by started_at) q
    """,
)

QUEUES_JSON: Final = Statement(
    "queues_json",
    """
    select to_json(q)::text from (
        select name, paused, ready, oldest, running, delayed, used, concurrency, worker_concurrency, per_partition,
               rate_limit, extract(epoch from rate_per)::float8 as rate_per_s, rate_burst,
               partition_rate_limit, extract(epoch from partition_rate_per)::float8 as partition_rate_per_s,
               partition_rate_burst, max_depth, updated_at,
               extract(epoch from clock_timestamp() - oldest)::float8 as age_s
          from {schema}.queues where $1::text is null or name = $1 order by name) q
    """,
)

FIND_BY_PREFIX: Final = Statement(
    "find_by_prefix",
    # A range of the primary key; ids of the same minute share their first eight digits.
    """
    select id::text, name, status from {schema}.workflows
     where id between $1::uuid and $2::uuid order by id limit 6
    """,
)

CATALOG: Final = Statement(
    "catalog",
    # The documented views as they are in this database, for the guard of ad-hoc SQL.
    """
    select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
      from pg_catalog.pg_class c
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = '{schema}'::regnamespace and c.relkind = 'v'
     order by c.relname, a.attnum
    """,
)

SESSION_OF_A_QUERY: Final = Statement(
    "session_of_a_query",
    # Views go by their plain names; pg_temp last, so that nothing temporary can take the place of a view.
    """
    select set_config('statement_timeout', $1::text, true),
           set_config('search_path', '{schema}, pg_catalog, pg_temp', true)
    """,
)
