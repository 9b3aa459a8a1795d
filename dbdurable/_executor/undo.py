"""Compensations: registered as a body goes on, run in reverse when it fails or is cancelled.

Each is a durable call like any other, at a place of its own: a crash in the middle, and another process goes on.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbdurable._core.codec import ValueCodec
from dbdurable._core.failure import mask
from dbdurable._core.ids import step_key
from dbdurable._core.show import shown
from dbdurable._executor.calls import Invocation, durable_call, flow_of
from dbdurable._executor.definition import Definition
from dbdurable._executor.runtime import Runtime
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame, holding_off, undos_here
from dbdurable._protocol.ownership import steadfast
from dbdurable._sql.workflow import CLEAR_UNDO
from dbdurable.errors import BadArgument, StepTimeout, UndoFailed
from dbdurable.types import Retry

Placed = tuple[Flow[Any], bool | None, DurableCall]


class _Nothing(ValueCodec):
    """What a compensation returns is nobody's."""

    def settle(self, value: Any, what: str) -> tuple[str, Any]:
        return "null", None


_NOTHING = _Nothing()


@dataclass(frozen=True, eq=False)
class Undo:
    """One compensation, not run yet."""

    call: Invocation

    def __str__(self) -> str:
        _, definition, args, kwargs, *_ = self.call
        inside = [shown(arg) for arg in args] + [f"{name}={shown(arg)}" for name, arg in kwargs.items()]
        return f"{definition.name}({', '.join(inside)})"

    def placed(self, frame: WorkflowFrame) -> Placed:
        """Takes its place in the workflow: now, after all that was done before."""
        this = durable_call(self.call, frame)
        # Whatever the policy says about attempts: what was done has to be undone.
        this.retry = this.retry._replace(max_attempts=None)
        this.undoes = f"compensation {this.name}"
        this.codec = _NOTHING
        return flow_of(this), self.call.definition.is_async, this


def undo_of(runtime: Runtime, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Undo:
    """A compensation from what a user gave: a step, a transaction, or a plain function. Raises BadArgument."""
    if isinstance(target, type) or not callable(target):
        raise BadArgument(
            f"a compensation is a step, a transaction or a function, not {shown(target)}: write "
            "`s.undo(refund, receipt)`, without calling it"
        )
    definition = getattr(target, "definition", None)
    if isinstance(definition, Definition):
        if definition.kind == "workflow":
            raise BadArgument(
                f"workflow {definition.name} as a compensation: one that has failed could not be tried again. Pass "
                f"a step that starts it, or its steps one by one"
            )
        if target.self_ is not None:
            args = (target.self_, *args)
        definition.arguments.bind(args[int(definition.method) :], kwargs)
        return Undo(Invocation(runtime, definition, args, kwargs, target.carried))
    try:
        inspect.signature(target).bind(*args, **kwargs)
    except TypeError as error:
        raise BadArgument(f"compensation {_name(target)}: {error}") from None
    except ValueError:
        pass  # a builtin that does not tell
    return Undo(Invocation(runtime, _plain(target), args, kwargs, {}))


def check_compensation(step: Definition, target: Any) -> None:
    """Raises BadArgument where a step's compensation cannot be called with its result and its arguments."""
    args: list[Any] = [None]
    kwargs: dict[str, Any] = {}
    for parameter in inspect.signature(step.fn).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            args.append(None)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = None
    undo_of(Runtime(), target, tuple(args), kwargs)


def _plain(function: Callable[..., Any]) -> Definition:
    is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
    made = Definition(
        name=_name(function), kind="step", fn=function, is_async=is_async, method=False, retry=Retry(None)
    )
    made.__dict__["hints"] = {}  # what it returns is nobody's
    return made


def _name(function: Any) -> str:
    name = str(getattr(function, "__name__", ""))
    return name if name.isidentifier() else "undo"


# ---- running them --------------------------------------------------------------------------------------------


def roll_back(frame: WorkflowFrame, undos: list[Undo], ended: BaseException) -> None:
    """Runs and forgets them, the last one first. Raises UndoFailed where one gave up, after all have run."""
    failed, many = [], len(undos)
    with holding_off(frame):
        while undos:
            undo = undos.pop()
            try:
                frame.runtime.drive(*undo.placed(frame))
            except Exception as error:
                failed.append(_not_undone(undo, error))
        frame.runtime.drive(steadfast(CLEAR_UNDO, frame.id, frame=frame))
    _raise_failed(frame, failed, many, ended)


async def aroll_back(frame: WorkflowFrame, undos: list[Undo], ended: BaseException) -> None:
    """The same for `async def` bodies."""
    failed, many = [], len(undos)
    with holding_off(frame):
        while undos:
            undo = undos.pop()
            try:
                await frame.runtime.adrive(*undo.placed(frame))
            except Exception as error:
                failed.append(_not_undone(undo, error))
        await frame.runtime.adrive(steadfast(CLEAR_UNDO, frame.id, frame=frame))
    _raise_failed(frame, failed, many, ended)


def _not_undone(undo: Undo, error: Exception) -> str:
    return mask(f"{undo}: {type(error).__name__}: {error}")


def _raise_failed(frame: WorkflowFrame, failed: list[str], many: int, ended: BaseException) -> None:
    if failed:
        raise UndoFailed(
            f"workflow {frame.name} {frame.id}: {len(failed)} of {many} compensations gave up, the others ran. "
            f"Undo by hand: {'; '.join(failed)}"
        ) from ended


# ---- steps with compensate= ----------------------------------------------------------------------------------


def run_compensated(call: Invocation, placed: Placed) -> Any:
    """The call of a step that has a compensation; it is registered when the body sees the outcome."""
    _, _, this = placed
    try:
        value = call.runtime.drive(*placed)
    except (asyncio.CancelledError, StepTimeout):
        register(call, this, None)  # cut off: it may have done its work
        raise
    register(call, this, value)
    return value


async def arun_compensated(call: Invocation, placed: Placed) -> Any:
    """The same for `async def` bodies."""
    _, _, this = placed
    try:
        value = await call.runtime.adrive(*placed)
    except (asyncio.CancelledError, StepTimeout):
        register(call, this, None)
        raise
    register(call, this, value)
    return value


def register(call: Invocation, this: DurableCall, value: Any) -> None:
    """Adds what undoes a step that has returned `value`, or that was cut off."""
    frame = this.frame
    bound = inspect.signature(call.definition.fn).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    undo = undo_of(call.runtime, call.definition.compensate, (value, *bound.args), bound.kwargs)
    undos_here(frame).append(Undo(undo.call._replace(undoes=step_key(frame.id, this.path))))


def run_alone(
    runtime: Runtime, definition: Definition, frame: WorkflowFrame, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The body of a one-step workflow whose step has a compensation."""
    call = Invocation(runtime, definition, args, kwargs, {})
    this = durable_call(call, frame)
    placed = (flow_of(this), definition.is_async, this)
    return arun_compensated(call, placed) if definition.is_async else run_compensated(call, placed)
