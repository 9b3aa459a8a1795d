"""Statements of what any executor does for all: declare the dead, recover their work, give back, tidy up."""

from __future__ import annotations

from typing import Final, LiteralString

from dbdurable._sql.parts import WAKE, with_parts
from dbdurable._sql.statement import Statement

_SLOTS_BACK: Final[LiteralString] = """
    held as materialized (
        select l.queue, l.partition from {schema}.limit_key l
         where (l.queue, l.partition) in (select k.queue, x.partition from k, unnest(k.slots) as x(partition))
         order by l.queue, l.partition for update),
    given as (
        update {schema}.limit_key l set used = l.used - n.slots
          from (select k.queue, x.partition, count(*) as slots from k, unnest(k.slots) as x(partition) group by 1, 2) n
          join held h on h.queue = n.queue and h.partition = n.partition
         where l.queue = n.queue and l.partition = n.partition)"""
"""What the workflows in `k` held of their queues' limits is given back. Everybody locks those rows in this order."""

UPKEEP_PLAN: Final = Statement(
    "upkeep_plan",
    # For what follows in the flight: a session plans each statement once, maybe while the tables are small, and would
    # go on to read all of a large one, once a second.
    """
    select set_config('enable_seqscan', 'off', true), set_config('enable_mergejoin', 'off', true),
           set_config('jit', 'off', true)
    """,
)

SUSPECTS: Final = Statement(
    "suspects",
    # Executors whose heartbeat session has ended although the server stayed up. Null backend_start means
    # a session of another role, which says nothing.
    """
    select e.id, e.session_pid, e.session_start from {schema}.executor e
     where e.expires_at > clock_timestamp() and e.session_start > pg_postmaster_start_time()
       and not exists (select from pg_stat_get_activity(e.session_pid) s
                        where s.backend_start is null or s.backend_start = e.session_start)
    """,
)

_DECLARED: Final[LiteralString] = """,
    dead as (
        update {schema}.executor e set expires_at = '-infinity' from d where e.id = d.id
        returning e.id, e.host, e.pid)
    select dead.id, dead.host, dead.pid,
           (select count(pg_terminate_backend(open.pid))
              from (select a.pid from pg_locks l join pg_stat_activity a on a.pid = l.pid and a.usename = current_user
                       and a.xact_start is not null
                     where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
                       and l.database = (select oid from pg_database where datname = current_database())
                       and l.classid = ('x' || substr(mark.hex, 1, 8))::bit(32)::bigint::oid
                       and l.objid = ('x' || substr(mark.hex, 9, 8))::bit(32)::bigint::oid offset 0) open)
      from dead cross join lateral (select replace(dead.id::text, '-', '') as hex) mark"""
"""The executors in `d` are dead. What they began may be held open by a process that is frozen, or cut off: it can
never be recorded, and what it has locked would be in the way of whoever goes on with its work. OFFSET: nobody is
ended before it is known who it is."""

DECLARE_EXPIRED: Final = Statement(
    "declare_expired",
    """
    with d as materialized (
        select id from {schema}.executor
         where expires_at < clock_timestamp() and expires_at > '-infinity' for update skip locked)"""
    + _DECLARED,
)

DECLARE_SEEN: Final = Statement(
    "declare_seen",
    # Second sighting of the same ended session.
    """
    with d as materialized (
        select e.id from {schema}.executor e
          join unnest($1::uuid[], $2::int[], $3::timestamptz[]) as x(id, pid, start)
            on e.id = x.id and e.session_pid = x.pid and e.session_start = x.start
         where e.expires_at > '-infinity' and e.session_start > pg_postmaster_start_time()
           and not exists (select from pg_stat_get_activity(e.session_pid) s
                            where s.backend_start is null or s.backend_start = e.session_start)
           for update of e skip locked)"""
    + _DECLARED,
)

