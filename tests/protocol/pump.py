"""A driver made by hand: it gives each effect of a flow the answer that the test has written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import Unwind
from dbdurable._core.journal import Journal, Record
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Call, Effect, Flight, Flow, Query
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.lease import Lease
from dbdurable._sql.statement import Statement
from dbdurable.types import Retry

WORKFLOW, ME, OTHER = UUID(int=7), UUID(int=1), UUID(int=2)
EPOCH = 3

Turn = tuple[Any, Any]
"""What is expected (an effect's type, or the statement of a query) and the answer; an exception is thrown."""

RUN = object()
"""The answer is whatever the user's function returns or raises."""


def play(flow: Flow[Any], *turns: Turn) -> Any:
    """Drives `flow` through exactly these turns: what it returns, or raises."""
    expected = iter(turns)
    try:
        effect = next(flow)
        while True:
            wanted, answer = next(expected, (None, None))
            assert wanted is not None, f"an effect more than expected: {effect}"
            assert _is(effect, wanted), f"{effect} instead of {wanted}"
            try:
                if answer is RUN:
                    assert isinstance(effect, Call)
                    answer = effect.function()
                elif isinstance(answer, BaseException):
                    raise answer
            except BaseException as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(answer)
    except StopIteration as stop:
        left = list(expected)
        assert not left, f"ended before {left}"
        return stop.value


def _is(effect: Effect, wanted: Any) -> bool:
    if isinstance(wanted, Statement):
        return isinstance(effect, Query) and effect.statement is wanted
    if isinstance(wanted, tuple):
        return isinstance(effect, Flight) and tuple(query.statement for query in effect.queries) == wanted
    return type(effect) is wanted


class Clock:
    """A lease's clock, moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def frame_of(*records: Record, clock: Callable[[], float] | None = None, interrupt: str | None = None) -> WorkflowFrame:
    """An attempt of a workflow with that journal."""
    return WorkflowFrame(
        id=WORKFLOW,
        name="checkout",
        key=None,
        epoch=EPOCH,
        attempt=1,
        lease=Lease(ME, 15.0, clock or Clock()),
        journal=Journal(records),
        is_async=False,
        interrupt=interrupt,
    )


def call_of(
    frame: WorkflowFrame,
    fn: Callable[..., Any],
    kind: str = "step",
    *,
    name: str = "reserve",
    path: str = "1",
    retry: Retry | None = None,
    returns: Any = Any,
) -> DurableCall:
    """A call of a step or transaction in that frame."""
    return DurableCall(
        frame=frame,
        path=path,
        kind=kind,
        name=name,
        run=fn,
        codec=ValueCodec.for_annotation(returns, "the result"),
        retry=retry or Retry(1),
    )


def recorded(output: str | None = None, error: str | None = None, **other: Any) -> Record:
    """A record of the journal."""
    values: dict[str, Any] = {"path": "1", "seq": 1, "kind": "step", "name": "reserve", **other}
    return Record(output=output, error=error, **values)


def raises_again(frame: WorkflowFrame, flows: Iterable[Flow[Any]]) -> bool:
    """Whether every further durable call of the attempt raises the reason why it is over, and does nothing."""
    for flow in flows:
        try:
            play(flow)
        except Unwind as reason:
            assert reason is frame.unwinding
        else:
            return False
    return True
