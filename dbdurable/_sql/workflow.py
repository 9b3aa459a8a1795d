"""Statements on `workflow`: every status change is guarded by what it expects and answers with RETURNING."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import given, with_parts
from dbdurable._sql.statement import Statement

_FINISH: Final = with_parts(
    # Keeps executor_id and epoch, so that the same statement sent again after a lost answer knows itself.
    """
    with w as (
        update {schema}.workflow
           set status = $4::text::{schema}.status, slots = null, output = $5::json, error = $6::json,
               finished_at = clock_timestamp()
         where id = $1::uuid and executor_id = $2::uuid and epoch = $3::int and status = 'running'
        returning id),{given},
    a as (
        insert into {schema}.attention (workflow_id, status, reason)
        select id, 'failed', $7::text from w where $4 = 'failed'
        on conflict (workflow_id) do update set status = excluded.status, reason = excluded.reason,
            since = clock_timestamp()),
    d as (delete from {schema}.wait where workflow_id = $1 and exists (select from w))
    """,
    given=given("$8", "$9"),
)

FINISH: Final = Statement("finish", _FINISH + "select id from w")

FINISH_SUCCEEDED: Final = Statement(
    "finish_succeeded",
    # The same of one that has succeeded and holds nothing of a limit, as most do: a fifth less of the server's time.
    """
    with w as (
        update {schema}.workflow
           set status = 'succeeded', slots = null, output = $4::json, finished_at = clock_timestamp()
         where id = $1::uuid and executor_id = $2::uuid and epoch = $3::int and status = 'running'
        returning id),
    d as (delete from {schema}.wait where workflow_id = $1 and exists (select from w))
    select id from w
    """,
)

FINISH_CLOSING: Final = Statement(
    "finish_closing",
    # Of one that may leave children behind which end with it.
    _FINISH
    + """,
    c as (
        insert into {schema}.cascade (workflow_id, ended, epoch, reason)
        select id, true, $3, 'its parent has ended: ' || $4 from w on conflict do nothing)
    select id from w
    """,
)

FINISH_MANY: Final = Statement(
    "finish_many",
    # Of several workflows that hold nothing of a limit. Rows that somebody holds are left out: they are
    # finished alone, where waiting keeps nobody else.
    """
    with k as materialized (
        select w.id, x.status, x.output, x.error, x.reason
          from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[])
               as x(id, executor_id, epoch, status, output, error, reason)
          join {schema}.workflow w on w.id = x.id and w.executor_id = x.executor_id and w.epoch = x.epoch
                                  and w.status = 'running'
           for no key update of w skip locked),
    u as (
        update {schema}.workflow w
           set status = k.status::{schema}.status, slots = null, output = k.output::json, error = k.error::json,
               finished_at = clock_timestamp()
          from k where w.id = k.id
        returning w.id),
    a as (
        insert into {schema}.attention (workflow_id, status, reason)
        select k.id, 'failed', k.reason from k where k.status = 'failed'
        on conflict (workflow_id) do update set status = excluded.status, reason = excluded.reason,
            since = clock_timestamp()),
    d as (delete from {schema}.wait t using k where t.workflow_id = k.id)
    select id from u
    """,
)

RIDE_TIMEOUT: Final = Statement("ride_timeout", "select set_config('lock_timeout', '100ms', true)")
"""What is done for others must not wait for one of them."""

RIDE: Final = Statement(
    "ride_together",
    # What rides together must not wait for one of them: it is split then. And it looks for each workflow by its
    # key: a session plans that once, maybe while the tables are small, and would go on to read all of them. By
    # itself the server would plan it for each commit, since it guesses arrays to be longer than they are.
    """
    select set_config('lock_timeout', '100ms', true), set_config('plan_cache_mode', 'force_generic_plan', true),
           set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
           set_config('jit', 'off', true)
    """,
)

BLOCK: Final = Statement(
    "block",
    with_parts(
        """
    with w as (
        update {schema}.workflow set status = 'blocked', epoch = epoch + 1, executor_id = null, slots = null
         where id = $1::uuid and executor_id = $2::uuid and epoch = $3::int and status = 'running'
        returning id),
    stopped as (
        update {schema}.wait t set remaining = t.due - clock_timestamp(), due = null
         where t.workflow_id = $1 and t.due is not null and exists (select from w)),{given},
    a as (
        insert into {schema}.attention (workflow_id, status, reason, version)
        select id, 'blocked', $4::text, $5::text from w
        on conflict (workflow_id) do update set status = excluded.status, reason = excluded.reason,
            version = excluded.version, since = clock_timestamp())
    select id from w
    """,
        given=given("$6", "$7"),
    ),
)

HAND_BACK: Final = Statement(
    "hand_back",
    with_parts(
        """
    with w as (
        update {schema}.workflow set status = 'queued', epoch = epoch + 1, executor_id = null, slots = null
         where id = $1::uuid and executor_id = $2::uuid and epoch = $3::int and status = 'running'
        returning id, queue, partition, priority, name),{given},
    r as (
        insert into {schema}.ready (queue, partition, rank, workflow_id, name)
        select queue, {schema}.ticket_partition(queue, partition), 2 * priority, id, name from w)
    select id from w
    """,
        given=given("$4", "$5"),
    ),
)

OWNERSHIP: Final = Statement(
    "ownership",
    """
    select status::text, executor_id, epoch, interrupt from {schema}.workflow where id = $1::uuid
    """,
)

OUTCOME: Final = Statement(
    "outcome",
    """
    select w.name, w.status::text, w.output::text, w.error::text, coalesce(a.reason, w.interrupt)
      from {schema}.workflow w left join {schema}.attention a on a.workflow_id = w.id
     where w.id = $1::uuid
    """,
)

SHOW: Final = Statement(
    "show",
    """
    select id, name, key, queue, status, reason, attempt, created_at, attributes::text
      from {schema}.workflows where id = $1::uuid
    """,
)

LIST: Final = Statement(
    "list",
    """
    select id, name, key, queue, status, reason, attempt, created_at, attributes::text
      from {schema}.workflows
     where ($1::text is null or name = $1) and ($2::text is null or status = $2)
     order by id desc limit $3::int
    """,
)

LIST_STEPS: Final = Statement(
    "list_steps",
    """
    select path, name, kind, attempts,
           case when error_type is null then null else error_type || ': ' || error_message end, finished_at
      from {schema}.steps where workflow_id = $1::uuid order by seq
    """,
)

NOTE_UNDO: Final = Statement(
    "note_undo",
    # A compensation keeps failing: shown with the workflow until it works.
    """
    insert into {schema}.attention (workflow_id, status, reason)
    select w.id, 'running', $4::text from {schema}.workflow w
     where w.id = $1::uuid and w.executor_id = $2::uuid and w.epoch = $3::int and w.status = 'running'
    on conflict (workflow_id) do update set reason = excluded.reason
    """,
)

CLEAR_UNDO: Final = Statement(
    "clear_undo",
    "delete from {schema}.attention where workflow_id = $1::uuid and status = 'running'",
)

CANCEL: Final = Statement("cancel", "select {schema}.cancel($1::uuid, $2::text)")

PAUSE: Final = Statement("pause", "select {schema}.pause($1::uuid)")

RESUME: Final = Statement("resume", "select {schema}.resume($1::uuid)")
