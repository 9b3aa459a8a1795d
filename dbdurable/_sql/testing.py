"""Statements of the test harness."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import with_parts
from dbdurable._sql.statement import Statement
from dbdurable._sql.wait import ARRIVED

EXPIRE_ALL: Final = Statement(
    "expire_all",
    # Every executor counts as dead: its process was killed.
    "update {schema}.executor set expires_at = clock_timestamp() - interval '1 s'",
)

EVERY_JOURNAL: Final = Statement(
    "every_journal",
    # What must be the same after a crash: no ids, times or payloads.
    """
    select w.name, w.status::text, s.path, s.kind::text, s.name
      from {schema}.workflow w left join {schema}.step s on s.workflow_id = w.id
    """,
)

UNSETTLED: Final = Statement(
    "unsettled",
    # What is still to do now: timers that are due and cancels that have not reached the children (any executor sees
    # to them all); of the workflows that this executor can run: tickets, what runs, and waits whose wake-up is on its
    # way. Nobody claims from a paused queue.
    with_parts(
        """
    select w.name || ' ' || w.id
      from {schema}.workflow w
     where exists (
           select from {schema}.wait t where t.workflow_id = w.id and t.due <= clock_timestamp() and not t.rung)
        or exists (select from {schema}.cascade c where c.workflow_id = w.id)
        or w.queue = any($1::text[]) and w.name = any($2::text[]) and (
               w.status = 'running'
            or not exists (select from {schema}.queue q where q.name = w.queue and q.paused) and (
                   w.status in ('queued', 'waiting') and exists (
                       select from {schema}.ready r where r.queue = w.queue and r.workflow_id = w.id)
                or w.status = 'waiting' and exists (
                       select from {schema}.wait t where t.workflow_id = w.id and ({arrived}))))
     order by w.id limit 10
    """,
        arrived=ARRIVED,
    ),
)

NEXT_DUE: Final = Statement(
    "next_due",
    "select extract(epoch from min(due) - clock_timestamp())::float8 from {schema}.wait where not rung",
)

LET_PASS: Final = Statement(
    "let_pass",
    # So much time passes: what is due comes nearer by it. The answer is when that was.
    """
    with ends as (
        update {schema}.workflow
           set deadline = deadline - make_interval(secs => $1::float8),
               expires_at = expires_at - make_interval(secs => $1::float8)
         where coalesce(deadline, expires_at) is not null and status in ('queued', 'running', 'waiting')),
    waits as (
        update {schema}.wait set due = due - make_interval(secs => $1::float8) where due is not null)
    select (extract(epoch from clock_timestamp()) * 1000000)::bigint
    """,
)
