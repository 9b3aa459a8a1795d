"""A workflow run where it is called: directly, or as the child of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dbdurable._core.clock import at
from dbdurable._core.control import Unwind
from dbdurable._core.journal import Journal, Record
from dbdurable._executor.definition import Definition
from dbdurable._executor.executor import Executor
from dbdurable._executor.runtime import boottime
from dbdurable._executor.timers import kept_waits
from dbdurable._protocol.child import RunChild
from dbdurable._protocol.effects import Flow, call
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.ownership import steadfast
from dbdurable._protocol.start import Start, result, start_here, unkeyed_start
from dbdurable._protocol.workflow import Outcome
from dbdurable._sql.start import ADOPT_CHILD
from dbdurable._sql.step import READ_JOURNAL
from dbdurable._sql.wait import READ_WAITS
from dbdurable.errors import DatabaseUnavailable, WorkflowBlocked, WorkflowCancelled
from dbdurable.types import Status


@dataclass(slots=True)
class Direct:
    """One direct call."""

    executor: Executor
    definition: Definition
    start: Start

    def flow(self) -> Flow[Any]:
        """Starts it here, runs it, and answers with its outcome; waits for it where it goes on elsewhere."""
        attempts, lease = self.executor.attempts, self.executor.lease
        batch = attempts.next_batch()
        began_us = self.executor.runtime.database.clock_us()
        start = self.start
        frame = WorkflowFrame(
            id=start.id,
            name=self.definition.name,
            key=start.key,
            epoch=1,
            attempt=1,
            lease=lease,
            journal=Journal(),
            is_async=self.definition.is_async,
            runtime=self.executor.runtime,
            deadline=None if start.timeout_s is None else at(began_us + round(start.timeout_s * 1_000_000)),
            now_us=began_us,
        )
        holder, ended = frame.id, False
        attempts.add(frame, batch, claimed=False)
        try:
            if start.key is None and start.minted:
                found, frame.pending = None, unkeyed_start(start, lease.executor_id, batch, began_us)
            else:
                found = yield from start_here(start, lease.executor_id, batch, began_us)
            if found is None:
                outcome = yield from attempts.flow(self.definition, frame, start.input)
                ended = True
                if outcome.status is not None:
                    return value_of(frame, outcome)
                if outcome.error is not None:
                    raise outcome.error  # the caller was interrupted; the workflow went back to its queue
                if frame.pending is not None:
                    raise DatabaseUnavailable(
                        f"the database was away for longer than the lease: as far as is known here, workflow "
                        f"{frame.name} {frame.id} was not started"
                    )
            else:
                holder, ended = found, True
        finally:
            attempts.remove(frame, claimed=False, ended=ended)
        waiter = self.executor.runtime.waiters.begin(holder)
        try:
            return (yield from result(holder, self.definition.result, None, boottime, _silent, waiter))
        finally:
            self.executor.runtime.waiters.leave(holder, waiter)


def run_child(executor: Executor, definition: Definition, parent: WorkflowFrame, id: UUID) -> Flow[bool]:
    """Takes over a child that is queued and runs it inside its parent's call; whether it was there to take."""
    attempts, lease = executor.attempts, parent.lease
    batch = attempts.next_batch()
    rows = yield from steadfast(ADOPT_CHILD, id, lease.executor_id, batch, frame=parent)
    if not rows:
        return False
    epoch, attempt, interrupt, input, key, deadline, began_us = rows[0]
    records, waits = [], []
    if epoch > 1:  # else it has never run, nor been cancelled, resumed or handed back
        records = yield from steadfast(READ_JOURNAL, id, frame=parent)
        waits = yield from steadfast(READ_WAITS, id, frame=parent)
    frame = WorkflowFrame(
        id=id,
        name=definition.name,
        key=key,
        epoch=epoch,
        attempt=attempt,
        lease=lease,
        journal=Journal(Record(*record) for record in records),
        is_async=definition.is_async,
        runtime=executor.runtime,
        deadline=deadline,
        interrupt=interrupt,
        now_us=began_us,
        kept=kept_waits(((id, *wait) for wait in waits), lease.now()).get(id, {}),
    )
    ended = False
    attempts.add(frame, batch, claimed=False)
    try:
        outcome = yield from attempts.flow(definition, frame, input)
        ended = outcome.status is not None
    finally:
        attempts.remove(frame, claimed=False, ended=ended)
    if outcome.status is None and outcome.error is not None:
        raise outcome.error
    return True


def runner(executor: Executor, definition: Definition, parent: WorkflowFrame) -> RunChild:
    """How a body runs a child while it waits for it: the wait has the body's colour, the child its own."""

    def run(id: UUID) -> Flow[bool]:
        return run_child(executor, definition, parent, id)

    if definition.is_async is parent.is_async:
        return run
    cross: Callable[..., Any] = executor.runtime.adrive if parent.is_async else executor.runtime.drive
    return lambda id: call(lambda: cross(run(id), definition.is_async), None, definition.name)


def value_of(frame: WorkflowFrame, outcome: Outcome) -> Any:
    """What a direct caller gets: the value, or the error with a note on where it was raised."""
    error = outcome.error
    if outcome.status == Status.SUCCEEDED:
        return outcome.value
    if outcome.status == Status.CANCELLED:
        raise WorkflowCancelled(f"workflow {frame.name} {frame.id} was cancelled: {error}")
    if isinstance(error, Unwind):
        raise WorkflowBlocked(f"workflow {frame.name} {frame.id} is blocked: {error}")
    assert error is not None
    error.add_note(f"raised in workflow {frame.name} {frame.id}")
    raise error


def _silent(_: str) -> None:
    pass
