"""Statements that start workflows: for later, here and now, and as the child of another."""

from __future__ import annotations

from typing import Final, LiteralString

from dbdurable._sql.parts import record, with_parts
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

FIND_BY_KEY: Final = Statement(
    "find_by_key",
    """
    select workflow_id, input_hash = sha256(convert_to($3::json::jsonb::text, 'UTF8'))
      from {schema}.workflow_key where name = $1::text and key = $2::text
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


def _of_column(text: LiteralString, columns: int) -> LiteralString:
    """The same text with the column cN of `k` for each parameter $N, which has a cast."""
    for number in range(1, columns + 1):
        text = text.replace(f"${number}::", f"k.c{number}::")
    return text


START_CHILD_COLUMNS: Final = 25

START_CHILD_MANY: Final = Statement(
    "start_child_many",
    # Of several calls, as START_CHILD, without keys; each parameter an array of texts. What is not the caller's, or
    # held by somebody just now, is left out: it is asked alone. What was started before raises: none is started twice.
    with_parts(
        """
    with k as materialized (
        select x.* from unnest({arrays}) as x({columns})
          join {schema}.workflow w on w.id = x.c19::uuid and w.executor_id = x.c22::uuid and w.epoch = x.c23::int
                                  and w.status = 'running'
           for share of w skip locked)
    insert into {schema}.step
        (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
    select k.c19::uuid, k.c20, k.c21::int, k.c24::{schema}.step_kind, k.c1, 1, k.c23::int,
           clock_timestamp(), clock_timestamp(), to_json({start}, parent_close => k.c25))
      from k
    returning workflow_id, path, output #>> '{}', (extract(epoch from finished_at) * 1000000)::bigint
    """,
        arrays=", ".join(f"${number}::text[]" for number in range(1, START_CHILD_COLUMNS + 1)),
        columns=", ".join(f"c{number}" for number in range(1, START_CHILD_COLUMNS + 1)),
        start=_of_column(START_CALL[:-1], 18),
    ),
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
           and not exists (
               select from {schema}.wait t where t.workflow_id = w.id and t.path = '' and t.kind = 'start' offset 0)
           and not exists (select from {schema}.queue q where q.name = w.queue and (q.limited or q.paused))
        returning w.id, w.epoch, w.attempt, w.interrupt, w.input, w.key, w.deadline, w.started_at),
    held as (
        insert into {schema}.lease (executor_id, batch, ids) select $2, $3::bigint, array[id] from own)
    select epoch, attempt, interrupt, input::text, key, deadline,
           (extract(epoch from started_at) * 1000000)::bigint from own
    """,
)

ADOPT_CHILD_MANY: Final = Statement(
    "adopt_child_many",
    # Several children, each into a lease row of its own. What is left out is asked alone.
    """
    with k as materialized (
        select w.id, x.executor_id, x.batch
          from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as x(id, executor_id, batch)
          join {schema}.workflow w on w.id = x.id and w.status = 'queued'
         where not exists (
               select from {schema}.wait t where t.workflow_id = w.id and t.path = '' and t.kind = 'start' offset 0)
           and not exists (select from {schema}.queue q where q.name = w.queue and (q.limited or q.paused))
           for no key update of w skip locked),
    own as (
        update {schema}.workflow w
           set status = 'running', epoch = w.epoch + 1, executor_id = k.executor_id,
               started_at = coalesce(w.started_at, clock_timestamp())
          from k where w.id = k.id
        returning w.id, w.epoch, w.attempt, w.interrupt, w.input, w.key, w.deadline, w.started_at),
    held as (
        insert into {schema}.lease (executor_id, batch, ids) select executor_id, batch, array[id] from k)
    select id, epoch, attempt, interrupt, input::text, key, deadline,
           (extract(epoch from started_at) * 1000000)::bigint from own
    """,
)