RECOVER: Final = Statement(
    "recover",
    # A few lease rows of dead executors at a time; replicas share them by SKIP LOCKED. Rows that somebody
    # holds just now (a late commit of the dead one) stay in the lease row for the next round; in no order, so
    # that they do not stand in the way of others. The attempt is charged here and nowhere else, and starts
    # again at 1 when the dead epoch had made progress. From the third on the workflow goes back with a growing
    # delay: it may be what kills its executors. Who waits for a workflow that was held, or its events, is woken:
    # its executor may have died between the commit of an event, or of its end, and that.
    with_parts(
        """
    with b as materialized (
        select l.executor_id, l.batch, l.ids from {schema}.lease l
         where not exists (select from {schema}.executor e
                            where e.id = l.executor_id and e.expires_at > '-infinity')
         order by random() limit 8 for update of l skip locked),
    i as materialized (
        select b.executor_id, b.batch, u.id from b, unnest(b.ids) as u(id)),
    k as materialized (
        select w.id, w.status, w.epoch, w.attempt, w.max_attempts, w.queue, w.slots,
               exists (select from {schema}.step s where s.workflow_id = w.id and s.epoch = w.epoch) as progress
          from i join {schema}.workflow w on w.id = i.id and w.executor_id = i.executor_id
                                         and w.status in ('running', 'waiting')
           for no key update of w skip locked),{slots_back},
    u as (
        update {schema}.workflow w
           set epoch = w.epoch + 1, executor_id = null, slots = null,
               attempt = case when k.progress then 1 when k.attempt >= k.max_attempts then k.attempt
                              else k.attempt + 1 end,
               status = case when k.progress or k.attempt < k.max_attempts
                             then 'queued'::{schema}.status else 'failed' end,
               finished_at = case when k.progress or k.attempt < k.max_attempts then null else clock_timestamp() end,
               error = case when k.progress or k.attempt < k.max_attempts then null
                            else json_build_object('type', 'AttemptsExhausted', 'module', 'dbdurable.errors',
                                     'message', format('attempts exhausted: %s processes in a row died in this '
                                         'workflow without progress', k.attempt)) end
          from k where w.id = k.id and k.status = 'running'
        returning w.id, w.epoch, w.status, w.queue, w.partition, w.priority, w.name, w.attempt),
    q as (
        insert into {schema}.ready (queue, partition, rank, workflow_id, name)
        select queue, {schema}.ticket_partition(queue, partition), 2 * priority, id, name
          from u where status = 'queued' and attempt < 3),
    later as (
        insert into {schema}.wait (workflow_id, path, kind, due)
        select id, '', 'start', clock_timestamp() + interval '1 second' * 2 ^ least(attempt - 3, 6)
          from u where status = 'queued' and attempt >= 3
        on conflict (workflow_id, path) do update set due = excluded.due),
    z as (
        {wake}
          from k join {schema}.workflow w on w.id = k.id where k.status = 'waiting'),
    v as (
        {wake}
          from (select t.workflow_id from i join {schema}.wait t
                    on t.kind = 'event' and t.subject >= i.id::text || ':' and t.subject < i.id::text || ';'
                union all
                select t.workflow_id from i join {schema}.wait t on t.kind = 'result' and t.subject = i.id::text) t
          join {schema}.workflow w on w.id = t.workflow_id and w.status = 'waiting'),
    c as (
        insert into {schema}.cascade (workflow_id, ended, epoch, reason)
        select id, true, epoch, 'its parent has ended: attempts exhausted' from u where status = 'failed'
        on conflict do nothing),
    a as (
        insert into {schema}.attention (workflow_id, status, reason)
        select id, 'failed', 'attempts exhausted' from u where status = 'failed'
        on conflict (workflow_id) do update set status = excluded.status, reason = excluded.reason,
            since = clock_timestamp()),
    o as (
        select i.executor_id, i.batch, array_agg(i.id) as ids
          from i join {schema}.workflow w on w.id = i.id and w.executor_id = i.executor_id
                                         and w.status in ('running', 'waiting')
         where not exists (select from k where k.id = i.id) group by 1, 2),
    s as (
        update {schema}.lease l set ids = o.ids from o where l.executor_id = o.executor_id and l.batch = o.batch),
    x as (
        delete from {schema}.lease l using b
         where l.executor_id = b.executor_id and l.batch = b.batch
           and not exists (select from o where o.executor_id = b.executor_id and o.batch = b.batch)
        returning l.batch)
    select (select count(*) from x), (select count(*) from u), (select count(*) from u where status = 'failed')
    """,
        slots_back=_SLOTS_BACK,
        wake=WAKE,
    ),
)

