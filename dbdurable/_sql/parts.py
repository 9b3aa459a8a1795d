"""Parts that statements share, so that each rule of the protocol is written once."""

from __future__ import annotations

from typing import Final, LiteralString

__all__ = ["TICKET", "WAKE", "fence", "given", "record", "with_parts"]


def with_parts(text: LiteralString, **parts: LiteralString) -> LiteralString:
    """The text with each `{name}` replaced by its part; `{schema}` stays, for `Statement.render`."""
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    return text


def fence(executor: LiteralString, epoch: LiteralString, id: LiteralString = "$1") -> LiteralString:
    """The epoch of a record: its workflow's row is locked until the commit; raises unless the caller owns it."""
    return with_parts(
        """
            coalesce((select w.epoch from {schema}.workflow w where w.id = {id}
               and w.executor_id = {executor}::uuid and w.epoch = {epoch}::int and w.status = 'running'
               for share), {schema}.fenced())""",
        id=id,
        executor=executor,
        epoch=epoch,
    )


def record(
    output: LiteralString,
    *,
    id: LiteralString = "$1",
    path: LiteralString = "$2",
    seq: LiteralString = "$3",
    kind: LiteralString = "$4",
    name: LiteralString = "$5",
    executor: LiteralString = "$6",
    epoch: LiteralString = "$7",
) -> LiteralString:
    """The insert of a call's record, fenced; `on conflict` and `returning` may follow."""
    return with_parts(
        """
        insert into {schema}.step
            (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at, output)
        values (
            {id}::uuid, {path}::text, {seq}::int, {kind}::text::{schema}.step_kind, {name}::text, 1,{fence},
            clock_timestamp(), clock_timestamp(), {output})""",
        fence=fence(executor, epoch, id),
        id=id,
        path=path,
        seq=seq,
        kind=kind,
        name=name,
        output=output,
    )


def given(queue: LiteralString, partitions: LiteralString) -> LiteralString:
    """Of a `with`: what the workflow in `w` held of its queue's limits is given back."""
    return with_parts(
        """
    given as (
        update {schema}.limit_key l set used = l.used - 1
         where l.queue = {queue}::text and l.partition = any({partitions}::text[]) and exists (select from w))""",
        queue=queue,
        partitions=partitions,
    )


TICKET: Final[LiteralString] = (
    "select w.queue, {schema}.ticket_partition(w.queue, w.partition), 2 * w.priority, true, w.id, w.name"
)
"""A wake ticket of the workflow w."""

WAKE: Final[LiteralString] = (
    "insert into {schema}.ready (queue, partition, rank, wake, workflow_id, name)\n        " + TICKET
)
"""Wake tickets of the workflows w of the `from` that follows."""
