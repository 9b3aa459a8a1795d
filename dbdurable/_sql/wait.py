"""Statements of waits: park, look, wake, and the record that ends a wait."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import WAKE, fence, given, record, with_parts
from dbdurable._sql.statement import Statement

_RENEW: Final = """
        on conflict (workflow_id, path) do update
           set rung = false, attempts = excluded.attempts,
               subject = case when excluded.subject <> '' then excluded.subject else t.subject end,
               due = case when excluded.kind = 'retry' then excluded.due else t.due end
         where t.rung or excluded.kind = 'retry'"""
"""Of a wait t that is there already: it may have rung while the workflow ran, its ticket be gone, and rings again.

It keeps its deadline. Only until a call is made again it waits anew after each attempt that fails.
"""

PARK: Final = Statement(
    "park",
    # The attempt has left its frame. Keeps executor_id and epoch, so that the same statement sent again after
    # a lost answer knows itself. A wait that nothing waits for any more (it lost a race, or its call goes on) goes.
    # What was held of the queue's limits is given back.
    with_parts(
        """
    with w as (
        update {schema}.workflow set status = 'waiting', slots = null
         where id = $1::uuid and executor_id = $2::uuid and epoch = $3::int and status = 'running'
        returning id),{given},
    gone as (
        delete from {schema}.wait
         where workflow_id = $1 and path <> all($6::text[]) and kind not in ('deadline', 'timeout')
           and exists (select from w)),
    t as (
        insert into {schema}.wait as t (workflow_id, path, kind, subject, due, attempts)
        select w.id, x.path, x.kind::{schema}.wait_kind, x.subject,
               coalesce(x.due, clock_timestamp() + make_interval(secs => x.left_s)), x.attempts
          from w, unnest($6::text[], $7::text[], $8::text[], $9::float8[], $10::timestamptz[], $11::smallint[])
               as x(path, kind, subject, left_s, due, attempts)
        {renew})
    select id from w
    """,
        given=given("$4", "$5"),
        renew=_RENEW,
    ),
)

PARK_MANY: Final = Statement(
    "park_many",
    # Of several workflows that hold nothing of a limit, as PARK; each with its waits as a JSON list. Rows that somebody
    # holds are left out: they are parked alone, where waiting keeps nobody else.
    with_parts(
        """
    with k as materialized (
        select x.id, x.waits::json as waits
          from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[]) as x(id, executor_id, epoch, waits)
          join {schema}.workflow w on w.id = x.id and w.executor_id = x.executor_id and w.epoch = x.epoch
                                  and w.status = 'running'
           for no key update of w skip locked),
    u as (
        update {schema}.workflow w set status = 'waiting', slots = null from k where w.id = k.id
        returning w.id),
    gone as (
        delete from {schema}.wait t using k
         where t.workflow_id = k.id and t.kind not in ('deadline', 'timeout')
           and not exists (select from json_to_recordset(k.waits) as x(path text) where x.path = t.path)),
    t as (
        insert into {schema}.wait as t (workflow_id, path, kind, subject, due, attempts)
        select k.id, x.path, x.kind::{schema}.wait_kind, x.subject,
               coalesce(x.due, clock_timestamp() + make_interval(secs => x.left_s)), x.attempts
          from k cross join lateral json_to_recordset(k.waits)
               as x(path text, kind text, subject text, left_s float8, due timestamptz, attempts smallint)
        {renew})
    select id from u
    """,
        renew=_RENEW,
    ),
)

ARRIVED: Final = """
                  t.kind = 'message' and exists (
                      select from {schema}.message m where m.workflow_id = w.id and m.topic = t.subject)
               or t.kind = 'result' and exists (
                      select from {schema}.workflow o
                       where o.id = t.subject::uuid and o.status in ('succeeded', 'failed', 'cancelled') offset 0)
               or t.kind = 'event' and exists (
                      select from {schema}.workflow o left join {schema}.event e
                          on e.workflow_id = o.id and e.name = substr(t.subject, 38)
                       where o.id = left(t.subject, 36)::uuid
                         and (e.name is not null or o.status in ('succeeded', 'failed', 'cancelled')))"""
"""Of a wait t of the workflow w: what it waits for is there.

