"""Statements on `workflow`: every status change is guarded by what it expects and answers with RETURNING."""

from __future__ import annotations

from typing import Final, LiteralString

from dbdurable._sql.parts import given, record, with_parts
from dbdurable._sql.statement import Statement

START_HERE: Final = Statement(
    "start_here",
    # A direct call: born running and owned by the caller's executor, whose lease row is written with it. It
    # begins when the caller's process says so, since its body may ask for the time before this is committed.
    # With a key, nothing is written when the key is taken.
    """
    with k as (
        insert into {schema}.workflow_key (name, key, workflow_id, input_hash)
        select $2::text, $8::text, $1::uuid, sha256(convert_to($10::json::jsonb::text, 'UTF8'))
         where $8 is not null
        on conflict do nothing returning workflow_id),
    w as (
        insert into {schema}.workflow (
            id, name, queue, partition, priority, max_attempts, parent_id, key, created_at,
            deadline, attributes, input, status, epoch, executor_id, attempt, started_at)
        select $1, $2, $3::text, '', 0, $4::smallint, $11::uuid, $8, t.began,
               t.began + make_interval(secs => $5::float8), $9::jsonb, $10, 'running', 1, $6::uuid, 1, t.began
          from (select 'epoch'::timestamptz + $12::bigint * interval '1 microsecond') as t(began)
         where $8 is null or exists (select from k)
        on conflict (id) do nothing
        returning id, deadline),
    timed as (
        insert into {schema}.wait (workflow_id, path, kind, due)
        select id, '~', 'deadline', deadline from w where deadline is not null)
    insert into {schema}.lease (executor_id, batch, ids)
    select $6, $7::bigint, array[id] from w
    returning batch
    """,
)

BORN_HERE: Final = Statement(
    "born_here",
    """
    select exists (select from {schema}.lease l
                    where l.executor_id = $1::uuid and l.batch = $2::bigint and $3::uuid = any(l.ids))
    """,
)

_UNKEYED: Final = (
    # The same without a key: it may ride the first commit of the call, and may be sent twice.
    """
    with w as (
        insert into {schema}.workflow (
            id, name, queue, partition, priority, max_attempts, parent_id, created_at,
            deadline, attributes, input, status, epoch, executor_id, attempt, started_at)
        select $1::uuid, $2::text, $3::text, '', 0, $4::smallint, $9::uuid, t.began,
               t.began + make_interval(secs => $5::float8), $7::jsonb, $8::json, 'running', 1, $6::uuid, 1, t.began
          from (select 'epoch'::timestamptz + $11::bigint * interval '1 microsecond') as t(began)
        on conflict (id) do nothing
        returning id, deadline)
    """
)
_UNKEYED_LEASE: Final = """
    insert into {schema}.lease (executor_id, batch, ids)
    select $6, $10::bigint, array[id] from w
    """

START_HERE_UNKEYED: Final = Statement("start_here_unkeyed", _UNKEYED + _UNKEYED_LEASE)

START_HERE_TIMED: Final = Statement(
    "start_here_timed",
    # One that has a deadline; most have none, and do not pay for it.
    _UNKEYED
    + """,
    timed as (
        insert into {schema}.wait (workflow_id, path, kind, due) select id, '~', 'deadline', deadline from w)
    """
    + _UNKEYED_LEASE,
)

START_CALL: Final = """{schema}.start(
        name => $1::text, input => $2::json, key => $3::text, queue => $4::text, id => $5::uuid,
        priority => $6::int, delay => make_interval(secs => $7::float8), at => $8::timestamptz,
        expires => make_interval(secs => $9::float8), partition => $10::text,
        timeout => make_interval(secs => $11::float8), attributes => $12::jsonb, max_attempts => $13::int,
        parent_id => $14::uuid, registered => $15::boolean, known_queue => $16::boolean, cost => $17::int,
        key_reuse => $18::boolean)"""
"""With the parameters of `Start.params`; others follow from $19 on."""

START: Final = Statement("start", "select " + START_CALL)

START_AND_SEND: Final = Statement(
    "start_and_send",
    # Starts the workflow unless its key is there, and sends: both or neither.
    """
    with s as materialized (select """
    + START_CALL
    + """ as id)
    select s.id, {schema}.send(s.id, $19::text, $20::json, $21::text) from s
    """,
)

START_MANY: Final = Statement("start_many", "select place, id from {schema}.start_many($1::json) order by place")

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

FIND_BY_KEY: Final = Statement(
    "find_by_key",
    """
    select workflow_id, input_hash = sha256(convert_to($3::json::jsonb::text, 'UTF8'))
      from {schema}.workflow_key where name = $1::text and key = $2::text
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


def _child(output: LiteralString) -> LiteralString:
    """The child and the parent's record of its id in one statement, fenced; `{start}` is the call that starts it."""
    text = record(output, id="$19", path="$20", seq="$21", kind="$24", name="$1", executor="$22", epoch="$23")
    started = START_CALL[:-1] + ", parent_close => $25::text)"
    return (
        with_parts(text, start=started)
        + """
    returning output #>> '{}', (extract(epoch from finished_at) * 1000000)::bigint
    """
    )


START_CHILD: Final = Statement(
    "start_child",
    # A start inside a workflow's body.
    _child("to_json({start})"),
)

START_CHILD_AND_SEND: Final = Statement(
    "start_child_and_send",
    # The same with a message for it, or for the one that holds its key.
    _child(
        """(
            with s as materialized (select {start} as id)
            select to_json(s.id) from s where {schema}.send(s.id, $26::text, $27::json, $28::text) is not null)"""
    ),
)

ADOPT_CHILD: Final = Statement(
    "adopt_child",
    # A parent that waits for a child nobody runs yet runs it itself, on its own thread or task: however few
    # slots there are, parents and children cannot wait for each other. The child's ticket is dropped later,
    # by the claim that finds it. A delayed child has no ticket and is left alone; so is one in a queue that is
    # paused or has limits, which this would pass by.
    """
    with own as (
        update {schema}.workflow w
           set status = 'running', epoch = w.epoch + 1, executor_id = $2::uuid,
               started_at = coalesce(w.started_at, clock_timestamp())
         where w.id = $1::uuid and w.status = 'queued'
           and not exists (select from {schema}.wait t where t.workflow_id = w.id and t.kind = 'start')
           and not exists (select from {schema}.queue q where q.name = w.queue and (q.limited or q.paused))
        returning w.id, w.epoch, w.attempt, w.interrupt, w.input, w.key, w.deadline, w.started_at),
    held as (
        insert into {schema}.lease (executor_id, batch, ids) select $2, $3::bigint, array[id] from own)
    select epoch, attempt, interrupt, input::text, key, deadline,
           (extract(epoch from started_at) * 1000000)::bigint from own
    """,
)
