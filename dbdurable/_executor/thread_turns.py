"""Turns of the threads that run the branches of a `def` body.

One thread of a body has the turn; the others wait, or are in a durable call: those run side by side.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dbdurable._core.control import Lost, Suspend
from dbdurable._core.path import Line
from dbdurable._executor.turns import Turns
from dbdurable._protocol.call import UNNEEDED, WAITS, DurableCall
from dbdurable._protocol.frame import WorkflowFrame, branch
from dbdurable._protocol.ownership import ensure_started
from dbdurable.errors import Cancelled

R = TypeVar("R")

PATIENCE_S = 1.0
"""How long the others wait for a branch that has the turn and makes no durable call: it may wait for them."""


class Turn:
    """One wait of a thread for the turn."""

    __slots__ = ("gone", "granted")

    def __init__(self) -> None:
        self.gone = False
        self.granted = threading.Event()

    def moved(self) -> Turn:
        """The same wait, for another queue."""
        again = Turn()
        self.gone, again.granted = True, self.granted
        return again


@dataclass(eq=False)
class Branch:
    """A thread of the body, and what came of it."""

    line: Line | None = None
    value: Any = None
    error: BaseException | None = None
    ended: bool = False
    ended_as: int = 0
    """The how-manieth of all branches it was to end."""
    unneeded: bool = False
    """Whether its next durable call has to raise `Lost`; once."""
    turn: Turn | None = None
    """What it waits for now."""
    call: DurableCall | None = None
    """The durable call that it is in."""


@dataclass(eq=False)
class Join:
    """A branch that waits for others of its own making."""

    branch: Branch
    turn: Turn
    until: Callable[[], bool]


@dataclass(eq=False)
class _Here(threading.local):
    branch: Branch | None = field(default=None)


class ThreadTurns(Turns[Turn]):
    """Thread-safe. Made by the body's own thread, which has the turn."""

    def __init__(self, frame: WorkflowFrame) -> None:
        super().__init__(frame)
        self._ready: deque[Turn] = deque()
        self._gate: list[Turn] = []
        self._joins: list[Join] = []
        self._alive: set[Branch] = set()
        self._ended = 0
        self._holders = 1
        self._moves = 0
        self._here = _Here()
        self._here.branch = Branch()

    @property
    def parallel(self) -> bool:
        """Whether there is any other branch now."""
        return bool(self._alive)

    # -- one durable call of the body ------------------------------------------------------------------

    def run(self, this: DurableCall, drive: Callable[[], R], perform: Callable[[Any], Any]) -> R:
        """Makes the call; what comes of it is returned or raised in its turn."""
        me = self._me()
        self._may_go_on(me, this)
        record = self.recorded(this)
        if record is not None:
            self._pass(me, lambda turn: self.order.wait(record.seq, turn), this)
            return drive()
        if not self.past_history:
            self._pass(me, self._gate.append, this)
        if self.frame.pending is not None:  # with the turn: nobody else looks at it now
            perform(ensure_started(self.frame))
        this.turns = self
        with self.lock:
            me.call = this
            self._leave()
        try:
            value = drive()
        except (Exception, Cancelled):
            self._return(me, this)
            raise
        except BaseException as error:
            if isinstance(error, Lost):
                me.unneeded = False
            self._return(me, this, in_order=False)
            raise
        self._return(me, this)
        return value

    def _return(self, me: Branch, this: DurableCall, in_order: bool = True) -> None:
        """Takes the turn again when the outcome of the call may be seen."""
        with self.lock:
            me.call = None
            if self.frame.unwinding is not None:
                self._end()
        if in_order and this.seq is not None and self.frame.unwinding is None:
            self._pass(me, lambda turn: self.order.wait(this.seq or 0, turn), this, leave=False)
        else:
            self.drop(this)
            self._pass(me, self._ready.append, this if in_order else None, leave=False)

    def _pass(self, me: Branch, queue: Callable[[Turn], None], this: DurableCall | None, leave: bool = True) -> None:
        """Gives up the turn and waits, in that queue, until it is this branch's again."""
        turn = Turn()
        with self.lock:
            me.turn = turn
            (self._ready.append if me.unneeded else queue)(turn)
            if leave:
                self._leave()
            elif not self._holders:
                self._next()
        self._sleep(turn)
        me.turn = None
        if this is not None:
            self._may_go_on(me, this)

    def _sleep(self, turn: Turn) -> None:
        seen = self._moves
        while not turn.granted.wait(PATIENCE_S):
            with self.lock:
                if self._moves == seen and self._holders:
                    self._next()
                seen = self._moves

    def _may_go_on(self, me: Branch, this: DurableCall) -> None:
        if self.frame.unwinding is not None:
            raise self.frame.unwinding
        if me.unneeded:
            me.unneeded = False
            self.drop(this)
            self.frame.journal.leave(this.path)
            raise Lost(UNNEEDED)

    # -- branches --------------------------------------------------------------------------------------

    def spawn(self, pool: Any, line: Line | None, function: Callable[[], Any]) -> Branch:
        """A branch that begins after those that were made before it, when its maker waits."""
        made, turn = Branch(line=line), Turn()
        made.turn = turn
        context = contextvars.copy_context()
        if line is not None:
            context.run(branch.set, (self.frame, line))
        with self.lock:
            self._alive.add(made)
            self._ready.append(turn)
        pool.submit(self._run_branch, made, turn, context, function)
        return made

    def _run_branch(self, made: Branch, turn: Turn, context: contextvars.Context, function: Callable[[], Any]) -> None:
        self._here.branch = made
        self._sleep(turn)
        made.turn = None
        try:
            if made.unneeded:
                raise Lost(UNNEEDED)
            made.value = context.run(_claimed, made.line, function)
            if made.line is not None and made.line.suspended:  # it swallowed that
                raise Suspend(WAITS)
        except BaseException as error:
            made.error = error
        finally:
            self._here.branch = None
            with self.lock:
                self._ended += 1
                made.ended, made.ended_as = True, self._ended
                self._alive.discard(made)
                if isinstance(made.error, Lost) and made.line is not None:
                    self.frame.journal.leave(made.line.prefix)
                self._wake_joins()
                self._leave()

    def join(self, until: Callable[[], bool]) -> None:
        """Waits until `until()`, which is looked at whenever a branch has ended. Raises Lost where nobody needs it."""
        me, turn = self._me(), Turn()
        with self.lock:
            if until():
                return
            me.turn = turn
            self._joins.append(Join(me, turn, until))
            if me.unneeded:
                self._ready.append(turn)
            self._leave()
        self._sleep(turn)
        with self.lock:
            self._joins = [each for each in self._joins if each.turn is not turn]
            me.turn = None
            if not until() and me.unneeded:
                me.unneeded = False
                raise Lost(UNNEEDED)

    def leave_behind(self, branches: list[Branch]) -> None:
        """Nobody needs these any more: their next durable call raises `Lost`."""
        with self.lock:
            for each in branches:
                if each.ended or each.unneeded:
                    continue
                each.unneeded = True
                if each.call is not None:
                    each.call.left = True
                if each.turn is not None and not each.turn.granted.is_set():
                    each.turn = each.turn.moved()
                    self._ready.append(each.turn)

    def close(self) -> None:
        """The body has ended: what is left of its branches may unwind."""
        with self.lock:
            self._leave()

    def _wake_joins(self) -> None:
        for join in self._joins:
            if not join.turn.gone and join.until():
                self._ready.append(join.turn.moved())

    def _me(self) -> Branch:
        me = self._here.branch
        assert me is not None, "a durable call in a thread that is no branch"
        return me

    # -- whose turn it is; all of it under the lock ----------------------------------------------------

    def look(self) -> None:
        """Something has changed; called on any thread."""
        with self.lock:
            if not self._holders:
                self._next()

    def _leave(self) -> None:
        self._holders -= 1
        if self._holders <= 0:
            self._holders = 0
            self._next()

    def _next(self) -> None:
        turn = self._first_ready() or self.order.pop()
        if turn is None and self._gate:
            self.past_history = True
            self._ready.extend(self._gate)
            self._gate.clear()
            turn = self._first_ready()
        if turn is not None:
            self._holders += 1
            self._moves += 1
            turn.granted.set()

    def _first_ready(self) -> Turn | None:
        while self._ready:
            turn = self._ready.popleft()
            if not turn.gone:
                return turn
        return None

    def _end(self) -> None:
        """The attempt is over: whoever waits for an outcome hears of it."""
        self._ready.extend(self.order.clear())
        self._ready.extend(self._gate)
        self._gate.clear()


def _claimed(line: Line | None, function: Callable[[], Any]) -> Any:
    if line is not None:
        line.thread = threading.get_ident()
    return function()
