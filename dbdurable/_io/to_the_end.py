"""Work that a cancel of whoever waits for it must not cut in two: a connection is given back, a row is written."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """What `work` returns or raises. Who was cancelled meanwhile, however often, hears so when it has ended."""
    task = asyncio.ensure_future(work)
    stop: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancelled:
            stop = cancelled
    if stop is None or (not task.cancelled() and task.exception() is not None):
        return task.result()
    raise stop