OFFSET: the other workflow is looked for by its key, never in a list of all that have ended, whatever was planned for.
"""

_HAS_COME: Final = with_parts(
    """
           w.status = 'waiting' and exists (
           select from {schema}.wait t
            where t.workflow_id = w.id and (t.due <= clock_timestamp() or ({arrived})))
    """,
    arrived=ARRIVED,
)

LOOK: Final = Statement(
    "look",
    # After the park has committed: whatever came before that is seen here, and what comes later finds the wait.
    WAKE + "\n      from {schema}.workflow w\n     where w.id = $1::uuid and" + _HAS_COME + "returning queue",
)

LOOK_MANY: Final = Statement(
    "look_many",
    # Of several workflows.
    WAKE
    + "\n      from unnest($1::uuid[]) as k(id) join {schema}.workflow w on w.id = k.id\n     where"
    + _HAS_COME
    + "returning workflow_id, queue",
)

KEEP_WAIT: Final = Statement(
    "keep_wait",
    # A wait that cannot park yet, because something else of its workflow goes on: its deadline outlives a crash.
    with_parts(
        """
    insert into {schema}.wait as t (workflow_id, path, kind, subject, due, attempts)
    select w.id, $4::text, $5::text::{schema}.wait_kind, $6::text,
           coalesce($8::timestamptz, clock_timestamp() + make_interval(secs => $7::float8)), $9::smallint
      from {schema}.workflow w
     where w.id = $1::uuid and w.executor_id = $2::uuid and w.epoch = $3::int and w.status = 'running'
        {renew}
    """,
        renew=_RENEW,
    ),
)

NOTE_LIMIT: Final = Statement(
    "note_limit",
    # A timeout() block: its record, and the wait that wakes the workflow when its time is over.
    with_parts(
        """
    with i as ({record}
        on conflict do nothing
        returning workflow_id, path)
    insert into {schema}.wait (workflow_id, path, kind, due)
    select workflow_id, path, 'timeout', clock_timestamp() + make_interval(secs => $8::float8) from i
    on conflict do nothing
    """,
        record=record("'null'"),
    ),
)

DROP_WAITS: Final = Statement(
    "drop_waits",
    "delete from {schema}.wait where workflow_id = $1::uuid and path = any($2::text[]) and kind = 'timeout'",
)

END_WAIT: Final = Statement(
    "end_wait",
    # What came of a wait, fenced; its row goes with it. No row: somebody has recorded it before.
    with_parts(
        """
    with i as (
        insert into {schema}.step
            (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output, error)
        values (
            $1::uuid, $2::text, $3::int, $4::text::{schema}.step_kind, $5::text, 1,{fence},
            clock_timestamp() - make_interval(secs => $8::float8), clock_timestamp(), $9::json, $10::json)
        on conflict do nothing
        returning (extract(epoch from finished_at) * 1000000)::bigint as finished_us),
    t as (
        delete from {schema}.wait where workflow_id = $1 and path = $2 and exists (select from i))
    select finished_us from i
    """,
        fence=fence("$6", "$7"),
    ),
)

END_WAIT_MANY: Final = Statement(
    "end_wait_many",
    # Of several workflows, as END_WAIT. What is not the caller's, or held by somebody just now, or recorded before is
    # left out: it is asked alone, where refusing and waiting keep nobody else.
    """
    with k as materialized (
        select x.* from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::uuid[], $7::int[],
                               $8::float8[], $9::text[], $10::text[])
               as x(id, path, seq, kind, name, executor_id, epoch, elapsed_s, output, error)
          join {schema}.workflow w on w.id = x.id and w.executor_id = x.executor_id and w.epoch = x.epoch
                                  and w.status = 'running'
           for share of w skip locked),
    i as (
        insert into {schema}.step
            (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output, error)
        select id, path, seq, kind::{schema}.step_kind, name, 1, epoch,
               clock_timestamp() - make_interval(secs => elapsed_s), clock_timestamp(), output::json, error::json
          from k
        on conflict do nothing
        returning workflow_id, path, (extract(epoch from finished_at) * 1000000)::bigint as finished_us),
    t as (
        delete from {schema}.wait t using i where t.workflow_id = i.workflow_id and t.path = i.path)
    select workflow_id, path, finished_us from i
    """,
)

CLAIMED_WAITS: Final = Statement(
    "claimed_waits",
    # What the claimed workflows waited for: so a deadline is kept. In the flight of the claim.
    """
    select j.workflow_id, j.path, j.left_s, j.attempts
      from {schema}.lease l cross join unnest(l.ids) as i(id) cross join lateral (
           select t.workflow_id, t.path, extract(epoch from t.due - clock_timestamp())::float8 as left_s, t.attempts
             from {schema}.wait t where t.workflow_id = i.id) j
     where l.executor_id = $1::uuid and l.batch >= $2::bigint
    """,
)

READ_WAITS: Final = Statement(
    "read_waits",
    """
    select path, extract(epoch from due - clock_timestamp())::float8, attempts
      from {schema}.wait where workflow_id = $1::uuid
    """,
)

SECONDS_UNTIL: Final = Statement(
    "seconds_until",
    "select extract(epoch from $1::timestamptz - clock_timestamp())::float8",
)

WAKE_DUE: Final = Statement(
    "wake_due",
    # What is due becomes tickets, a bounded batch at a time; replicas share it by SKIP LOCKED. A delayed start
    # is over with it. Every other wait stays until its outcome is recorded and does not ring again; its ticket
    # is written whatever the workflow does, since the claim drops what nobody waits for. A mass is worked off from
    # where the batch before this one ended: what that has rung is dead there, and stays so while somebody holds a
    # snapshot. The answer: how many, in how many seconds the next one is due, and where this batch ended. The time
    # is a subquery: a volatile function alone is no bound that an index can be entered by.
    """
    with due as materialized (
        select t.workflow_id, t.path, t.kind, t.due from {schema}.wait t
         where (t.due, t.workflow_id) >= ($2::timestamptz, $3::uuid) and t.due <= (select clock_timestamp())
           and not t.rung and t.kind not in ('expiry', 'deadline')
         order by t.due, t.workflow_id limit $1::int for update skip locked),
    started as (
        delete from {schema}.wait t using due d
         where d.kind = 'start' and t.workflow_id = d.workflow_id and t.path = d.path),
    rung as (
        update {schema}.wait t set rung = true from due d
         where d.kind <> 'start' and t.workflow_id = d.workflow_id and t.path = d.path),
    tickets as (
        insert into {schema}.ready (queue, partition, rank, wake, workflow_id, name)
        select w.queue, {schema}.ticket_partition(w.queue, w.partition),
               2 * w.priority + (w.started_at is null)::int, d.kind <> 'start', w.id, w.name
          from due d join {schema}.workflow w on w.id = d.workflow_id
         where d.kind <> 'start' or w.status = 'queued')
    select (select count(*) from due),
           (select extract(epoch from t.due - clock_timestamp())::float8 from {schema}.wait t
             where t.due > (select clock_timestamp()) and not t.rung and t.kind not in ('expiry', 'deadline')
             order by t.due, t.workflow_id limit 1),
           last.due, last.workflow_id
      from (values (true)) as always left join (
           select due, workflow_id from due order by due desc, workflow_id desc limit 1) as last on true
    """,
)
