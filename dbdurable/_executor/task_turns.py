"""Turns of the tasks of an `async def` body.

The next outcome is released when the body has come to rest: no callback of its tasks is left on the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from dbdurable._core.path import Line
from dbdurable._executor.turns import Turns
from dbdurable._io.to_the_end import to_the_end
from dbdurable._protocol.call import DurableCall, leave, was_left
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame, current
from dbdurable._protocol.ownership import ensure_started
from dbdurable.errors import Cancelled

R = TypeVar("R")

ROUNDS_MAX = 1000
"""Rounds of the loop after which a body that never rests (it polls) is taken to rest."""
ROUNDS_BLIND = 20
"""Rounds given to a body on a loop that does not show what is left on it: more than its callbacks are deep."""

LEFT_LOOK_S = 60.0
"""How often somebody is told of a call that should have been cancelled by now."""

logger = logging.getLogger("dbdurable")

Perform = Callable[[Flow[Any]], Coroutine[Any, Any, Any]]


class Turn:
    """One call that waits: for its turn to be seen, or to begin."""

    __slots__ = ("future", "gone")

    def __init__(self) -> None:
        self.gone = False
        self.future: asyncio.Future[None] | None = None


class TaskTurns(Turns[Turn]):
    """All its methods but `look`, `next_seq` and `give_up` are called on the body's loop."""

    def __init__(self, frame: WorkflowFrame, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(frame)
        self._loop = loop
        self._outside = contextvars.Context()
        self._gate: list[Turn] = []
        self._seen_by: Turn | None = None
        self._posted = False
        self._rounds = 0
        self._start = asyncio.Lock()

    @property
    def parallel(self) -> bool:
        """Whether there is any other branch now."""
        return bool(self.frame.branches)

    # -- one durable call of the body ------------------------------------------------------------------

    async def run(self, this: DurableCall, drive: Callable[[], Awaitable[R]], perform: Perform) -> R:
        """Makes the call; what comes of it is returned or raised in its turn.

        `drive` runs its protocol; `perform` runs any other one outside of the body.
        """
        if self.frame.unwinding is not None:
            raise self.frame.unwinding
        hear(self.frame, this.line)
        record = self.recorded(this)
        if record is None:
            return await self._live(this, drive, perform)
        try:
            if was_left(record):
                await self._until_left(this)
            turn = await self._wait(record.seq)
        except asyncio.CancelledError:
            self.frame.journal.leave(this.path)
            raise
        try:
            return await drive()
        except Cancelled:
            note_told(self.frame)
            raise
        finally:
            self._seen(turn)

    async def _live(self, this: DurableCall, drive: Callable[[], Awaitable[R]], perform: Perform) -> R:
        try:
            if not self.past_history:
                await self._begin()
            if self.frame.pending is not None:
                async with self._start:
                    await perform(ensure_started(self.frame))
            this.turns = self
            try:
                value = await drive()
            except asyncio.CancelledError as stop:
                if not isinstance(stop, Cancelled) or this.seq is None:
                    raise
                await self._seen_in_turn(this)
                note_told(self.frame)
                raise
            except Exception:
                await self._seen_in_turn(this)
                raise
            await self._seen_in_turn(this)
            return value
        except asyncio.CancelledError as stop:
            self.drop(this)
            self.frame.journal.leave(this.path)
            if not isinstance(stop, Cancelled) and self._by_the_body():
                await self._record_leaving(this, perform)
            raise
        finally:
            self.drop(this)
            if self.frame.unwinding is not None:
                self._end(self.frame.unwinding)
            self._look()

    async def _until_left(self, this: DurableCall) -> None:
        """The body cancelled this call before: it goes on when it does so again, as nothing else was seen then."""
        while True:
            await asyncio.sleep(LEFT_LOOK_S)
            logger.warning(
                "workflow %s %s waits at path %s: its history says that it cancelled %s %s there, and it has not yet. "
                "Was the code changed?",
                *(self.frame.name, self.frame.id, this.path, this.kind, this.name),
            )

    def _by_the_body(self) -> bool:
        """Whether a branch was cancelled by the body, not with it."""
        frame, root = self.frame, self.frame.root
        over = frame.unwinding is not None or frame.ended or frame.interrupt is not None
        return not over and root is not None and not root.cancelling() and frame.lease.reason_to_stop() is None

    async def _record_leaving(self, this: DurableCall, perform: Perform) -> None:
        """However often the branch is cancelled meanwhile: what it has seen has to be a row."""
        this.seq = None
        token = current.set(None)
        try:
            await to_the_end(perform(leave(this)))
        except Exception as error:
            self._loop.call_exception_handler({"message": "a cancelled branch", "exception": error})
        finally:
            current.reset(token)

    def pass_cancel_on(self) -> None:
        """Cancels the body's own task once all who have seen the cancel have ended, and nobody is in a shield.

        A cancel is for the whole body: a branch would keep it to itself, in a TaskGroup for one. Those who have
        seen it clean up first: whoever is cancelled with the body then would be so once more.
        """
        frame = self.frame
        for task, made in frame.joining.items():
            if all(each.done() for each in made) and any(each in frame.told and each.cancelled() for each in made):
                frame.told.add(task)  # it goes on with that
        busy = frame.shields or not all(task.done() for task in frame.told)
        if frame.told and not (busy or frame.root_cancelled or frame.ended) and frame.unwinding is None:
            frame.root_cancelled = True
            frame.root.cancel()

    # -- waiting ---------------------------------------------------------------------------------------

    async def _seen_in_turn(self, this: DurableCall) -> None:
        if this.seq is not None:
            self._seen(await self._wait(this.seq))

    async def _wait(self, seq: int) -> Turn:
        """Until the outcome at this position may be seen; say `_seen` when it is."""
        turn = Turn()
        with self.lock:
            self.order.wait(seq, turn)
            mine = self._seen_by is None and self.order.first() is turn and self._at_rest()
            if mine:
                self.order.pop()
        if mine:
            self._seen_by = turn
            return turn
        await self._sleep(turn)
        return turn

    async def _begin(self) -> None:
        """Until all that is recorded, and asked for, has been seen."""
        turn = Turn()
        self._gate.append(turn)
        await self._sleep(turn)

    async def _sleep(self, turn: Turn) -> None:
        turn.future = self._loop.create_future()
        self._look()
        try:
            await turn.future
        except BaseException:
            turn.gone = True
            self._seen(turn)
            raise

    def _seen(self, turn: Turn) -> None:
        if self._seen_by is turn:
            self._seen_by = None
        self._look()

    def _end(self, reason: BaseException) -> None:
        """The attempt is over: whoever waits hears of it."""
        with self.lock:
            left = self.order.clear() + self._gate
        self._gate = []
        for turn in left:
            if turn.future is not None and not turn.future.done():
                turn.future.set_exception(reason)

    # -- whose turn it is ------------------------------------------------------------------------------

    def look(self) -> None:
        """Something has changed; called on any thread."""
        self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if self._posted or self._seen_by is not None:
            return
        with self.lock:
            somebody = self.order.first() is not None or bool(self._gate)
        if somebody:
            self._posted = True
            self._loop.call_soon(self._go_on, context=self._outside)

    def _go_on(self) -> None:
        self._posted = False
        if self._seen_by is not None:
            return
        if not self._at_rest() and self._rounds < ROUNDS_MAX:
            self._rounds += 1
            self._look()
            return
        self._rounds = 0
        with self.lock:
            turn = self.order.pop()
        if turn is not None:
            self._seen_by = turn
            _wake(turn)
        elif self._gate:
            self.past_history = True
            gate, self._gate = self._gate, []
            for turn in gate:
                _wake(turn)

    def _at_rest(self) -> bool:
        """Whether nothing of the body is left to run before another outcome is seen."""
        ready = getattr(self._loop, "_ready", None)
        if ready is None:
            return self._rounds >= ROUNDS_BLIND
        frame = self.frame
        return not any(handle._context.get(current) is frame for handle in ready if not handle._cancelled)


def note_told(frame: WorkflowFrame) -> None:
    """This task has seen the cancel of the workflow."""
    frame.told.add(asyncio.current_task())


def hear(frame: WorkflowFrame, line: Line) -> None:
    """A task to which the cancel was passed on cleans up from now on."""
    task = asyncio.current_task()
    if frame.root_cancelled and task is not None and task.cancelling():
        line.heard = True


def _wake(turn: Turn) -> None:
    if turn.future is not None and not turn.future.done():
        turn.future.set_result(None)
