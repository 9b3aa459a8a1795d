"""Sagas: what was done is undone, in reverse, when the rest fails or is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import ParamSpec, Protocol

from dbdurable._executor.calls import require_own_thread
from dbdurable._executor.runtime import check_blocking, runtime_of
from dbdurable._executor.undo import Undo, aroll_back, roll_back, undo_of
from dbdurable._executor.where import body_frame
from dbdurable._protocol import frame as frames
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.undo import is_failure
from dbdurable.errors import WrongColour

P = ParamSpec("P")

__all__ = ["Saga", "asaga", "saga"]


class Saga(Protocol):
    """What `with saga() as s:` gives."""

    def undo(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Registers what undoes the work before it: like ExitStack.callback, in reverse, on failure and on cancel.

        `fn` is a step, a transaction, or a function (then it is recorded as a step); it is called once the block
        fails, and again until it returns. Only NonRetryable, or an error of its own `retry=` that is not to be
        tried again, makes it give up.

        Raises:
            BadArgument: It is no function, is a workflow, or does not take these arguments.
        """


class _Saga:
    def __init__(self, frame: WorkflowFrame) -> None:
        self._frame = frame
        self.undos: list[Undo] = []

    def undo(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """See `Saga.undo`."""
        self.undos.append(undo_of(runtime_of(self._frame), fn, args, kwargs))


@contextmanager
def saga() -> Iterator[Saga]:
    """A block that is undone when it fails or is cancelled: all that was registered runs in reverse, durably.

    Steps with `compensate=` in the block register themselves; outside of any saga the whole body is one. A block
    that ends well is done: what fails after it does not undo it. Compensations are not cut short by a cancel.

    Raises:
        NotInWorkflow: It was used outside of a workflow's body.
        UndoFailed: At the end of the block, when a compensation gave up; the others have run.

    Example:
        >>> with saga() as trip:                            # doctest: +SKIP
        ...     flight = book_flight(trip_id)
        ...     trip.undo(cancel_flight, flight)
        ...     hotel = book_hotel(trip_id)
        ...     trip.undo(cancel_hotel, hotel)
    """
    frame = _body("saga")
    check_blocking("saga()", "async with aio.saga()")
    require_own_thread(frame, "saga()")
    made = _Saga(frame)
    token = frames.saga.set((frame, made.undos))
    try:
        yield made
    except BaseException as error:
        if made.undos and is_failure(frame, error):
            roll_back(frame, made.undos, error)
        raise
    finally:
        frames.saga.reset(token)


@asynccontextmanager
async def asaga() -> AsyncIterator[Saga]:
    """The same for `async def` code; `dbdurable.aio.saga`."""
    frame = _body("aio.saga")
    if not frame.is_async:
        raise WrongColour(f"aio.saga() needs an `async def` workflow: in {frame.name} write `with saga()`")
    made = _Saga(frame)
    token = frames.saga.set((frame, made.undos))
    try:
        yield made
    except BaseException as error:
        if made.undos and is_failure(frame, error):
            await aroll_back(frame, made.undos, error)
        raise
    finally:
        with suppress(ValueError):  # closed by the garbage collector, after its loop has ended
            frames.saga.reset(token)


def _body(call: str) -> WorkflowFrame:
    instead = (
        ": nothing would be recorded there. Use it in the body of a workflow, or contextlib.ExitStack, which does "
        "not survive a crash"
    )
    return body_frame(f"{call}()", inside=instead, outside=instead)
