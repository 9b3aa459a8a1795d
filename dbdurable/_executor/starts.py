"""From a call and its options to one start: bound, encoded and checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from dbdurable._core.codec import storable
from dbdurable._core.names import check_key, check_name
from dbdurable._core.queues import LIMIT_MAX
from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._core.whole import whole_number
from dbdurable._executor.definition import Definition
from dbdurable._executor.runtime import Runtime
from dbdurable._protocol.frame import StepFrame, WorkflowFrame, current
from dbdurable._protocol.start import Start
from dbdurable.errors import BadArgument
from dbdurable.types import Options

PRIORITY_MAX = 10_000


def build_start(
    runtime: Runtime,
    definition: Definition,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
    *,
    own_id: bool = True,
    registered: bool = True,
) -> Start:
    """Everything about one start. Raises BadArgument naming what cannot be used."""
    input = definition.arguments.encode(definition.arguments.bind(args, kwargs))  # refused before it gets an id
    queue = definition.queue or ("default" if registered else None)
    start = Start(
        id=_id(runtime, options, own_id),
        name=definition.name,
        input=input,
        queue=queue,
        timeout_s=definition.timeout_s if definition.kind == "workflow" else None,
        max_attempts=definition.max_attempts if registered else None,
        registered=registered,
        known_queue=queue is None or runtime.registry.knows_queue(queue),
    )
    if options:  # most have none, and do not pay for them
        _note_options(start, runtime, definition, options)
    return start


def _note_options(start: Start, runtime: Runtime, definition: Definition, options: Options) -> None:
    """Checks what the caller has asked for, and notes it."""
    queue, at, key, timeout = options.get("queue"), options.get("at"), options.get("key"), options.get("timeout")
    if queue is not None:
        start.queue = check_name(getattr(queue, "name", queue), "queue")
        start.known_queue = runtime.registry.knows_queue(start.queue)
    if at is not None and not isinstance(at, datetime):
        raise BadArgument(f"at= takes an aware datetime, not {at!r:.100}")
    if at is not None and at.tzinfo is None:
        raise BadArgument(f"at={at!r} has no time zone: pass an aware datetime, datetime(..., tzinfo=UTC)")
    if at is not None and "delay" in options:
        raise BadArgument("at= and delay= say the same thing: pass one of them")
    if "retry" in options:
        raise BadArgument(
            f"retry= goes with a call inside a workflow; for {definition.name}.start(...) it stands at the "
            "decorator, @durable.step(retry=...)"
        )
    if timeout is not None:
        start.timeout_s = duration_s(timeout, "timeout=")
    start.key = check_key(key) if key is not None else None
    start.priority = whole_number(options.get("priority", 0), "priority=", -PRIORITY_MAX, PRIORITY_MAX)
    start.delay_s = duration_s(options["delay"], "delay=") if "delay" in options else None
    start.at = None if at is None else at - runtime.passed.total  # a test's clock is ahead of the database's
    start.expires_s = _expires_s(options["expires"]) if "expires" in options else None
    start.partition = _partition(options.get("partition", ""))
    start.attributes = _attributes(options.get("attributes"))
    start.cost = whole_number(options.get("cost", 1), "cost=", 0, LIMIT_MAX)
    start.key_reuse = _key_reuse(options)
    start.parent_close = _parent_close(options)
    start.minted = "id" not in options


def refuse_start_options(options: Options, name: str, kind: str) -> None:
    """Options that say when and where to start mean nothing for a call that runs here and now."""
    allowed = ("key", "id", "timeout", "attributes", "parent_close") if kind == "workflow" else ("retry", "timeout")
    for option in options:
        if option not in allowed:
            raise BadArgument(
                f"{name}.options({option}=...)(...) runs here and now: {option}= goes with start, "
                f"`{name}.options({option}=...).start(...)`"
            )


def _id(runtime: Runtime, options: Options, own_id: bool) -> Any:
    given = options.get("id")
    if given is not None:
        if not isinstance(given, UUID):
            raise BadArgument(f"id= takes a uuid.UUID, not {type(given).__name__}")
        return given
    frame = current.get()
    if isinstance(frame, StepFrame) and frame.kind == "step":
        # A step may run again: the same call in it starts the same workflow.
        frame.starts += 1
        return uuid5(frame.idempotency_key(), f"start {frame.starts}")
    return runtime.database.new_id() if own_id else None


def _key_reuse(options: Options) -> bool:
    reuse = options.get("key_reuse", False)
    if not isinstance(reuse, bool):
        raise BadArgument(f"key_reuse= takes True or False, not {shown(reuse)}")
    if reuse and "key" not in options:
        raise BadArgument("key_reuse=True says what becomes of a key: pass key= too")
    return reuse


def _parent_close(options: Options) -> str | None:
    policy: object = options.get("parent_close")
    if policy is None:
        return None
    if policy not in ("cancel", "abandon"):
        raise BadArgument(f"parent_close= takes 'cancel' or 'abandon', not {shown(policy)}")
    if not isinstance(current.get(), WorkflowFrame):
        raise BadArgument("parent_close= says what becomes of a child: it goes with a start in a workflow's body")
    return str(policy)


def _expires_s(value: Any) -> float:
    expires_s = duration_s(value, "expires=")
    if expires_s == 0:
        raise BadArgument("expires=0 would never start it: pass how long it may wait in its queue")
    return expires_s


def _partition(value: object) -> str:
    return check_key(value) if value else ""


def _attributes(value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    try:
        return storable(json.dumps(dict(value), allow_nan=False, ensure_ascii=False, default=_attribute))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgument(f"attributes= takes a mapping of plain JSON values: {error}") from None


def _attribute(value: object) -> str:
    if isinstance(value, (datetime, UUID)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def workflow_id(id: UUID | str) -> UUID:
    """The id that a user gave. Raises BadArgument."""
    try:
        return id if isinstance(id, UUID) else UUID(id)
    except (ValueError, AttributeError, TypeError):
        raise BadArgument(f"a workflow's id is a UUID, not {shown(id)}") from None
