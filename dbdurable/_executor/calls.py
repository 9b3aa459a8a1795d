"""What a call of a registered function does where it is made: the table of allowed calls.

called in ->     workflow body      step body         transaction body      anywhere else
workflow()       a child            error             error                 runs here, durably
step()           recorded           part of it        part of it            NotInWorkflow
transaction()    recorded           error             joins it              NotInWorkflow
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.ids import step_key
from dbdurable._core.retry import as_retry, duration_s
from dbdurable._executor.definition import Definition
from dbdurable._executor.runtime import Runtime, check_blocking
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import Frame, StepFrame, WorkflowFrame, current, current_line, limits_here, shielded
from dbdurable._protocol.step import step
from dbdurable._protocol.transaction import transaction
from dbdurable.errors import BadArgument, NotInWorkflow, WrongColour
from dbdurable.types import Options, Retry


class Invocation(NamedTuple):
    """A call that was made: everything decided but the colour of its caller."""

    runtime: Runtime
    definition: Definition
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    undoes: UUID | None = None
    """The idempotency key of the step that it undoes."""


def plain_call(call: Invocation, frame: Frame | None) -> Callable[[], Any] | None:
    """The call as a plain function call, where it is part of the step or transaction around it.

    Raises NotInWorkflow where the table forbids it.
    """
    definition = call.definition
    if not isinstance(frame, StepFrame):
        return None
    if definition.kind == "step":
        return lambda: definition.fn(*call.args, **call.kwargs)
    if definition.kind == "transaction" and frame.kind == "transaction":
        return lambda: definition.fn(*with_handle(definition, call.args, frame.handle), **call.kwargs)
    if definition.kind == "transaction":
        raise NotInWorkflow(
            f"transaction {definition.name} was called inside step {frame.name}: it would be repeated with the "
            f"step. Call it from the workflow, before or after {frame.name}"
        )
    raise NotInWorkflow(
        f"workflow {definition.name} was called inside {frame.kind} {frame.name}: call it from a workflow, or "
        f"start it with `{definition.name}.start(...)`"
    )


def require_workflow(definition: Definition, frame: Frame | None) -> WorkflowFrame:
    """The workflow that a step or transaction is called in; raises NotInWorkflow elsewhere."""
    if isinstance(frame, WorkflowFrame):
        return frame
    name = definition.name
    plain = f"{name}.fn(connection, ...)" if definition.kind == "transaction" else f"{name}.fn(...)"
    raise NotInWorkflow(
        f"{definition.kind} {name} was called outside of a workflow: nothing would be recorded. Decorate the "
        f"caller with @durable.workflow, or write `{name}.start(...)` (alone, durably) or `{plain}` (a plain "
        "call). A thread that a workflow's body starts is outside of it, too: use dbdurable.gather or fan_out"
    )


def require_own_thread(frame: WorkflowFrame, call: str) -> None:
    """Raises NotInWorkflow in a thread that a body started itself, and that took its context along.

    Its calls would take their places in the order in which threads happen to run.
    """
    if frame.is_async:
        write = f"await the call itself, or `await asyncio.gather(...)` of several: `await f.aio(...)` for {call}"
    elif current_line(frame).thread in (None, threading.get_ident()):
        return
    else:
        write = "use dbdurable.gather or dbdurable.fan_out, which give each branch its place in the journal"
    raise NotInWorkflow(
        f"{call} was called in a thread that workflow {frame.name} started itself: its place in the journal would "
        f"change with every replay. Instead, {write}"
    )


def check_colour(call: Invocation, frame: Frame | None) -> None:
    """Raises WrongColour where a blocking face is called on an event loop."""
    name = call.definition.name
    if not on_a_loop():
        if isinstance(frame, WorkflowFrame):
            require_own_thread(frame, f"{name}(...)")
        return
    write = f"await {name}(...)" if call.definition.is_async else f"await {name}.aio(...)"
    if isinstance(frame, WorkflowFrame) and frame.is_async:
        raise WrongColour(f"{name}(...) blocks the event loop of workflow {frame.name}: write `{write}`")
    check_blocking(f"{name}(...)", write)


def on_a_loop() -> bool:
    """Whether this thread runs an event loop just now."""
    return asyncio._get_running_loop() is not None  # get_running_loop() tells it by an exception


def durable_call(call: Invocation, frame: WorkflowFrame) -> DurableCall:
    """Takes the call's place in its workflow: now, in program order."""
    runtime, definition, args, kwargs, options, undoes = call
    if definition.kind == "transaction":
        refuse_connection(definition, args[int(definition.method) :])
    line = current_line(frame)
    path = line.take()
    this = DurableCall(
        frame=frame,
        line=line,
        path=path,
        kind=definition.kind,
        name=definition.name,
        run=_run_of(definition, frame, path, args, kwargs, undoes),
        codec=definition.result,
        retry=as_retry(options["retry"]) if "retry" in options else definition.retry,
        timeout_s=duration_s(options["timeout"], "timeout=") if "timeout" in options else definition.timeout_s,
        shielded=shielded.get() is frame,
        limits=limits_here(frame),
    )
    if definition.kind == "transaction":
        this.source = runtime.source_for(definition)
        this.isolation = definition.isolation
        this.row_factory = definition.row_factory
    return this


