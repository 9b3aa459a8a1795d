"""What code can ask about where it runs: the current workflow and step. No colour, no I/O."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from math import inf
from random import Random
from typing import Any, TypeVar, cast
from uuid import UUID

from dbdurable._core.clock import at
from dbdurable._core.control import Diverged, Unwind
from dbdurable._core.names import check_name
from dbdurable._core.retry import as_retry, duration_s
from dbdurable._executor.calls import Invocation, durable_call, flow_of, require_own_thread
from dbdurable._executor.definition import Definition
from dbdurable._executor.runtime import check_blocking, runtime_of
from dbdurable._executor.where import body_frame
from dbdurable._protocol.frame import (
    StepFrame,
    WorkflowFrame,
    current,
    current_line,
    holding_off,
    is_replaying,
    limits,
    limits_here,
    workflow_here,
)
from dbdurable._protocol.limit import KIND, NAME, Limit
from dbdurable.errors import NotInWorkflow
from dbdurable.types import Duration, Retry

R = TypeVar("R")

__all__ = [
    "CurrentStep",
    "CurrentWorkflow",
    "arun_step",
    "current_step",
    "current_workflow",
    "now",
    "rng",
    "run_step",
    "shield",
    "timeout",
    "uuid4",
]


@dataclass(frozen=True, slots=True)
class CurrentWorkflow:
    """The workflow attempt that the calling code belongs to."""

    id: UUID
    name: str
    key: str | None
    attempt: int
    deadline: datetime | None
    replaying: bool
    """Whether the body has been here before: calls are recorded that it has not made yet. Never in a step."""


@contextmanager
def shield() -> Iterator[None]:
    """Durable calls inside run although the workflow was cancelled; the first one after the block hears of it.

    A call that is under way when the cancel comes is not interrupted; a transaction among them is rolled back
    and run again, since nothing that began before the cancel may commit after it.

    Raises:
        NotInWorkflow: It was used outside of a workflow.

    Example:
        >>> with shield():                              # doctest: +SKIP
        ...     receipt = charge(order_id)
        ...     write_down(order_id, receipt)
    """
    frame = current.get()
    if frame is None:
        raise NotInWorkflow("shield() was used outside of a workflow: there is no cancel to hold off")
    if isinstance(frame, StepFrame):  # a step is never cut in two
        yield
        return
    with holding_off(frame):
        yield


@contextmanager
def timeout(limit: Duration, /) -> Iterator[None]:
    """A block of a body that has `limit` (seconds or timedelta): then a durable call in it raises WaitTimeout.

    By the database's clock, and the same on replay, which `asyncio.timeout` is not. What waits or is asynchronous is
    cut short; a `def` step is left behind on its thread, as with its own `timeout=`. WaitTimeout is raised once (in
    each branch), so that the block may clean up. Time while the workflow is paused does not count.

    Raises:
        WaitTimeout: By the first durable call after the time.
        BadArgument: Negative, NaN or longer than a hundred years.
        NotInWorkflow: It was used outside of a workflow's body.

    Example:
        >>> with timeout(60):                           # doctest: +SKIP
        ...     offer = ask_supplier(part)
        ...     answer = recv("offer", Offer)
    """
    limit_s = duration_s(limit, "the limit of timeout()")
    frame = _body("timeout")
    path = current_line(frame).take()
    try:
        recorded = frame.journal.match(path, KIND, NAME) is not None
    except Diverged as diverged:
        raise frame.diverge(diverged) from None
    kept = frame.kept.get(path)
    until = frame.lease.now() + limit_s
    if recorded:  # without its wait it has told already, and the journal says whom
        until = -inf if kept is None or kept.until is None else kept.until
    token = limits.set((frame, (*limits_here(frame), made := Limit(frame, path, limit_s, until, recorded))))
    try:
        yield
    except Unwind:
        raise
    except BaseException:
        made.leave()
        raise
    else:
        made.leave()
    finally:
        with suppress(ValueError):  # closed by the garbage collector, after its loop has ended
            limits.reset(token)


@dataclass(frozen=True, slots=True)
class CurrentStep:
    """The step or transaction that the calling code belongs to."""

    idempotency_key: UUID
    """Equal however often the step runs: give it to the service that you call."""
    attempt: int
    path: tuple[int, ...]
    workflow_id: UUID
    undoes: UUID | None = None
    """In a compensation of a step: the idempotency key of what it undoes."""


def current_workflow() -> CurrentWorkflow:
    """The workflow that this code runs in, in its body or in a step.

    Raises:
        NotInWorkflow: It runs in none.
    """
    workflow = workflow_here()
    if workflow is None:
        raise NotInWorkflow("current_workflow() was called outside of a workflow, or in a thread of its own")
    return CurrentWorkflow(
        id=workflow.id,
        name=workflow.name,
        key=workflow.key,
        attempt=workflow.attempt,
        deadline=None if workflow.deadline is None else workflow.deadline + runtime_of(workflow).passed.total,
        replaying=is_replaying(),
    )


def current_step() -> CurrentStep:
    """The step that this code runs in; fresh values under `step.fn(...)`, so that a step can be tested as a function.

    Raises:
        NotInWorkflow: It was called in a workflow's body, between its steps.
    """
    frame = current.get()
    if isinstance(frame, StepFrame):
        return CurrentStep(
            idempotency_key=frame.idempotency_key(),
            attempt=frame.attempt,
            path=tuple(int(part) for part in frame.path.split(".")),
            workflow_id=frame.workflow_id,
            undoes=frame.undoes,
        )
    if isinstance(frame, WorkflowFrame):
        raise NotInWorkflow(
            f"current_step() was called in the body of workflow {frame.name}, between its steps: call it inside a "
            "step, or use current_workflow()"
        )
    return CurrentStep(idempotency_key=uuid.uuid4(), attempt=1, path=(1,), workflow_id=uuid.uuid4())


def now() -> datetime:
    """The time, for a workflow's body: the same when the body is replayed. In UTC, aware.

    It is the database's time of the latest record that the body has seen: of a step, a transaction, a child or a
    wait that has ended; before the first of them, the time at which the workflow began to run. It never goes
    back, and does not move while the body runs between its calls.

    Raises:
        NotInWorkflow: It was called in a step, or outside of a workflow: use `datetime.now(UTC)` there.
    """
    frame = _position("now", "datetime.now(UTC)")
    return at(runtime_of(frame).passed.told_us(frame.now_us))


def uuid4() -> UUID:
    """A random-looking UUID for a workflow's body: the same when the body is replayed, another at each call.

    It follows from the workflow's id and the position of the call.

    Raises:
        NotInWorkflow: It was called in a step, or outside of a workflow: use `uuid.uuid4()` there.
    """
    return UUID(bytes=_drawn(_position("uuid4", "uuid.uuid4()"))[:16], version=4)


def rng() -> Random:
    """A random generator for a workflow's body: it gives the same numbers when the body is replayed.

    Each call gives another generator, seeded from the workflow's id and the position of the call.

    Raises:
        NotInWorkflow: It was called in a step, or outside of a workflow: use the module `random` there.

    Example:
        >>> winner = rng().choice(["Ann", "Bob"])     # doctest: +SKIP
    """
    return Random(int.from_bytes(_drawn(_position("rng", "the module random"))))  # noqa: S311  (no secrets: documented)


def _position(name: str, instead: str) -> WorkflowFrame:
    frame = current.get()
    if isinstance(frame, WorkflowFrame):
        return frame
    if isinstance(frame, StepFrame):
        raise NotInWorkflow(
            f"{name}() is for the bodies of workflows, which are replayed; {frame.kind} {frame.name} is not, and what "
            f"it returns is recorded: use {instead} there, or pass it {name}() as an argument"
        )
    raise NotInWorkflow(
        f"{name}() was called outside of a workflow, or in a thread of its own: there is no record that it could "
        f"follow from. Call it in a workflow's body, or use {instead}"
    )


def _drawn(frame: WorkflowFrame) -> bytes:
    """32 bytes that follow from the workflow's id and the next draw at this position."""
    return hashlib.sha256(frame.id.bytes + current_line(frame).draw().encode()).digest()