FORGET: Final = Statement(
    "forget",
    # Declared dead and nothing left to recover; a missing row is dead too.
    """
    delete from {schema}.executor e
     where e.expires_at = '-infinity' and not exists (select from {schema}.lease l where l.executor_id = e.id)
    """,
)

EXPIRE: Final = Statement(
    "expire",
    # Starts that nobody began in time (expires=): also where the queue is paused, full up, or nobody's.
    """
    with due as materialized (
        select t.workflow_id, t.path from {schema}.wait t
         where t.due <= (select clock_timestamp()) and t.kind = 'expiry'
         order by t.due limit 500 for update skip locked),
    late as materialized (
        select w.id from due d join {schema}.workflow w on w.id = d.workflow_id
         where w.status = 'queued' and w.started_at is null for no key update of w skip locked),
    gone as (
        delete from {schema}.wait t using due d join {schema}.workflow w on w.id = d.workflow_id
         where t.workflow_id = d.workflow_id and (w.id in (select id from late)
               or t.path = d.path and not (w.status = 'queued' and w.started_at is null)))
    update {schema}.workflow w
       set status = 'cancelled', epoch = w.epoch + 1, finished_at = clock_timestamp(),
           interrupt = 'expired: it was not started in time'
      from late where w.id = late.id
    returning w.id
    """,
)

REFILE: Final = Statement(
    "refile",
    # Tickets that lie in partitions of a queue which nothing limits by partition any more: claims would not
    # meet them there.
    """
    with stray as materialized (
        select t.place from {schema}.queue q cross join lateral (
            select r.ctid as place from {schema}.ready r where r.queue = q.name and r.partition > ''
             limit 500 for update skip locked) t
         where q.name = any($1::text[]) and not q.partitioned limit 500)
    update {schema}.ready r set partition = '' from stray s where r.ctid = s.place returning r.queue
    """,
)

GIVE_BACK: Final = Statement(
    "give_back",
    # What paused workflows hold of their queue's limits: pausing itself leaves those rows alone. Only such are
    # looked at, however many failures are listed beside them.
    with_parts(
        """
    with k as materialized (
        select w.id, w.queue, w.slots from {schema}.attention a join {schema}.workflow w on w.id = a.workflow_id
         where a.holds and w.status = 'paused' limit 100
           for no key update of w skip locked),{slots_back},
    noted as (
        update {schema}.attention a set holds = false from k where a.workflow_id = k.id)
    update {schema}.workflow w set slots = null from k where w.id = k.id returning w.queue
    """,
        slots_back=_SLOTS_BACK,
    ),
)

FORGET_KEYS: Final = Statement(
    "forget_keys",
    # Rows of partitions that nothing holds and nothing waits in, a few at a time; a bucket once it is full.
    """
    with idle as materialized (
        select l.queue, l.partition from {schema}.limit_key l join {schema}.queue q on q.name = l.queue
         where l.partition > '' and l.used = 0
           and (l.tokens is null or q.partition_rate_limit is null
                or {schema}.bucket(l.tokens, l.refilled_at, q.partition_rate_limit, q.partition_rate_per,
                       coalesce(q.partition_rate_burst, q.partition_rate_limit))
                   >= coalesce(q.partition_rate_burst, q.partition_rate_limit))
           and not exists (select from {schema}.ready r where r.queue = l.queue and r.partition = l.partition)
         limit 500 for update of l skip locked)
    delete from {schema}.limit_key l using idle i where l.queue = i.queue and l.partition = i.partition
    """,
)
