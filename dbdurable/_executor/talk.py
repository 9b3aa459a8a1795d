"""Where a wait or a message of the library's own is called, and how its protocol runs there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from dbdurable._core.codec import UNTYPED, ValueCodec
from dbdurable._executor.calls import on_a_loop, place_of, require_own_thread
from dbdurable._executor.runtime import Runtime, check_blocking, runtime_of
from dbdurable._executor.where import body_frame
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import Frame, StepFrame, WorkflowFrame, current, workflow_here
from dbdurable.errors import NotInWorkflow, WrongColour


def place(call: str, kind: str, name: str, codec: ValueCodec = UNTYPED) -> DurableCall:
    """Takes the place of such a call in the workflow around it: now, in program order."""
    frame = body_frame(
        f"{call}(...)",
        inside=", which cannot wait durably: call it in the body of the workflow, before or after it",
        outside=": nothing would be recorded. Call it in the body of a function with @durable.workflow (in threads "
        "that a body starts itself, it is outside of it, too)",
    )
    return place_of(frame, name, kind, codec)


def speaker(call: str) -> Runtime:
    """The application in whose workflow, step or transaction the code stands; raises NotInWorkflow elsewhere."""
    workflow = workflow_here()
    if workflow is not None:
        return runtime_of(workflow)
    raise NotInWorkflow(f"{call}(...) was called outside of a workflow: there, write `handle.send(topic, value)`")


def note_event(name: str) -> Frame | None:
    """Where an event is set: in a transaction, its waiters are woken once that has committed."""
    frame = current.get()
    if isinstance(frame, StepFrame) and frame.kind == "transaction" and frame.workflow is not None:
        frame.workflow.announced.setdefault(frame.path, []).append(name)
        return frame
    return None


def note_progress(text: str) -> None:
    """Keeps it for the next record of the workflow around."""
    workflow = workflow_here()
    if workflow is None:
        raise NotInWorkflow("progress(...) was called outside of a workflow: nobody would see it")
    workflow.progress = text


def drive(this: DurableCall, flow: Flow[Any], call: str) -> Any:
    """Runs it for `def` code."""
    frame = this.frame
    check_own(frame, call)
    return runtime_of(frame).drive(flow, None, this)


def check_own(frame: WorkflowFrame, call: str) -> None:
    """Raises where the body cannot wait: on an event loop, or in a thread that it started itself."""
    if on_a_loop() and frame.is_async:
        raise WrongColour(f"{call}(...) blocks the event loop of workflow {frame.name}: write `await aio.{call}(...)`")
    check_blocking(f"{call}(...)", f"await aio.{call}(...)")
    require_own_thread(frame, f"{call}(...)")


def adrive(this: DurableCall, flow: Flow[Any], call: str) -> Coroutine[Any, Any, Any]:
    """Runs it for `async def` code; a coroutine that is never awaited is named when the body ends."""
    return awaited(runtime_of(this.frame), (flow, None, this), this.frame, f"aio.{call}")


def awaited(
    runtime: Runtime, call: tuple[Flow[Any], bool | None, DurableCall | None], frame: Any, name: str
) -> Coroutine[Any, Any, Any]:
    """The coroutine of a call; one that is never awaited is named when the workflow's body ends."""
    return awaited_by(lambda: runtime.adrive(*call), frame, name)


def awaited_by(perform: Callable[[], Awaitable[Any]], frame: Any, name: str) -> Coroutine[Any, Any, Any]:
    """The same of whatever makes the call."""
    token = object()
    if isinstance(frame, WorkflowFrame):
        frame.unawaited[id(token)] = name

    async def run() -> Any:
        if isinstance(frame, WorkflowFrame):
            frame.unawaited.pop(id(token), None)
        return await perform()

    coroutine: Any = run()
    coroutine.__qualname__ = name  # what Python's own warning calls it
    return cast("Coroutine[Any, Any, Any]", coroutine)
