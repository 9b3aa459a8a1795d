"""What must be true when all is over, as SQL: each check says how many rows it looked at, and which are wrong.

A check that looked at nothing proves nothing, so it counts as failed; so does a fault that was not injected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.chaos.flows import CALLS, EFFECTS, RATE
from tests.chaos.nemesis import KINDS

SHOWN = 5


@dataclass(frozen=True)
class Check:
    """A promise: a query for the rows that it is about, and one for those that break it."""

    name: str
    examined: str
    wrong: str


@dataclass(frozen=True)
class Verdict:
    """What came of one check."""

    check: Check
    examined: int
    wrong: list[tuple[Any, ...]]

    @property
    def good(self) -> bool:
        return self.examined > 0 and not self.wrong

    def __str__(self) -> str:
        what = "void" if not self.examined else f"{len(self.wrong)} wrong: {self.wrong[:SHOWN]}" if self.wrong else "ok"
        return f"{self.check.name}: {self.examined:,} rows, {what}"


FINAL = "('succeeded', 'failed', 'cancelled')"
SIZE = "coalesce((w.input ->> 'size')::int, (w.input ->> 'value')::int, (w.input ->> 'number')::int, 0)"


def _wanted(what: dict[str, str]) -> str:
    """A workflow's id and what it must have done, one row each, of those that have ended."""
    return " union all ".join(
        f"select w.id, unnest({names}) as what from (select w.id, {SIZE} as size from dbdurable.workflow w "
        f"where w.name = '{name}' and w.status in ('succeeded', 'failed')) w"
        for name, names in what.items()
    )


RUNNING = """
    select h.n, h.queue, h.partition, case when h.status = 'running' and h.before <> 'running' then 1
                                           when h.status <> 'running' and h.before = 'running' then -1 end as delta
      from chaos.history h"""
"""Claims and ends in the order of the locks: how many run at any moment, whatever is counted elsewhere."""

