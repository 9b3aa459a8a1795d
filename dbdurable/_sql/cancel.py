"""Statements of deadlines, and of cancels on their way to children."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.statement import Statement

DEADLINES: Final = Statement(
    "deadlines",
    # A cancel by the clock, as function cancel() does it, for many at a time: running ones are fenced without a
    # change of owner, parked ones begin anew and clean up, those that never began end here. Paused and blocked
    # ones have no "due": their clock stands.
    """
    with due as materialized (
        select t.workflow_id, t.path from {schema}.wait t
         where t.due <= (select clock_timestamp()) and t.kind = 'deadline'
         order by t.due limit 500 for update skip locked),
    late as materialized (
        select w.id, w.status, w.epoch, w.started_at is null as unborn, w.executor_id,
               'timed out: its deadline was ' || w.deadline as reason
          from due d join {schema}.workflow w on w.id = d.workflow_id
         where w.interrupt is null and w.status in ('queued', 'running', 'waiting')
           for no key update of w skip locked),
    gone as (
        delete from {schema}.wait t using due d join {schema}.workflow w on w.id = d.workflow_id
         where t.workflow_id = d.workflow_id
           and (t.path = d.path and (w.id in (select id from late) or w.interrupt is not null
                                     or w.status in ('succeeded', 'failed', 'cancelled'))
                or w.id in (select id from late where unborn))),
    u as (
        update {schema}.workflow w
           set epoch = w.epoch + 1, interrupt = l.reason,
               status = case when l.status = 'running' then w.status when l.unborn then 'cancelled' else 'queued' end,
               executor_id = case when l.status = 'running' then w.executor_id end,
               finished_at = case when l.unborn then clock_timestamp() end
          from late l where w.id = l.id
        returning w.id, w.status, w.queue, w.partition, w.priority, w.name),
    tickets as (
        insert into {schema}.ready (queue, partition, rank, workflow_id, name)
        select queue, {schema}.ticket_partition(queue, partition), 2 * priority, id, name
          from u where status = 'queued'),
    children as (
        insert into {schema}.cascade (workflow_id, ended, epoch, reason)
        select id, false, epoch, reason from late where not unborn on conflict do nothing),
    said as (
        insert into {schema}.audit (action, workflow_id, detail)
        select 'timeout', id, jsonb_build_object('status', status) from late)
    select id, status::text from late
    """,
)

CASCADES: Final = Statement(
    "cascades",
    "select workflow_id, ended, epoch, reason from {schema}.cascade order by at limit 16",
)

CHILDREN: Final = Statement(
    "children",
    # The unfinished children that a cancel, or the end, of their parent has to reach: found in its journal.
    """
    select w.id
      from {schema}.step s join {schema}.workflow w on w.id = (s.output #>> '{}')::uuid
     where s.workflow_id = $1::uuid and s.kind in ('child', 'start') and s.output is not null and s.epoch <= $3::int
       and w.parent_id = $1 and w.interrupt is null and w.status not in ('succeeded', 'failed', 'cancelled')
       and case when $2::boolean then w.parent_policy = 'cancel' else w.parent_policy is distinct from 'abandon' end
     limit $4::int
    """,
)

CASCADED: Final = Statement(
    "cascaded",
    "delete from {schema}.cascade where workflow_id = $1::uuid and ended = $2::boolean",
)