def place_of(
    frame: WorkflowFrame, name: str, kind: str, codec: ValueCodec, timeout_s: float | None = None
) -> DurableCall:
    """The place of a record that no function of the user's is behind: a start, a wait, a message."""
    line = current_line(frame)
    inside = shielded.get() is frame
    around = limits_here(frame)
    path = line.take()
    return DurableCall(
        frame, line, path, kind, name, _nothing, codec, Retry(1), timeout_s, shielded=inside, limits=around
    )


def _nothing() -> None:
    pass


def flow_of(this: DurableCall) -> Flow[Any]:
    """The protocol of a step or of a transaction."""
    return transaction(this) if this.kind == "transaction" else step(this)


def run_definition(
    runtime: Runtime,
    definition: Definition,
    frame: WorkflowFrame,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The body of a workflow; a step or transaction that was started alone is a one-step workflow."""
    if definition.kind == "workflow":
        return definition.fn(*args, **kwargs)
    flow = flow_of(durable_call(Invocation(runtime, definition, args, kwargs, {}), frame))
    return runtime.adrive(flow, True) if definition.is_async else runtime.drive(flow, False)


def _run_of(
    definition: Definition,
    frame: WorkflowFrame,
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    undoes: UUID | None,
) -> Callable[..., Any]:
    """The user's function as the protocol calls it: (attempt) for a step, (attempt, handle) for a transaction."""

    def run(attempt: int, handle: Any = None) -> Any:
        inner = StepFrame(
            workflow=frame,
            workflow_id=frame.id,
            path=path,
            name=definition.name,
            kind=definition.kind,
            idempotency_key=lambda: step_key(frame.id, path),
            attempt=attempt,
            handle=handle,
            undoes=undoes,
        )
        actual = with_handle(definition, args, handle) if definition.kind == "transaction" else args
        if definition.is_async:
            return _await_inside(inner, definition.fn, actual, kwargs)
        token = current.set(inner)
        try:
            return definition.fn(*actual, **kwargs)
        finally:
            current.reset(token)

    return run


async def _await_inside(inner: StepFrame, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = current.set(inner)
    try:
        return await fn(*args, **kwargs)
    finally:
        with suppress(ValueError):  # closed by the garbage collector, after its loop has ended
            current.reset(token)


def with_handle(definition: Definition, args: tuple[Any, ...], handle: Any) -> tuple[Any, ...]:
    """The arguments with the connection in its place: first, after self."""
    return (args[0], handle, *args[1:]) if definition.method else (handle, *args)


def refuse_connection(definition: Definition, passed: tuple[Any, ...]) -> None:
    """Raises where a caller passes the connection of a transaction: the library fills it in."""
    if passed and hasattr(passed[0], "commit") and hasattr(passed[0], "rollback"):
        names = ", ".join(definition.signature.parameters)
        raise BadArgument(
            f"transaction {definition.name}: the connection is filled in; pass only the other arguments: "
            f"`{definition.name}({names})`"
        )