def run_step(
    name: str, fn: Callable[[], R], /, *, retry: Retry | int | None = None, timeout: Duration | None = None
) -> R:
    """A step without a decorator: runs `fn` and records what it returns, at least once.

    What it returns is stored as plain JSON values, tuples, sets, dates, decimals and UUIDs.

    Raises:
        NotInWorkflow: It was called outside of a workflow's body.

    Example:
        >>> rows = run_step("download", lambda: [1, 2, 3], retry=3)     # doctest: +SKIP
    """
    if isinstance(current.get(), StepFrame):
        return fn()
    frame = _body("run_step")
    check_blocking("run_step(...)", "await aio.run_step(...)")
    require_own_thread(frame, "run_step(...)")
    this = durable_call(_inline(frame, name, fn, retry, timeout, is_async=False), frame)
    return cast(R, runtime_of(frame).drive(flow_of(this), False, this))


def arun_step(
    name: str,
    fn: Callable[[], Awaitable[R]],
    /,
    *,
    retry: Retry | int | None = None,
    timeout: Duration | None = None,
) -> Awaitable[R]:
    """The same for `async def` code; `dbdurable.aio.run_step`."""
    if isinstance(current.get(), StepFrame):
        return fn()
    frame = _body("aio.run_step")
    this = durable_call(_inline(frame, name, fn, retry, timeout, is_async=True), frame)
    return cast("Awaitable[R]", runtime_of(frame).adrive(flow_of(this), True, this))


def _body(call: str) -> WorkflowFrame:
    return body_frame(
        f"{call}(...)",
        inside=": there it would record nothing. Call it in the body of the workflow",
        outside=": nothing would be recorded. Decorate the caller with @durable.workflow, or call the function itself",
    )


def _inline(
    frame: WorkflowFrame,
    name: str,
    fn: Callable[[], Any],
    retry: Retry | int | None,
    timeout: Duration | None,
    *,
    is_async: bool,
) -> Invocation:
    definition = Definition(
        name=check_name(name, "step"),
        kind="step",
        fn=fn,
        is_async=is_async,
        method=False,
        retry=as_retry(retry),
        timeout_s=None if timeout is None else duration_s(timeout, "timeout="),
    )
    definition.__dict__["hints"] = {}  # a lambda's annotations say nothing worth resolving
    return Invocation(runtime_of(frame), definition, (), {}, {})
