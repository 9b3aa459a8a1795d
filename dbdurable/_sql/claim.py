"""Statements that claim: they share their end, and differ in where they look for tickets.

Rows that somebody holds are skipped, tickets and workflows alike: nobody's open transaction delays a claim. A
ticket whose workflow is no longer what it says is dropped.
"""

from __future__ import annotations

from typing import Final, LiteralString

from dbdurable._sql.parts import with_parts
from dbdurable._sql.statement import Statement

CLAIM_PLAN: Final = Statement(
    "claim_plan",
    # The claim must walk ready_order whatever the statistics say; and a lost claim simply was not made.
    # With these there is one plan, so it is made once a session: by itself the server would make one for each
    # claim, since it guesses arrays to be longer than they are, and takes that plan for the dearer one.
    # Before PostgreSQL 18 a switched-off plan costs 1e10 on paper, which would start the JIT compiler: 0.3 s.
    """
    select set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
           set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
           set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),
           set_config('synchronous_commit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)
    """,
)

_ROOM = """
    room(n) as materialized (
        select greatest(0, $3::int - coalesce((
                   select sum(cardinality(l.ids)) from {schema}.lease l
                    where l.executor_id = $4::uuid and l.batch >= $6::bigint and l.batch < $5::bigint), 0)))"""
"""What is left of the free slots after the claims before this one in the same flight."""

_TICKET = """
    select r.ctid as place, r.workflow_id, r.wake, r.rank, r.at, w.partition, w.slots,
           w.started_at is null as fresh, coalesce(w.cost, 1) as cost,
           w.started_at is null and coalesce(w.expires_at < clock_timestamp(), false) as expired
      from {schema}.ready r join {schema}.workflow w on w.id = r.workflow_id"""

_COLUMNS = "place, workflow_id, wake, rank, at, partition, slots, fresh, cost, expired"

_LATE = """
    late as (
        update {schema}.workflow w
           set status = 'cancelled', epoch = w.epoch + 1, finished_at = clock_timestamp(),
               interrupt = 'expired: it was not started in time'
          from pick p where w.id = p.workflow_id and p.expired and w.status = 'queued'),"""
"""Nobody began them in time (expires=)."""

_RUNNING = """
               status = 'running', epoch = w.epoch + 1, executor_id = $4::uuid,
               started_at = coalesce(w.started_at, clock_timestamp())"""

_RIGHTLY = """(p.wake and w.status = 'waiting' or p.start and w.status = 'queued')"""

_HELD = """
    held as (
        insert into {schema}.lease (executor_id, batch, ids)
        select $4, $5::bigint, array_agg(id) from own having count(*) > 0)"""

_END = """{late}
    gone as (
        delete from {schema}.ready r using pick p where r.ctid = p.place),
    own as (
        update {schema}.workflow w
           set{running}
          from (select workflow_id, bool_or(wake) as wake, bool_or(not wake) as start, min(rank) as rank, min(at) as at
                  from pick where not expired group by 1) p
         where w.id = p.workflow_id and {rightly}
        returning w.id, w.name, w.key, w.epoch, w.attempt, w.interrupt, w.input, w.deadline, w.queue, w.slots,
                  w.parent_id,
                  w.started_at, p.rank, p.at),{held}
    select id, name, key, epoch, attempt, interrupt, input::text, deadline, queue, slots, parent_id,
           (extract(epoch from started_at) * 1000000)::bigint, rank, at from own
    """
"""Of the claims of queues that nothing limits."""


_OPEN = """
         where not exists (select from {schema}.queue q where q.name = l.queue and (q.paused or q.limited))"""


def _claim(text: LiteralString) -> LiteralString:
    """The text with what claims share; `end` first, since it has some of it itself."""
    return with_parts(
        text,
        end=_END,
        room=_ROOM,
        ticket=_TICKET,
        columns=_COLUMNS,
        late=_LATE,
        running=_RUNNING,
        rightly=_RIGHTLY,
        held=_HELD,
        open=_OPEN,
    )


