"""When to try again what fails for everybody at once: ever less often, and at a moment of one's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic, sleep
from typing import TypeVar

from dbdurable._core.control import ConnectionLost

T = TypeVar("T")

FIRST_S, MAX_S = 0.1, 2.0
"""The longest wait after the first failure, and after any."""


class Door:
    """Who may knock, and when. While nothing answers, one caller of a process knocks at a time.

    The wait after each failure is drawn from the whole of a doubling interval: processes that lost the same
    server at the same moment do not come back together.

    Example:
        >>> door = Door()
        >>> door.turn()
        0.0
        >>> door.failed('nobody is there')
        >>> door.turn() <= FIRST_S
        True
    """

    def __init__(self, clock: Callable[[], float] = monotonic, random: Random | None = None) -> None:
        self._clock = clock
        self._random = random or Random()  # noqa: S311  (spreads, guards nothing)
        self._lock = threading.Lock()
        self._failures = 0
        self._again_at = 0.0
        self.reason = ""
        """Why nothing answered the last time."""

    def turn(self) -> float:
        """0.0: knock now. Else the seconds to wait before asking again."""
        with self._lock:
            if not self._failures:
                return 0.0
            left_s = self._again_at - self._clock()
            if left_s > 0:
                return left_s
            self._put_off()  # it is this caller's turn; the others wait for what comes of it
            return 0.0

    def failed(self, reason: str) -> None:
        """Nothing answered, or not what was wanted. Said by several at the same time it counts once."""
        with self._lock:
            self.reason = reason
            if not self._failures:
                self._put_off()

    def opened(self) -> None:
        """Somebody answers: all may come."""
        with self._lock:
            self._failures, self._again_at = 0, 0.0

    def _put_off(self) -> None:
        self._failures += 1
        longest_s = min(MAX_S, FIRST_S * 2.0 ** min(self._failures - 1, 10))
        self._again_at = self._clock() + self._random.uniform(0.0, longest_s)


def _nothing() -> None:
    return None


def knock(open: Callable[[], T], door: Door, timeout_s: float, found: Callable[[], T | None] = _nothing) -> T:
    """A new connection, tried for as often as the door allows. Raises ConnectionLost with the last reason.

    `found` tells of one that somebody has given back meanwhile; it will do as well.
    """
    deadline = monotonic() + timeout_s
    while True:
        if (given_back := found()) is not None:
            return given_back
        wait_s = door.turn()
        if not wait_s:
            try:
                connection = open()
            except ConnectionLost as error:
                door.failed(str(error))
            else:
                door.opened()
                return connection
        if monotonic() + wait_s > deadline:
            raise ConnectionLost(door.reason)
        sleep(wait_s)


async def aknock(
    open: Callable[[], Awaitable[T]], door: Door, timeout_s: float, found: Callable[[], T | None] = _nothing
) -> T:
    """The same for `async def`."""
    deadline = monotonic() + timeout_s
    while True:
        if (given_back := found()) is not None:
            return given_back
        wait_s = door.turn()
        if not wait_s:
            try:
                connection = await open()
            except ConnectionLost as error:
                door.failed(str(error))
            else:
                door.opened()
                return connection
        if monotonic() + wait_s > deadline:
            raise ConnectionLost(door.reason)
        await asyncio.sleep(wait_s)
