"""Time for tests: what waits comes nearer to its due time, one timer after the other.

The database's clock is left alone, since leases go by it, too: instead, everything that is due moves towards now,
and bodies are told a time that is ahead of the database's by what has passed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dbdurable._core.clock import Passed
from dbdurable._core.retry import duration_s
from dbdurable._executor.runtime import boottime
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.start import resend
from dbdurable._sql import testing as sql
from dbdurable._sql.statement import Statement
from dbdurable.errors import NotRunning, WaitTimeout

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

__all__ = ["advance", "amount_s"]

PATIENCE_S = 30.0
"""So long by the real clock the work of one moment may take."""

LOOK_S = 0.005


def amount_s(days: float, hours: float, seconds: float) -> float:
    """The three together, each checked."""
    in_s = duration_s(days, "days=") * 86400 + duration_s(hours, "hours=") * 3600 + duration_s(seconds, "seconds=")
    return duration_s(in_s, "the time to advance")


def advance(executors: Sequence[Executor], passed: Passed, left_s: float) -> None:
    """Lets so much time pass, from one due time to the next, and does what comes due at each."""
    if not executors:
        raise NotRunning(
            "advance() needs somebody to do what comes due: call it inside of `with harness.run(durable):`"
        )
    schemas = list({executor.runtime.settings.schema_name: executor for executor in executors}.values())
    _settle(executors)
    while left_s > 0:
        due_s = [row[0] for executor in schemas for row in _ask(executor, sql.NEXT_DUE) if row[0] is not None]
        step_s = min([left_s, *(max(0.0, s) for s in due_s)])
        when_us = max(_ask(executor, sql.LET_PASS, step_s)[0][0] for executor in schemas)
        passed.add(when_us, round(step_s * 1_000_000))
        left_s -= step_s
        _settle(executors)


def _settle(executors: Sequence[Executor]) -> None:
    """Waits until nothing more happens by itself: all is done, or waits for what is not due and not there."""
    end = boottime() + PATIENCE_S
    while left := [name for executor in executors for name in _unsettled(executor)]:
        if boottime() > end:
            raise WaitTimeout(
                f"advance() waits until nothing runs; after {PATIENCE_S:g} s there is still {', '.join(left)}"
            )
        for executor in executors:
            executor.control.timers.expect(boottime())
            executor.hint()
        threading.Event().wait(LOOK_S)


def _unsettled(executor: Executor) -> list[str]:
    # What runs here may not be in the database yet; what is not here any more has left its last ticket there.
    if running := executor.attempts.names():
        return running
    names = [definition.name for definition in executor.runtime.registry.runnable()]
    return [name for (name,) in _ask(executor, sql.UNSETTLED, executor.queues, names)]


def _ask(executor: Executor, statement: Statement, *parameters: Any) -> list[tuple[Any, ...]]:
    return list(SyncDriver(executor.runtime.database).run(resend(statement, *parameters)))
