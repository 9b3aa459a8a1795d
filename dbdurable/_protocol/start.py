"""Starting workflows and waiting for what becomes of them: what clients and direct calls do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._core.failure import decode_failure
from dbdurable._protocol.effects import Flow, Query, Row, Waiting, pause, query
from dbdurable._sql import start as sql
from dbdurable._sql.statement import Statement
from dbdurable._sql.workflow import OUTCOME
from dbdurable.errors import (
    DatabaseUnavailable,
    KeyConflict,
    UnknownWorkflow,
    WaitTimeout,
    WorkflowBlocked,
    WorkflowCancelled,
)
from dbdurable.types import Status

_JSON_NAMES = (
    "name", "input", "key", "queue", "id", "priority", "delay", "at", "expires", "partition", "timeout", "attributes",
    "max_attempts", "parent_id", "registered", "known_queue", "cost", "key_reuse",
)  # fmt: skip
"""The parameters of START, as the SQL function start_many names them."""


def starts_json(starts: Sequence[tuple[Any, ...]]) -> str:
    """Many starts, each as the parameters of START, for START_MANY; inputs go in as the texts that they are."""
    return "[" + ",".join(_start_json(params) for params in starts) + "]"


_json = json.JSONEncoder(default=str).encode
"""Made once: `json.dumps` makes an encoder for each call that has a `default`, which takes as long as the rest."""


def _start_json(params: tuple[Any, ...]) -> str:
    fields = {name: value for name, value in zip(_JSON_NAMES, params, strict=True) if value is not None}
    input, attributes = fields.pop("input"), fields.pop("attributes", None)
    more = "" if attributes is None else f',"attributes":{attributes}'
    return f'{_json(fields)[:-1]},"input":{input}{more}}}'


RESENDS_MAX = 5
"""How often a client sends an idempotent statement again after a lost connection."""

POLL_S_FIRST, POLL_S_MAX, POLL_GROWTH = 0.002, 0.25, 1.25
"""The first and the longest pause between two looks at a result; what comes fast is seen fast."""

CLAIM_WARNING_S = 5.0
"""A result that nobody has begun to work for after this long gets one warning."""


@dataclass(slots=True)
class Start:
    """Everything about one start; durations in seconds. Not changed once built (frozen, it would cost 2 us more)."""

    id: UUID
    name: str
    input: str
    key: str | None = None
    queue: str | None = None
    priority: int = 0
    delay_s: float | None = None
    at: datetime | None = None
    expires_s: float | None = None
    partition: str = ""
    timeout_s: float | None = None
    attributes: str | None = None
    max_attempts: int | None = None
    parent_id: UUID | None = None
    parent_close: str | None = None
    """What becomes of a child: 'cancel', 'abandon', or None (cancelled with its parent, else left alone)."""
    registered: bool = True
    known_queue: bool = True
    cost: int = 1
    key_reuse: bool = False
    minted: bool = True
    """Whether the id was made for this start; else the caller chose it, and it may be there already."""

    @property
    def params(self) -> tuple[Any, ...]:
        """In the order of the statement START."""
        return (
            self.name,
            self.input,
            self.key,
            self.queue,
            self.id,
            self.priority,
            self.delay_s,
            self.at,
            self.expires_s,
            self.partition,
            self.timeout_s,
            self.attributes,
            self.max_attempts,
            self.parent_id,
            self.registered,
            self.known_queue,
            self.cost,
            self.key_reuse,
        )


def resend(statement: Statement, *params: Any) -> Flow[list[Row]]:
    """An idempotent statement of a client: sent again after a lost connection, a few times."""
    for tries in range(RESENDS_MAX + 1):
        try:
            return (yield from query(statement, *params))
        except (ConnectionLost, Transient) as lost:
            if tries == RESENDS_MAX:
                raise DatabaseUnavailable(f"the database went away: {lost}") from None
        yield from pause(0.05 * 2**tries)
    raise AssertionError("the last try returns or raises")


def start(this: Start) -> Flow[UUID]:
    """Starts in the background; the id was made here, so that sending it again starts nothing twice."""
    rows = yield from resend(sql.START, *this.params)
    found: UUID = rows[0][0]
    return found


def unkeyed_start(this: Start, executor_id: UUID, batch: int, began_us: int) -> Query:
    """The start of a direct call without a key, to ride its first commit.

    `began_us`: when it began, by the database's clock as its process knows it; microseconds since 1970.
    """
    return Query(
        sql.START_HERE_UNKEYED if this.timeout_s is None else sql.START_HERE_TIMED,
        (
            this.id,
            this.name,
            this.queue,
            this.max_attempts,
            this.timeout_s,
            executor_id,
            this.attributes,
            this.input,
            this.parent_id,
            batch,
            began_us,
        ),
    )


def start_here(this: Start, executor_id: UUID, batch: int, began_us: int) -> Flow[UUID | None]:
    """A direct call: the workflow is born running, owned by this executor. None: born here.

    Otherwise the id of the workflow that holds the key, or the id.
    """
    while True:
        rows = yield from resend(
            sql.START_HERE,
            this.id,
            this.name,
            this.queue,
            this.max_attempts,
            this.timeout_s,
            executor_id,
            batch,
            this.key,
            this.attributes,
            this.input,
            this.parent_id,
            began_us,
        )
        if rows:
            return None
        if (yield from resend(sql.BORN_HERE, executor_id, batch, this.id))[0][0]:
            return None  # our own start: only its answer had been lost
        if this.key is None:
            return this.id
        held = yield from resend(sql.FIND_BY_KEY, this.name, this.key, this.input)
        if not held:
            continue  # its holder was rolled back meanwhile
        holder, same = held[0]
        if not same:
            raise KeyConflict(
                f"key {this.key!r} already started {this.name} with other arguments (workflow {holder}); "
                "use another key, or the same arguments"
            )
        return holder  # type: ignore[no-any-return]


def result(
    id: UUID,
    codec: ValueCodec,
    timeout_s: float | None,
    clock: Callable[[], float],
    warn: Callable[[str], None],
    waiter: Waiting | None = None,
) -> Flow[Any]:
    """Waits for the outcome: the value, or the error raised again. `waiter` may end the wait for the next look."""
    begun, delay_s, warned = clock(), POLL_S_FIRST, False
    while True:
        rows = yield from resend(OUTCOME, id)
        if not rows:
            raise UnknownWorkflow(
                f"there is no workflow {id} in this schema; if it was started with tx=, that transaction has "
                "not committed yet"
            )
        name, status, output, error, reason = rows[0]
        if status in FINAL:
            return outcome_of(id, name, status, output, error, reason, codec)
        if status == Status.BLOCKED:
            raise WorkflowBlocked(f"workflow {name} {id} is blocked: {reason}")
        waited_s = clock() - begun
        if timeout_s is not None and waited_s >= timeout_s:
            raise WaitTimeout(
                f"workflow {name} {id} has not finished within {timeout_s:g} s: it is {status}; it goes on, "
                "ask again with result()"
            )
        if status == Status.QUEUED and waited_s > CLAIM_WARNING_S and not warned:
            warned = True
            warn(f"workflow {name} {id} has been queued for {waited_s:.0f} s and nobody has claimed it")
        yield from pause(delay_s if timeout_s is None else min(delay_s, max(0.0, timeout_s - waited_s)), waiter)
        delay_s = min(POLL_S_MAX, delay_s * POLL_GROWTH)


FINAL = frozenset({Status.SUCCEEDED.value, Status.FAILED.value, Status.CANCELLED.value})


def outcome_of(
    id: UUID,
    name: str,
    status: str,
    output: str | None,
    error: str | None,
    reason: str | None,
    codec: ValueCodec,
) -> Any:
    """The value of a workflow that succeeded; else its error, raised again."""
    if status == Status.SUCCEEDED:
        return codec.decode(output)
    if status == Status.CANCELLED:
        raise WorkflowCancelled(f"workflow {name} {id} was cancelled" + (f": {reason}" if reason else ""))
    assert error is not None
    failure = decode_failure(error)
    failure.add_note(f"raised in workflow {name} {id}")
    raise failure
