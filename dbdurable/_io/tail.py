"""What is left of an attempt when no code of the user's runs any more: it goes on where its answers come in.

Its last statements share their commits with those of others. Meanwhile no thread, and no task, waits for it.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from dbdurable._io.riders import Answered
from dbdurable._protocol.effects import Effect, Flow, Query
from dbdurable._protocol.ride import Answer, rides

R = TypeVar("R")

LEFT: Final[Any] = object()
"""What a driver answers that has left a protocol to its tail."""


class Tail(Generic[R]):
    """The end of one protocol; what is done with it in each colour is its subclasses'."""

    __slots__ = ("_asked", "_flow")

    def __init__(self, flow: Flow[R]) -> None:
        self._flow = flow

    def _ride_on(self, item: Query, answered: Answered) -> None:
        """Sends a statement with others; see `Riders.ride_on`."""
        raise NotImplementedError

    def _resume(self, effect: Effect) -> None:
        """Drives what cannot go on like that, on a thread or task of its own."""
        raise NotImplementedError

    def _done(self, outcome: R | BaseException) -> None:
        """What the protocol has returned or raised. Must not raise."""
        raise NotImplementedError

    def _go_on(self, effect: Effect) -> None:
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
            self._go_on(effect)