CLAIM: Final = Statement(
    "claim",
    # Everything that is there: the most urgent rank of each queue first, then the next ones. The ranks are
    # found by a loose scan, and every rank is walked from its own beginning. When that came to an end, the last
    # rows name the lines that were walked: what lies in them until now is not for this executor.
    _claim(
        """
    with recursive{room},
    line(queue, level) as (
        select q.name, (select r.rank from {schema}.ready r where r.queue = q.name and r.partition = ''
                         order by r.queue, r.partition, r.rank limit 1)
          from unnest($1::text[]) as q(name)
        union all
        select l.queue, (select r.rank from {schema}.ready r
                          where r.queue = l.queue and r.partition = '' and r.rank > l.level
                          order by r.queue, r.partition, r.rank limit 1)
          from line l where l.level is not null),
    pick as materialized (
        select {columns} from line l cross join lateral ({ticket}
             where r.queue = l.queue and r.partition = '' and r.rank = l.level and r.name = any($2::text[])
             order by r.queue, r.partition, r.rank, r.at
             limit (select n from room)
               for update of r skip locked for no key update of w skip locked) t{open}
         limit (select n from room)),{end}
    union all
    select null, null, null, null, null, null, null, null, l.queue, null, null, null, l.level, statement_timestamp()
      from line l{open} and l.level is not null and (select count(*) from pick) < (select n from room)
    """
    ),
)

CLAIM_AHEAD: Final = Statement(
    "claim_ahead",
    # The same on lines that the claimer knows, each from where it stopped: what lies behind is dead (claimed,
    # and not vacuumed while somebody holds a snapshot) or not for this executor. What lies between the lines
    # is walked too: somebody may start something more urgent than all that is known.
    _claim(
        """
    with{room},
    pick as materialized (
        select {columns}
          from unnest($1::text[], $7::int[], $8::timestamptz[], $9::int[], $10::int[]) as l(queue, level, since, lo, hi)
         cross join lateral (
            select {columns} from ({ticket}
             where r.queue = l.queue and r.partition = '' and r.rank = l.level and r.at >= l.since
               and r.name = any($2::text[])
             order by r.queue, r.partition, r.rank, r.at
             limit (select n from room)
               for update of r skip locked for no key update of w skip locked) known
            union all
            select {columns} from ({ticket}
             where r.queue = l.queue and r.partition = '' and r.rank > l.lo and r.rank < l.hi and r.name = any($2)
             order by r.queue, r.partition, r.rank, r.at
             limit (select n from room)
               for update of r skip locked for no key update of w skip locked) between_lines) t{open}
         limit (select n from room)),{end}
    """
    ),
)

ENSURE_KEYS: Final = Statement(
    "ensure_keys",
    # The rows that a claim of a limited queue locks: one for the queue, one for each partition that has tickets
    # now, as far as one claim looks. Starts do not write them: a start in somebody's long transaction would
    # make all others of that partition wait. Each is looked for by its key: a plain anti-join reads all rows of
    # the queue where the planner takes them for few.
    """
    with recursive q as materialized (
        select name, partitioned from {schema}.queue where name = $1::text and limited and not paused),
    part(partition) as (
        select (select r.partition from {schema}.ready r where r.queue = $1 and r.partition >= $2::text
                 order by r.queue, r.partition limit 1) from q where q.partitioned
        union all
        select (select r.partition from {schema}.ready r where r.queue = $1 and r.partition > p.partition
                 order by r.queue, r.partition limit 1)
          from part p where p.partition is not null)
    insert into {schema}.limit_key (queue, partition)
    select $1, x.partition
      from (select '' as partition from q
            union all (select p.partition from part p where p.partition > '' limit $3::int)) x
     where (select k.partition from {schema}.limit_key k where k.queue = $1 and k.partition = x.partition) is null
    on conflict do nothing
    """,
)

