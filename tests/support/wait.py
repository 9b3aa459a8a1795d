"""The only place where tests wait: for something that can be observed, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from threading import Event
from typing import TypeVar

__all__ = ["await_until", "wait_until"]

T = TypeVar("T")
INTERVAL_S = 0.01


def wait_until(condition: Callable[[], T], timeout_s: float = 20, what: str = "") -> T:
    """The first true value of `condition()`; an assertion that says what was missing after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        Event().wait(INTERVAL_S)
    return value


async def await_until(condition: Callable[[], Awaitable[T]], timeout_s: float = 20, what: str = "") -> T:
    """`wait_until` on a running loop, for a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        await asyncio.sleep(INTERVAL_S)
    return value
