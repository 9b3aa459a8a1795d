"""One claimed attempt: its body on a thread or a task, then its outcome, for which neither of them waits."""

from __future__ import annotations

import logging
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from dbdurable._core.control import Unwind
from dbdurable._io.drive import SyncDriver, sync_riders
from dbdurable._io.drive_async import AsyncDriver, async_riders
from dbdurable._io.riders import Answered
from dbdurable._io.tail import LEFT, Tail
from dbdurable._protocol.effects import Effect, Flow, Query
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.workflow import Outcome

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

logger = logging.getLogger("dbdurable")


class Run(Tail[Outcome]):
    """What both colours share: the attempt is forgotten, and its slot free, behind its outcome at the latest."""

    __slots__ = ("_database", "_executor", "_frame")

    def __init__(self, executor: Executor, frame: WorkflowFrame, flow: Flow[Outcome]) -> None:
        super().__init__(flow)
        self._executor = executor
        self._database = executor.runtime.database
        self._frame = frame

    def leave(self, effect: Query) -> None:
        """No code of the user's runs any more, and this is the first that is left to be written."""
        self._go_on(effect)

    def _done(self, outcome: Outcome | BaseException) -> None:
        ended = isinstance(outcome, Outcome) and outcome.status is not None
        try:
            report(self._frame, outcome)
        finally:
            self._executor.attempts.remove(self._frame, claimed=True, ended=ended)
            self._executor.control.ended(self._frame)


class ThreadRun(Run):
    """Of a `def` body. Its slot is its thread, and free behind the body.

    A task's is not: its loop has too much to do to claim meanwhile, and more slots cost it nothing.
    """

    __slots__ = ()

    def leave(self, effect: Query) -> None:
        """The thread goes on to another body."""
        self._executor.attempts.give_slot_back(self._frame)
        self._executor.control.freed(self._frame)
        super().leave(effect)

    def run(self, asked: Effect | None = None) -> None:
        """To the end of the body; or to the end of the attempt, from what it has asked for."""
        outcome: Outcome | BaseException
        try:
            driver = SyncDriver(self._database, self._executor.stopping)
            outcome = driver.run(self._flow, self.leave if asked is None else None, asked)
        except BaseException as error:
            outcome = error
        if outcome is not LEFT:
            self._done(outcome)

    def _ride_on(self, item: Query, answered: Answered) -> None:
        sync_riders(self._database).ride_on(item, answered)

    def _resume(self, effect: Effect) -> None:
        self._executor.end_threads.begin(partial(self.run, effect))


class TaskRun(Run):
    """Of an `async def` body."""

    __slots__ = ()

    async def run(self, asked: Effect | None = None) -> None:
        """To the end of the body; or to the end of the attempt, from what it has asked for."""
        outcome: Outcome | BaseException
        try:
            driver = AsyncDriver(self._database, self._executor.stopping)
            outcome = await driver.run(self._flow, self.leave if asked is None else None, asked)
        except GeneratorExit as ended:  # its loop has ended: recovery goes on with it
            self._done(ended)
            raise
        except BaseException as error:
            outcome = error
        if outcome is not LEFT:
            self._done(outcome)

    def _ride_on(self, item: Query, answered: Answered) -> None:
        async_riders(self._database).ride_on(item, answered)

    def _resume(self, effect: Effect) -> None:
        # In a context of its own: it is no branch of the workflow whose answer came in just now.
        self._executor.attempts.keep(self._executor.loop.create_task(self.run(effect), context=Context()))


def report(frame: WorkflowFrame, outcome: Outcome | BaseException) -> None:
    """Logs what did not go well."""
    if isinstance(outcome, GeneratorExit):
        return
    if isinstance(outcome, BaseException):
        text = "workflow %s %s: the executor failed; it will be handed back"
        logger.error(text, frame.name, frame.id, exc_info=outcome)
    elif outcome.error is not None and not isinstance(outcome.error, Unwind):
        status = outcome.status or "goes on elsewhere"
        logger.warning("workflow %s %s %s: %s", frame.name, frame.id, status, type(outcome.error).__name__)
    elif outcome.error is not None:
        logger.warning("workflow %s %s %s: %s", frame.name, frame.id, outcome.status, outcome.error)
