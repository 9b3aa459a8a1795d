"""Between two attempts of a step: a short while is spent in memory, a long one parked.

What is parked holds no slot and no connection; how often it was tried is kept with it, so that neither a crash nor a
deploy starts the count anew.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from dbdurable._core.failure import summary
from dbdurable._core.journal import Record
from dbdurable._core.limits import attempts_max
from dbdurable._core.retry import next_delay_s
from dbdurable._protocol.call import DurableCall, may_begin
from dbdurable._protocol.effects import Flow, pause
from dbdurable._protocol.ownership import jitter, rerun_delay_s
from dbdurable._protocol.undo import note_undo
from dbdurable._protocol.wait import await_
from dbdurable.errors import BadArgument, NotInTransaction, NotInWorkflow, WrongColour

logger = logging.getLogger("dbdurable")

_MISTAKES: Final = (BadArgument, NotInTransaction, NotInWorkflow, WrongColour)
_REASON_CHARS_MAX: Final = 300
"""Of what views show of the last error; it stands in an index."""


def next_attempt(attempts: int) -> int:
    """The number of the attempt behind so many."""
    return min(attempts + 1, attempts_max)


class Again(NamedTuple):
    """A call that has failed and is to be made again."""

    attempts: int
    """How often it was made."""
    delay_s: float
    reason: str


def again_after(this: DurableCall, attempts: int, error: Exception) -> Again | None:
    """When to make the call again; never after errors that only another text of the program mends."""
    if isinstance(error, _MISTAKES):
        return None
    delay_s = next_delay_s(this.retry, attempts, error, jitter)
    if delay_s is None:
        return None
    times = "once" if attempts == 1 else f"{attempts} times, last"
    what = this.undoes or f"{this.kind} {this.name}"
    return Again(attempts, delay_s, f"{what} failed {times} with {summary(error)}")


def attempts_before(this: DurableCall) -> Flow[tuple[int, Record | None]]:
    """How often the call was made before its workflow was parked, once that wait is over.

    Or the record of the call, where somebody else wrote one meanwhile.
    """
    kept = this.frame.kept.get(this.path)
    if kept is None or not kept.attempts:
        return 0, None
    return kept.attempts, (yield from _await(this, Again(kept.attempts, 0.0, "")))


def wait_for_next(this: DurableCall, again: Again) -> Flow[Record | None]:
    """Waits until the next attempt; the record of the call, where somebody else wrote one meanwhile."""
    if this.undoes is None:
        logger.info(
            "workflow %s %s: %s; next try in %.1f s", this.frame.name, this.frame.id, again.reason, again.delay_s
        )
    else:
        yield from note_undo(this, again.attempts, again.reason, again.delay_s)
    if again.delay_s > this.frame.park_after_s:
        return (yield from _await(this, again))
    return (yield from _nap(this, again.delay_s))


def wait_for_rerun(this: DurableCall, reruns: int) -> Flow[Record | None]:
    """The same where nothing was committed and nothing was the step's fault: no attempt is charged."""
    return (yield from _nap(this, rerun_delay_s(reruns)))


def _await(this: DurableCall, again: Again) -> Flow[Record | None]:
    reason = again.reason[:_REASON_CHARS_MAX]
    return (yield from await_(this, "retry", reason, again.delay_s, attempts=again.attempts))


def _nap(this: DurableCall, delay_s: float) -> Flow[Record | None]:
    """In memory; what ends the call, or the attempt of its workflow, ends it early."""

    def over() -> bool:
        return this.left or (this.frame.interrupt is not None and this.in_flight is not None)

    yield from pause(delay_s, over=over)
    return (yield from may_begin(this))
