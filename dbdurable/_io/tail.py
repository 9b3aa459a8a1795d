"""What is left of an attempt when no code of the user's runs any more: it goes on where its answers come in.

Its last statements share their commits with those of others. Meanwhile no thread, and no task, waits for it, and the
slot that it had is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from dbdurable._io.riders import Answered
from dbdurable._protocol.effects import Effect, Flow, Query
from dbdurable._protocol.ride import Answer, rides

R = TypeVar("R")

LEFT: Final[Any] = object()
"""What a driver answers that has left a protocol to its tail."""


class Tail(Generic[R]):
    """The end of one protocol.

    `ride_on` sends a statement with others; `resume` drives what cannot go on like that, on a thread or task of its
    own; `done` gets what the protocol returns or raises.
    """

    __slots__ = ("_asked", "_done", "_flow", "_resume", "_ride_on")

    def __init__(
        self,
        flow: Flow[R],
        ride_on: Callable[[Query, Answered], None],
        resume: Callable[[Effect], None],
        done: Callable[[R | BaseException], None],
    ) -> None:
        self._flow = flow
        self._ride_on = ride_on
        self._resume = resume
        self._done = done

    def begin(self, effect: Effect) -> None:
        """Goes on with what the protocol has asked for."""
        if type(effect) is Query and rides(effect):
            self._asked = effect
            self._ride_on(effect, self._answered)
        else:
            self._resume(effect)

    def _answered(self, answer: Answer) -> None:
        if answer is None:
            self._resume(self._asked)  # it has to be asked alone
            return
        try:
            effect = self._flow.throw(answer) if isinstance(answer, BaseException) else self._flow.send(answer)
        except StopIteration as stop:
            self._done(stop.value)
        except BaseException as error:
            self._done(error)
        else:
            self.begin(effect)
