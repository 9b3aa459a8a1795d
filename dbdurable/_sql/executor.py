"""Statements of executors: register, beat, claim, declare dead, recover, wake."""

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
    # Never revives: an executor that has expired, or was declared dead, gets no row.
    """
    update {schema}.executor set expires_at = clock_timestamp() + make_interval(secs => $2::float8)
     where id = $1::uuid and expires_at > clock_timestamp()
    returning true
    """,
)

HELD: Final = Statement(
    "held",
    # What the database says this executor runs: cancels come with the answer; what the process does not
    # know is handed back.
    """
    select w.id, w.epoch, w.interrupt
      from {schema}.lease l, unnest(l.ids) as i(id) join {schema}.workflow w on w.id = i.id
     where l.executor_id = $1::uuid and w.executor_id = $1 and w.status = 'running'
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

CLAIM_PLAN: Final = Statement(
    "claim_plan",
    # The claim must walk ready_order whatever the statistics say; and a lost claim simply was not made.
    # Before PostgreSQL 18 a switched-off plan costs 1e10 on paper, which would start the JIT compiler: 0.3 s.
    """
    select set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
           set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
           set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),
           set_config('synchronous_commit', 'off', true)
    """,
)

CLAIM: Final = Statement(
    "claim",
    # Rows that somebody holds are skipped, tickets and workflows alike: nobody's open transaction delays
    # a claim. A ticket whose workflow is no longer what it says is dropped.
    """
    with pick as materialized (
        select r.ctid as place, r.workflow_id, r.wake
          from {schema}.ready r join {schema}.workflow w on w.id = r.workflow_id
         where r.queue = $1::text and r.partition = '' and r.name = any($2::text[])
         order by r.queue, r.partition, r.rank, r.at
         limit $3::int
           for update of r skip locked for no key update of w skip locked),
    gone as (
        delete from {schema}.ready r using pick p where r.ctid = p.place),
    own as (
        update {schema}.workflow w
           set status = 'running', epoch = w.epoch + 1, executor_id = $4::uuid,
               started_at = coalesce(w.started_at, clock_timestamp())
          from (select workflow_id, bool_or(wake) as wake, bool_or(not wake) as start from pick group by 1) p
         where w.id = p.workflow_id
           and (p.wake and w.status = 'waiting' or p.start and w.status = 'queued')
        returning w.id, w.name, w.key, w.epoch, w.attempt, w.interrupt, w.input, w.deadline, w.created_at),
    held as (
        insert into {schema}.lease (executor_id, batch, ids)
        select $4, $5::bigint, array_agg(id) from own having count(*) > 0)
    select id, name, key, epoch, attempt, interrupt, input::text, deadline, created_at from own
    """,
)

CLAIMED_JOURNALS: Final = Statement(
    "claimed_journals",
    # In the same flight, but a statement of its own: the claim's snapshot may miss a record that committed
    # while it waited. LATERAL, because CLAIM_PLAN's settings hold here too: a plain join that is to be
    # sorted by workflow would read the whole journal by its primary key.
    """
    select j.workflow_id, j.path, j.seq, j.kind, j.name, j.output, j.error, j.attempts
      from {schema}.lease l cross join unnest(l.ids) as i(id) cross join lateral (
           select s.workflow_id, s.path, s.seq, s.kind::text, s.name, s.output::text, s.error::text, s.attempts
             from {schema}.step s where s.workflow_id = i.id order by s.seq) j
     where l.executor_id = $1::uuid and l.batch = $2::bigint
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

DECLARE_EXPIRED: Final = Statement(
    "declare_expired",
    """
    with d as materialized (
        select id from {schema}.executor
         where expires_at < clock_timestamp() and expires_at > '-infinity' for update skip locked)
    update {schema}.executor e set expires_at = '-infinity' from d where e.id = d.id
    returning e.id, e.host, e.pid
    """,
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
           for update of e skip locked)
    update {schema}.executor e set expires_at = '-infinity' from d where e.id = d.id
    returning e.id, e.host, e.pid
    """,
)

RECOVER: Final = Statement(
    "recover",
    # A few lease rows of dead executors at a time; replicas share them by SKIP LOCKED. Rows that somebody
    # holds just now (a late commit of the dead one) stay in the lease row for the next round. The attempt
    # is charged here and nowhere else, and starts again at 1 when the dead epoch had made progress.
    """
    with b as materialized (
        select l.executor_id, l.batch, l.ids from {schema}.lease l
         where not exists (select from {schema}.executor e
                            where e.id = l.executor_id and e.expires_at > '-infinity')
         limit 8 for update of l skip locked),
    i as materialized (
        select b.executor_id, b.batch, u.id from b, unnest(b.ids) as u(id)),
    k as materialized (
        select w.id, w.status, w.epoch, w.attempt, w.max_attempts,
               exists (select from {schema}.step s where s.workflow_id = w.id and s.epoch = w.epoch) as progress
          from i join {schema}.workflow w on w.id = i.id and w.executor_id = i.executor_id
                                         and w.status in ('running', 'waiting')
           for no key update of w skip locked),
    u as (
        update {schema}.workflow w
           set epoch = w.epoch + 1, executor_id = null,
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
        returning w.id, w.status, w.queue, w.priority, w.name, w.attempt),
    q as (
        insert into {schema}.ready (queue, partition, rank, workflow_id, name)
        select queue, '', 2 * priority, id, name from u where status = 'queued'),
    z as (
        insert into {schema}.ready (queue, partition, rank, wake, workflow_id, name)
        select w.queue, '', 2 * w.priority, true, w.id, w.name
          from k join {schema}.workflow w on w.id = k.id where k.status = 'waiting'),
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
)

FORGET: Final = Statement(
    "forget",
    # Declared dead and nothing left to recover; a missing row is dead too.
    """
    delete from {schema}.executor e
     where e.expires_at = '-infinity' and not exists (select from {schema}.lease l where l.executor_id = e.id)
    """,
)

WAKE_STARTS: Final = Statement(
    "wake_starts",
    # Delayed starts that are due become tickets, a bounded batch at a time.
    """
    with due as materialized (
        select t.workflow_id, t.path from {schema}.wait t
         where t.due <= clock_timestamp() and t.kind = 'start' order by t.due limit 500 for update skip locked),
    gone as (
        delete from {schema}.wait t using due d where t.workflow_id = d.workflow_id and t.path = d.path
        returning t.workflow_id)
    insert into {schema}.ready (queue, partition, rank, workflow_id, name)
    select w.queue, '', 2 * w.priority + 1, w.id, w.name
      from gone g join {schema}.workflow w on w.id = g.workflow_id where w.status = 'queued'
    returning queue
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
