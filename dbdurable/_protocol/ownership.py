"""Whose workflow it is: statements that outlast an outage, and what to do after a refusal."""

from __future__ import annotations

from random import Random
from typing import Any

from dbdurable._core.control import ConnectionLost, LeaseLost, Transient
from dbdurable._protocol.effects import Flow, Row, pause, query
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._sql.statement import Statement
from dbdurable._sql.workflow import OWNERSHIP

RERUN_DELAY_S_MAX = 2.0
"""Longest wait before something is sent again after a serialization failure or a lost connection."""

jitter = Random()  # noqa: S311  (spreads retries, guards nothing)


def steadfast(statement: Statement, *params: Any, frame: WorkflowFrame) -> Flow[list[Row]]:
    """An idempotent statement, sent again while the database is away and the lease is good."""
    yield from ensure_started(frame)
    return (yield from persist(frame, statement, *params))


def ensure_started(frame: WorkflowFrame) -> Flow[None]:
    """Writes the start of a direct call that no commit has carried yet: before anything else may exist."""
    if frame.pending is not None:
        yield from persist(frame, frame.pending.statement, *frame.pending.params)
        frame.pending = None


def persist(frame: WorkflowFrame, statement: Statement, *params: Any) -> Flow[list[Row]]:
    """The same without looking whether the workflow was started."""
    tries = 0
    while True:
        try:
            return (yield from query(statement, *params))
        except (ConnectionLost, Transient):
            check_lease(frame)
            tries += 1
            yield from pause(rerun_delay_s(tries))


def resync(frame: WorkflowFrame) -> Flow[None]:
    """After a refusal: adopts the new epoch when the workflow was cancelled under this executor.

    Calls that are under way keep the epoch under which they began: what they do in the database stays refused.

    Raises `LeaseLost` when somebody else decides by now (taken over, paused, finished).
    """
    rows = yield from steadfast(OWNERSHIP, frame.id, frame=frame)
    if rows:
        status, executor_id, epoch, interrupt = rows[0]
        # A cancel moves the epoch by one. Further on, it is another claim by this same executor.
        cancelled = epoch == frame.epoch + 1 or (epoch == frame.epoch and frame.interrupt is not None)
        if status == "running" and executor_id == frame.lease.executor_id and cancelled and interrupt is not None:
            frame.epoch, frame.interrupt, frame.adopted = epoch, interrupt, True
            return
        if status == "running" and (executor_id, epoch) == (frame.lease.executor_id, frame.epoch) and frame.interrupt:
            return  # another branch of this body has adopted it meanwhile
    raise frame.unwind(LeaseLost(f"workflow {frame.id} was taken over, paused or ended elsewhere"))


def check_lease(frame: WorkflowFrame) -> None:
    """Raises `LeaseLost` once the database has been away for longer than the lease."""
    if frame.lease.lost:
        raise frame.unwind(LeaseLost("the database was away for longer than the lease"))


def rerun_delay_s(tries: int) -> float:
    """How long to wait before the next try."""
    return min(RERUN_DELAY_S_MAX, 0.01 * 2.0 ** min(tries, 10)) * jitter.uniform(0.5, 1.0)