CLAIM_LIMITED: Final = Statement(
    "claim_limited",
    # A queue with limits: first the row of the queue, then those of its partitions, each with what is left of
    # it; a row that another claim holds is left to that one. So limits are exact, and FIFO in a partition.
    # Rates count first starts only: what was begun goes on. The last row says how far this claim looked, when
    # there may be more partitions behind. The rows of limits are there, and locked: ON CONFLICT finds each by its
    # key, and LATERAL too, however few of them the planner believes in.
    _claim(
        """
    with recursive{room},
    q as materialized (
        select concurrency, per_partition, rate_limit, rate_per, coalesce(rate_burst, rate_limit) as rate_burst,
               partition_rate_limit, partition_rate_per,
               coalesce(partition_rate_burst, partition_rate_limit) as partition_rate_burst, partitioned,
               concurrency is not null or rate_limit is not null as whole
          from {schema}.queue where name = $1::text and limited and not paused),
    whole as materialized (
        select k.used, {schema}.bucket(k.tokens, k.refilled_at, q.rate_limit, q.rate_per, q.rate_burst) as tokens
          from q join {schema}.limit_key k on k.queue = $1 and k.partition = '' where q.whole
           for update of k skip locked),
    free(n, tokens) as materialized (
        select greatest(0, least(room.n, q.concurrency - whole.used)),
               case when q.rate_limit is not null then whole.tokens end
          from q cross join room left join whole on true
         where not q.whole or whole.used is not null),
    part(partition) as (
        select (select r.partition from {schema}.ready r where r.queue = $1 and r.partition >= $7::text
                 order by r.queue, r.partition limit 1) from free where n > 0
        union all
        select (select r.partition from {schema}.ready r where r.queue = $1 and r.partition > p.partition
                 order by r.queue, r.partition limit 1)
          from part p where p.partition is not null),
    asked as materialized (
        select p.partition from part p where p.partition is not null limit $8::int),
    keyed as materialized (
        select k.partition, k.used, {schema}.bucket(k.tokens, k.refilled_at, q.partition_rate_limit,
                   q.partition_rate_per, q.partition_rate_burst) as tokens
          from asked a cross join q cross join lateral (
               select l.partition, l.used, l.tokens, l.refilled_at from {schema}.limit_key l
                where l.queue = $1 and l.partition = a.partition
                  and (q.per_partition is null or l.used < q.per_partition)
                  for update of l skip locked) k
         where a.partition > '' and q.partitioned),
    line(key, n, tokens) as materialized (
        select k.partition, least(free.n, q.per_partition - k.used,
                   case when q.partition_rate_limit is not null then greatest(ceil(k.tokens), 0)::int + 4 end),
               case when q.partition_rate_limit is not null then k.tokens end
          from keyed k cross join q cross join free
        union all
        select '', free.n, null from free cross join asked a where a.partition = ''),
    pick as materialized (
        select {columns}, key as line, tokens
          from line l cross join lateral ({ticket}
             where r.queue = $1 and r.partition = l.key and r.name = any($2::text[])
             order by r.queue, r.partition, r.rank, r.at limit l.n
               for update of r skip locked for no key update of w skip locked) t
         limit (select n from free)),{late}
    refile as (
        insert into {schema}.ready (queue, partition, rank, at, wake, workflow_id, name)
        select $1, p.partition, p.rank, p.at, p.wake, w.id, w.name
          from pick p cross join q join {schema}.workflow w on w.id = p.workflow_id
         where q.partitioned and p.partition <> p.line and not p.expired),
    paid as (
        select {columns}, line, tokens is null or not fresh
               or tokens - coalesce(sum(cost) filter (where fresh) over (
                      partition by line order by rank, at, place rows between unbounded preceding and 1 preceding), 0)
                  >= least(cost, q.partition_rate_burst) as goes
          from pick p cross join q where not expired and (p.partition = p.line or not q.partitioned)),
    paid_twice as (
        select {columns}, line, free.tokens is null or not fresh
               or free.tokens - coalesce(sum(cost) filter (where fresh) over (
                      order by line, rank, at, place rows between unbounded preceding and 1 preceding), 0)
                  >= least(cost, q.rate_burst) as goes_too
          from paid p cross join q cross join free where goes),
    gone as (
        delete from {schema}.ready r using pick p
         where r.ctid = p.place and not exists (select from paid x left join paid_twice y on y.place = x.place
                                                 where x.place = p.place and y.goes_too is not true)),
    own as (
        update {schema}.workflow w
           set{running},
               slots = coalesce(w.slots, p.slots)
          from (select workflow_id, bool_or(wake) as wake, bool_or(not wake) as start, min(rank) as rank, min(at) as at,
                       min(line) as line, bool_or(fresh) as fresh, min(cost) as cost,
                       bool_and(x.slots is null) as takes,
                       (select nullif(array_remove(array[case when q.concurrency is not null then '' end,
                                   case when q.per_partition is not null then nullif(min(x.line), '') end], null), '{}')
                          from q) as slots
                  from paid_twice x where goes_too group by 1) p
         where w.id = p.workflow_id and {rightly}
        returning w.id, w.name, w.key, w.epoch, w.attempt, w.interrupt, w.input, w.deadline, w.queue, w.slots,
                  w.parent_id,
                  w.started_at, p.rank, p.at, p.line, p.takes, p.fresh, p.cost),
    taken as (
        select x.partition, count(*) filter (where o.takes and x.partition = any(o.slots)) as slots,
               coalesce(sum(o.cost) filter (where o.fresh), 0) as cost
          from own o cross join lateral (select '' as partition union select o.line) x group by 1),
    counted as (
        insert into {schema}.limit_key as k (queue, partition, used, tokens)
        select $1, t.partition, t.slots, case when t.partition = '' then whole.tokens else l.tokens end - t.cost
          from taken t left join line l on l.key = t.partition left join whole on t.partition = ''
         where t.slots > 0 or t.cost > 0 and (l.tokens is not null or whole.tokens is not null)
        on conflict (queue, partition) do update
           set used = k.used + excluded.used, tokens = excluded.tokens, refilled_at = clock_timestamp()),{held}
    select id, name, key, epoch, attempt, interrupt, input::text, deadline, queue, slots, parent_id,
           (extract(epoch from started_at) * 1000000)::bigint, rank, at, null as asked_to
      from own
    union all
    select null, null, null, null, null, null, null, null, null, null, null, null, null, null, max(partition)
      from asked having count(*) = $8
    """
    ),
)

CLAIMED_JOURNALS: Final = Statement(
    "claimed_journals",
    # In the same flight, but a statement of its own: the claim's snapshot may miss a record that committed
    # while it waited. LATERAL, because CLAIM_PLAN's settings hold here too: a plain join that is to be
    # sorted by workflow would read the whole journal by its primary key.
    """
    select j.workflow_id, j.path, j.seq, j.kind, j.name, j.output, j.error, j.attempts, j.finished_us
      from {schema}.lease l cross join unnest(l.ids) as i(id) cross join lateral (
           select s.workflow_id, s.path, s.seq, s.kind::text, s.name, s.output::text, s.error::text, s.attempts,
                  (extract(epoch from s.finished_at) * 1000000)::bigint as finished_us
             from {schema}.step s where s.workflow_id = i.id order by s.seq) j
     where l.executor_id = $1::uuid and l.batch >= $2::bigint
    """,
)

QUEUES: Final = Statement(
    "queues",
    # What a claimer has to know beforehand; what it does is decided by the claims themselves.
    """
    select name, paused, limited, worker_concurrency from {schema}.queue where name = any($1::text[])
    """,
)
