"""Statements on `step`: records with the fence that raises, checked records, and reads."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.parts import fence, with_parts
from dbdurable._sql.statement import Statement

RECORD_IN_TRANSACTION: Final = Statement(
    "record_in_transaction",
    # Last statement of a step's own transaction; COMMIT is on the wire behind it. The fence locks the
    # workflow's row until that commit and raises when owner, epoch or status differ. The transaction has to be
    # in the mode in which BEGIN has opened it, or to hold the step's path that was noted behind BEGIN; else the body
    # has ended the one that was opened for it.
    with_parts(
        """
    insert into {schema}.step
        (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
    values (
        $1::uuid,
        case when current_setting('transaction_deferrable') <> current_setting('default_transaction_deferrable')
               or current_setting('dbdurable.step', true) = $2::text then $2 else {schema}.torn() end,
        $3::int, $4::text::{schema}.step_kind, $5::text, $6::smallint,{fence},
        now(), clock_timestamp(), $9::json)
    returning (date_part('epoch', finished_at) * 1000000)::bigint
    """,
        fence=fence("$7", "$8"),
    ),
)

RECORD_FENCED: Final = Statement(
    "record_fenced",
    # The error of a transaction, after its writes were rolled back: a transaction of its own, fenced likewise.
    with_parts(
        """
    insert into {schema}.step
        (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output, error)
    values (
        $1::uuid, $2::text, $3::int, $4::text::{schema}.step_kind, $5::text, $6::smallint,{fence},
        clock_timestamp() - make_interval(secs => $11::float8), clock_timestamp(), $9::json, $10::json)
    returning (date_part('epoch', finished_at) * 1000000)::bigint
    """,
        fence=fence("$7", "$8"),
    ),
)

APPEND: Final = Statement(
    "append",
    # Outcomes of outside steps, any number of them: checked, not fenced. A success is a fact and is kept
    # while the workflow is unfinished, whoever ran it; an error only when the row is still the caller's.
    # What comes from an epoch that is over has no position in the order of outcomes: the owner places it.
    # LATERAL and OFFSET: each workflow is looked for by its key. A session plans this once, maybe while the table is
    # small, and would go on to read all of it.
    """
    with f as materialized (
        select x.*, (w.executor_id = $1::uuid and w.epoch = x.epoch and w.status = 'running') as mine,
               w.executor_id = $1 and w.epoch - x.epoch = 1 and w.interrupt is not null as cancelled
          from unnest($2::uuid[], $3::text[], $4::int[], $5::text[], $6::text[], $7::smallint[], $8::int[],
                      $9::float8[], $10::text[], $11::text[])
               as x(workflow_id, path, seq, kind, name, attempts, epoch, elapsed_s, output, error)
         cross join lateral (
               select o.executor_id, o.epoch, o.status, o.interrupt from {schema}.workflow o
                where o.id = x.workflow_id and o.status not in ('succeeded', 'failed', 'cancelled') offset 0) w),
    i as (
        insert into {schema}.step
            (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output, error)
        select workflow_id, path, case when mine or cancelled then seq else 2147483647 end,
               kind::{schema}.step_kind, name, attempts, epoch,
               clock_timestamp() - make_interval(secs => elapsed_s), clock_timestamp(),
               output::json, error::json
          from f where mine or error is null
        on conflict do nothing
        returning workflow_id, path, finished_at)
    select f.workflow_id, f.path, f.mine, i.path is not null as wrote,
           (extract(epoch from i.finished_at) * 1000000)::bigint as finished_us
      from f left join i on i.workflow_id = f.workflow_id and i.path = f.path
    """,
)

PLACE_RECORD: Final = Statement(
    "place_record",
    # The owner takes up a record that came from elsewhere: its position in the order of outcomes is now.
    """
    update {schema}.step s set seq = $3::int
     where s.workflow_id = $1::uuid and s.path = $2::text
       and exists (select from {schema}.workflow w
                    where w.id = $1 and w.executor_id = $4::uuid and w.epoch = $5::int and w.status = 'running')
    returning s.seq
    """,
)

READ_STEP: Final = Statement(
    "read_step",
    """
    select path, seq, kind::text, name, output::text, error::text, attempts,
           (extract(epoch from finished_at) * 1000000)::bigint
      from {schema}.step where workflow_id = $1::uuid and path = $2::text
    """,
)

READ_JOURNAL: Final = Statement(
    "read_journal",
    """
    select path, seq, kind::text, name, output::text, error::text, attempts,
           (extract(epoch from finished_at) * 1000000)::bigint
      from {schema}.step where workflow_id = $1::uuid order by seq
    """,
)

END_BACKEND: Final = Statement(
    "end_backend",
    # After a COMMIT without an answer its session may still hold the fence: end it, if it is the same one.
    """
    select pg_terminate_backend($1::int)
      from pg_stat_get_activity($1::int) s where s.backend_start = $2::timestamptz
    """,
)

MARK: Final = Statement(
    "mark",
    # The session carries the mark of the executor whose steps it runs, instead of that of an earlier one.
    "select pg_try_advisory_lock_shared($1::bigint), pg_advisory_unlock_shared($2::bigint)",
)

NOTE: Final = Statement(
    "note",
    # Goes out behind BEGIN where the session is a pooler's: what RECORD_IN_TRANSACTION looks for, and the mark of its
    # executor for as long as the transaction is open.
    "select set_config('dbdurable.step', $1::text, true), pg_try_advisory_xact_lock_shared($2::bigint)",
)

NOTE_STEP: Final = Statement(
    "note_step",
    # The same on a connection of somebody else's, and the session's identity.
    """
    select s.pid, s.backend_start, pg_try_advisory_xact_lock_shared($2::bigint)
      from set_config('dbdurable.step', $1::text, true) left join pg_stat_get_activity(pg_backend_pid()) s on true
    """,
)
