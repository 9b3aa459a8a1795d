"""What is particular about compensations: when they run, and how loud they are where they fail."""

from __future__ import annotations

import asyncio
import logging

from dbdurable._core.control import Lost, Unwind
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.ownership import steadfast
from dbdurable._sql.workflow import NOTE_UNDO
from dbdurable.errors import Cancelled

logger = logging.getLogger("dbdurable")

ERROR_FROM = 4
"""From this failed attempt on a compensation is an ERROR in the log; before, a WARNING."""


def is_failure(frame: WorkflowFrame, error: BaseException, whole_body: bool = False) -> bool:
    """Whether `error` ends a block of a body by its failure or cancel: then it is undone.

    Not where only this attempt ends (the executor closes, the workflow waits, the caller has gone), and the
    workflow goes on elsewhere.
    """
    if frame.unwinding is not None or isinstance(error, Unwind | GeneratorExit | KeyboardInterrupt):
        return False
    if not isinstance(error, asyncio.CancelledError) or isinstance(error, Cancelled | Lost) or frame.root_cancelled:
        return True
    # A task of the body that the body itself has cancelled: the loser of a race.
    return not whole_body and frame.root is not None and not frame.root.cancelling()


def note_undo(this: DurableCall, attempts: int, reason: str, delay_s: float) -> Flow[None]:
    """A compensation has failed and will be tried again: in the log, and in the views until it works."""
    frame = this.frame
    level = logging.WARNING if attempts < ERROR_FROM else logging.ERROR
    logger.log(level, "workflow %s %s: %s; next try in %.0f s", frame.name, frame.id, reason, delay_s)
    yield from steadfast(NOTE_UNDO, frame.id, frame.lease.executor_id, frame.epoch, reason[:1000], frame=frame)
