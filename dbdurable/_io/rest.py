"""Where an attempt rests: on the loop of its body, whose tasks its watch knows, wherever the code of a step runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from dbdurable._protocol.effects import Effect, Flow, Rest

R = TypeVar("R")


class Away(BaseException):
    """A driver is asked to rest that is not where the body is: its `run` answers with the effect."""

    def __init__(self, effect: Rest) -> None:
        super().__init__()
        self.effect = effect


async def run_elsewhere(flow: Flow[R], run: Callable[[Effect | None], Awaitable[R | Rest]]) -> R:
    """Has the flow driven on another thread or loop, and comes back here for each rest of it.

    `run` goes on with what it is given, or begins.
    """
    asked: Effect | None = None
    while True:
        left = await run(asked)
        if not isinstance(left, Rest):
            return left
        try:
            try:
                await left.watch.rest(left.delay_s)
            except BaseException as error:
                asked = flow.throw(error)
            else:
                asked = flow.send(None)
        except StopIteration as stop:
            value: R = stop.value
            return value
