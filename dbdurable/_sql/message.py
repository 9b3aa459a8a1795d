"""Statements of what workflows say to each other: messages, events, promises, progress.

Sends use the SQL function, also in a workflow's own record: it inserts the wake ticket with the message.
"""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import TICKET, WAKE, fence, record, with_parts
from dbdurable._sql.statement import Statement

SEND: Final = Statement("send", "select {schema}.send($1::uuid, $2::text, $3::json, $4::text)")

SEND_ONCE: Final = Statement(
    "send_once",
    # Under a key that was made here: it may share its commit, since nobody else writes that key.
    SEND.text,
)

SEND_MANY: Final = Statement(
    "send_many",
    # Several such, in that order.
    """
    select {schema}.send(x.id, x.topic, x.body::json, x.key)
      from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) with ordinality as x(id, topic, body, key, place)
     order by x.place
    """,
)

SEND_RECORDED: Final = Statement(
    "send_recorded",
    # A send in a workflow's body: the message and the record of it in one statement, fenced.
    record("to_json({schema}.send($8::uuid, $9::text, $10::json, $11::text))")
    + """
    returning (extract(epoch from finished_at) * 1000000)::bigint
    """,
)

SEND_RECORDED_MANY: Final = Statement(
    "send_recorded_many",
    # Of several workflows, without keys. What is not the caller's, or held by somebody just now, is left out: it is
    # asked alone. What was sent before raises: nothing may be sent twice.
    """
    with k as materialized (
        select x.* from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::uuid[], $7::int[],
                               $8::uuid[], $9::text[], $10::text[])
               as x(id, path, seq, kind, name, executor_id, epoch, receiver, topic, body)
          join {schema}.workflow w on w.id = x.id and w.executor_id = x.executor_id and w.epoch = x.epoch
                                  and w.status = 'running'
           for share of w skip locked)
    insert into {schema}.step
        (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
    select id, path, seq, kind::{schema}.step_kind, name, 1, epoch, clock_timestamp(), clock_timestamp(),
           to_json({schema}.send(receiver, topic, body::json))
      from k
    returning workflow_id, path, (extract(epoch from finished_at) * 1000000)::bigint
    """,
)

HAS_MESSAGE: Final = Statement(
    "has_message",
    "select exists (select from {schema}.message where workflow_id = $1::uuid and topic = $2::text)",
)

RECEIVE: Final = Statement(
    "receive",
    # The first message becomes the record of the call, and goes only together with that: a message of another
    # call, or one that comes while a time-out is recorded at this path, stays.
    with_parts(
        """
    with m as materialized (
        select id, body from {schema}.message
         where workflow_id = $1::uuid and topic = $8::text order by at, id limit 1 for update),
    i as (
        insert into {schema}.step
            (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
        select $1, $2::text, $3::int, $4::text::{schema}.step_kind, $5::text, 1,{fence},
               clock_timestamp(), clock_timestamp(), m.body
          from m
        on conflict do nothing
        returning path, output, (extract(epoch from finished_at) * 1000000)::bigint as finished_us),
    d as (
        delete from {schema}.message x using m, i where x.workflow_id = $1 and x.id = m.id),
    t as (
        delete from {schema}.wait where workflow_id = $1 and path = $2 and exists (select from i))
    select finished_us, output::text from i
    """,
        fence=fence("$6", "$7"),
    ),
)

SET_EVENT: Final = Statement(
    "set_event",
    with_parts(
        """
    with i as ({record}
        returning workflow_id, (extract(epoch from finished_at) * 1000000)::bigint as finished_us),
    e as (
        insert into {schema}.event (workflow_id, name, value) select i.workflow_id, $8::text, $9::json from i
        on conflict (workflow_id, name) do update set value = excluded.value, at = excluded.at)
    select finished_us from i
    """,
        record=record("null"),
    ),
)

PUT_EVENT: Final = Statement(
    "put_event",
    # In a step's own transaction, whose record is the fence; and progress, which is no record.
    """
    insert into {schema}.event (workflow_id, name, value) values ($1::uuid, $2::text, $3::json)
    on conflict (workflow_id, name) do update set value = excluded.value, at = excluded.at
    returning name
    """,
)

WAKE_WAITERS: Final = Statement(
    "wake_waiters",
    # After the commit of what they wait for. A workflow that is about to park looks for itself.
    WAKE
    + """
      from {schema}.wait t join {schema}.workflow w on w.id = t.workflow_id and w.status = 'waiting'
     where t.kind = $1::text::{schema}.wait_kind and t.subject = any($2::text[])
    returning queue
    """,
)

WAKE_ENDED: Final = Statement(
    "wake_ended",
    # Whoever waits for a workflow that has ended: for its outcome, or for an event that will never come. Sent
    # with the beat, before the ids leave their lease rows, and with looks; where nobody waits for any, two probes.
    with_parts(
        """
    {wake}
      from unnest($1::uuid[]) as e(id)
      join {schema}.workflow o on o.id = e.id and o.status in ('succeeded', 'failed', 'cancelled')
      join {schema}.wait t on t.kind = 'event' and t.subject >= e.id::text || ':' and t.subject < e.id::text || ';'
      join {schema}.workflow w on w.id = t.workflow_id and w.status = 'waiting'
     where exists (select from {schema}.wait where kind = 'event')
    union all
    {ticket}
      from unnest($1) as e(id)
      join {schema}.wait t on t.kind = 'result' and t.subject = e.id::text
      join {schema}.workflow o on o.id = e.id and o.status in ('succeeded', 'failed', 'cancelled')
      join {schema}.workflow w on w.id = t.workflow_id and w.status = 'waiting'
     where exists (select from {schema}.wait where kind = 'result')
    returning queue
    """,
        wake=WAKE,
        ticket=TICKET,
    ),
)

READ_EVENT: Final = Statement(
    "read_event",
    """
    select w.name, w.status::text, e.name is not null, e.value::text
      from {schema}.workflow w left join {schema}.event e on e.workflow_id = w.id and e.name = $2::text
     where w.id = $1::uuid
    """,
)

READ_PROMISE: Final = Statement(
    "read_promise",
    """
    select body -> 'outcome' ->> 'reason', (body -> 'outcome' -> 'value')::text from {schema}.message
     where workflow_id = $1::uuid and topic = $2::text
    """,
)

RESOLVE: Final = Statement("resolve", "select {schema}.resolve($1::text, $2::json, $3::uuid)")

REJECT: Final = Statement("reject", "select {schema}.reject($1::text, $2::text, $3::uuid)")

COMPLETE_RECORDED: Final = Statement(
    "complete_recorded",
    # A promise of another workflow, completed in a workflow's body: one statement with its record, fenced.
    record(
        """to_json(case when $10::text is null then {schema}.resolve($8::text, $9::json)
                     else {schema}.reject($8, $10) end::text)"""
    )
    + """
    returning (extract(epoch from finished_at) * 1000000)::bigint
    """,
)