CHECKS = [
    Check(
        "every acknowledged start is finished",
        "select from chaos.asked where told",
        f"select a.name, a.workflow_id, w.status from chaos.asked a "
        "left join dbdurable.workflow w on w.id = a.workflow_id "
        f"where a.told and (w.status is null or w.status not in {FINAL})",
    ),
    Check(
        "as the code says: succeeded, or failed on purpose, with the sum of what it wrote",
        f"select from dbdurable.workflow where status in {FINAL}",
        """
        select w.name, w.id, w.status, w.output from dbdurable.workflow w
         where w.status <> case when w.name = 'failing' then 'failed' else 'succeeded' end::dbdurable.status
            or w.status = 'succeeded' and w.name <> 'family' and (w.output::text)::int is distinct from
               (select sum(e.value) from chaos.effect e where e.workflow_id = w.id)
        """,
    ),
    Check(
        "one workflow per key, the one that was told",
        "select from chaos.asked where key is not null and told",
        """
        select name, key, count(distinct id) from (
            select a.name, a.key, a.workflow_id as id from chaos.asked a where a.told and a.key is not null
            union all
            select w.name, w.key, w.id from dbdurable.workflow w where w.key is not null) x
         group by 1, 2 having count(distinct id) > 1
        """,
    ),
    Check(
        "no workflow that nobody asked for",
        "select from dbdurable.workflow where parent_id is null",
        """
        select w.name, count(*), (select count(*) from chaos.asked a where a.name = w.name) from dbdurable.workflow w
         where w.key is null and w.parent_id is null and w.name <> 'child' group by 1
        having count(*) > (select count(*) from chaos.asked a where a.name = w.name and a.key is null)
        """,
    ),
    Check(
        "a workflow that was started in a transaction exists if and only if that committed",
        "select from chaos.booking",
        """
        select b.id, w.id from chaos.booking b
          full join (select id, key from dbdurable.workflow where key like 'booking %') w
            on w.key = 'booking ' || b.id and w.id = b.workflow_id
         where b.id is null or w.id is null
        """,
    ),
    Check(
        "every effect of a transaction exactly once",
        f"select from ({_wanted(EFFECTS)}) x",
        f"""
        with wanted as materialized ({_wanted(EFFECTS)}),
        had as materialized (select workflow_id as id, what, count(*) as many from chaos.effect group by 1, 2)
        select id, what, coalesce(many, 0) from wanted w full join had h using (id, what)
         where many is distinct from 1 or w.id is null
        """,
    ),
    Check(
        "an effect if and only if its record",
        "select from dbdurable.step where kind = 'transaction' and error is null",
        """
        select workflow_id, path, e.what, s.name from chaos.effect e
          full join (select workflow_id, path, name from dbdurable.step where kind = 'transaction' and error is null) s
              using (workflow_id, path)
         where e.what is null or s.name is null
        """,
    ),
    Check(
        "every call outside at least once, and always under the same key",
        f"select from ({_wanted(CALLS)}) x",
        f"""
        with wanted as materialized ({_wanted(CALLS)}),
        had as materialized (
            select workflow_id as id, what, count(distinct key) as keys, count(distinct path) as paths
              from chaos.outside group by 1, 2)
        select id, what, keys, paths from wanted w full join had h using (id, what)
         where w.id is null or keys is distinct from 1 or paths is distinct from 1
        """,
    ),
    Check(
        "no key for two calls",
        "select from chaos.outside",
        "select key, count(distinct (workflow_id, path)) from chaos.outside group by 1 "
        "having count(distinct (workflow_id, path)) > 1",
    ),
    Check(
        "two children that each family started itself",
        "select from dbdurable.workflow where name = 'family' and status = 'succeeded'",
        """
        select p.id, count(c.id) from dbdurable.workflow p left join dbdurable.workflow c on c.parent_id = p.id
         where p.name = 'family' and p.status = 'succeeded' group by 1 having count(c.id) <> 2
        """,
    ),
    Check(
        "and one with a transaction of each family",
        "select from dbdurable.workflow where name = 'child' and parent_id is null",
        """
        select children, families, told, asked from (
            select (select count(*) from dbdurable.workflow where name = 'child' and parent_id is null) as children,
                   (select count(*) from dbdurable.workflow where name = 'family') as families,
                   (select count(distinct workflow_id) from chaos.asked where name = 'child' and told) as told,
                   (select count(distinct coalesce(key, id)) from chaos.asked where name = 'child') as asked) x
         where children - families not between told and asked
        """,
    ),
    Check(
        "never more at once than the queue allows",
        "select from chaos.history where queue = 'narrow'",
        f"""
        with moments as (
            select r.*, sum(delta) over (order by n) as running
              from ({RUNNING}) r where queue = 'narrow' and delta is not null)
        select m.n, m.running, q.concurrency from moments m join dbdurable.queue q on q.name = m.queue
         where m.running > q.concurrency or m.running < 0
        """,
    ),
    Check(
        "never more at once than a partition allows",
        "select from chaos.history where queue = 'lines'",
        f"""
        with moments as (
            select r.*, sum(delta) over (partition by partition order by n) as running
              from ({RUNNING}) r where queue = 'lines' and delta is not null)
        select m.n, m.partition, m.running, q.per_partition from moments m join dbdurable.queue q on q.name = m.queue
         where m.running > q.per_partition or m.running < 0
        """,
    ),
    Check(
        "what is counted stays between nothing and the limit",
        "select from chaos.counted",
        "select queue, partition, used, most from chaos.counted where used < 0 or used > most",
    ),
    Check(
        "what is counted is what is held, at every look",
        "select from chaos.sample where used > 0",
        "select at, queue, partition, used, holders from chaos.sample where used <> holders",
    ),
    Check(
        "nothing is counted any more",
        "select from dbdurable.limit_key",
        "select queue, partition, used from dbdurable.limit_key where used <> 0 "
        "union all select queue, null, count(*) from dbdurable.workflow where slots is not null group by 1",
    ),
    Check(
        "first in, first begun, in each partition",
        "select from dbdurable.workflow where queue = 'lines'",
        """
        select * from (
            select w.partition, (w.input ->> 'number')::int as number, w.started_at,
                   lag((w.input ->> 'number')::int) over (partition by w.partition order by w.started_at) as before
              from dbdurable.workflow w where w.queue = 'lines' and w.started_at is not null) x
         where number <> coalesce(before + 1, 0)
        """,
    ),
    Check(
        "never faster than the rate",
        "select from dbdurable.workflow where queue = 'rated'",
        # Room of the bucket at each start: it begins full, and fills by the rate.
        f"""
        with s as (select started_at as at, row_number() over (order by started_at) as i
                     from dbdurable.workflow where queue = 'rated' and started_at is not null),
        due as (select at, i, i - {RATE.limit} * extract(epoch from at - min(at) over ()) / {RATE.per} as level from s)
        select at, i, level from (select at, i, level, level - min(level) over (order by i) + 1 as taken from due) x
         where taken > {RATE.burst} + 1e-3
        """,
    ),
    Check(
        "nothing is stranded",
        "select from dbdurable.workflow",
        f"""
        select w.id, w.name, w.status from dbdurable.workflow w
         where w.status not in {FINAL}
           and case w.status
               when 'queued' then not exists (select from dbdurable.ready r where r.workflow_id = w.id)
                              and not exists (select from dbdurable.wait t
                                               where t.workflow_id = w.id and t.kind = 'start')
               when 'running' then not exists (select from dbdurable.lease l where w.id = any(l.ids)
                                                  and l.executor_id = w.executor_id)
               when 'waiting' then not exists (select from dbdurable.wait t where t.workflow_id = w.id)
               else not exists (select from dbdurable.attention a where a.workflow_id = w.id) end
        """,
    ),
    Check(
        "nothing is left over: tickets, leases, waits, executors",
        f"select from dbdurable.workflow where status in {FINAL}",
        """
        select 'ticket', r.workflow_id::text from dbdurable.ready r
          left join dbdurable.workflow w on w.id = r.workflow_id
         where w.id is null or w.status = 'running'
        union all select 'lease', l.executor_id::text from dbdurable.lease l
        union all select 'wait', t.workflow_id::text from dbdurable.wait t
        union all select 'executor', e.id::text from dbdurable.executor e
        union all select 'attention', a.workflow_id::text from dbdurable.attention a
                    left join dbdurable.workflow w on w.id = a.workflow_id where w.status is distinct from a.status
        """,
    ),
    Check(
        "no transaction of a former epoch commits",
        "select from chaos.recorded where kind = 'transaction'",
        """
        select r.id, r.path, r.epoch, h.epoch from chaos.recorded r join chaos.history h on h.id = r.id
         where r.kind = 'transaction' and not r.failed and h.epoch > r.epoch and h.n < r.n
        """,
    ),
    Check(
        "one owner per epoch, and epochs only grow",
        "select from chaos.history",
        f"""
        select id, epoch, 'owners', count(distinct executor_id)::text from chaos.history where status = 'running'
         group by 1, 2 having count(distinct executor_id) > 1
        union all
        select id, epoch, before || ' -> ' || status, epoch_before::text from chaos.history where epoch < epoch_before
            or status is distinct from before and epoch = epoch_before and status <> 'waiting' and status not in {FINAL}
        """,
    ),
    Check(
        "who parks ran until then, keeps its epoch and its owner, and has nothing of its queue's limits",
        "select from chaos.history where status = 'waiting'",
        """
        select h.id, h.before, h.epoch_before, h.epoch from chaos.history h
         where h.status = 'waiting' and (h.before <> 'running' or h.epoch <> h.epoch_before or h.slots is not null
               or not exists (select from chaos.history r where r.id = h.id and r.epoch = h.epoch and r.n < h.n
                                 and r.status = 'running' and r.executor_id = h.executor_id))
        """,
    ),
    Check(
        "what has ended stays as it ended",
        f"select from chaos.history where status in {FINAL}",
        f"select id, before, status from chaos.history where before in {FINAL}",
    ),
    Check(
        "nothing is recorded twice, or after the end",
        "select from dbdurable.step",
        """
        select s.workflow_id, s.path, s.epoch, w.epoch
          from dbdurable.step s join dbdurable.workflow w on w.id = s.workflow_id
         where s.epoch > w.epoch or s.finished_at > w.finished_at
        union all
        select r.id, r.path, r.epoch, null from chaos.recorded r
          left join dbdurable.step s on s.workflow_id = r.id and s.path = r.path where s.path is null
        """,
    ),
    Check(
        "no session is left in a transaction, and no lock",
        "select from pg_stat_activity where backend_type = 'client backend'",
        """
        select pid, state, query from pg_stat_activity where application_name = 'dbdurable' and state like 'idle in%'
        union all select pid, locktype, mode from pg_locks where locktype = 'advisory'
        """,
    ),
]


def judge(connection: psycopg.Connection[Any], checks: Iterable[Check] = CHECKS) -> list[Verdict]:
    """All checks, on a database where nothing moves any more."""
    verdicts = []
    for check in checks:
        row = connection.execute(f"select count(*) from ({check.examined}) x".encode()).fetchone()
        assert row is not None
        verdicts.append(Verdict(check, row[0], connection.execute(check.wrong.encode()).fetchall()))
    return verdicts


def void(injected: dict[str, int], hit: int, reborn: int) -> list[str]:
    """Why a run proves nothing: kinds of faults that did not happen, or hit nothing."""
    missing = [f"no {kind} was injected" for kind in KINDS if not injected.get(kind)]
    if not hit:
        missing.append("no process was killed while it ran a workflow")
    if not reborn:
        missing.append("no frozen process went on under a new identity")
    return missing
