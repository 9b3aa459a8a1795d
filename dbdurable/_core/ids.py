"""Ids that sort by time (UUIDv7), and ids that follow from others (UUIDv5)."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from uuid import UUID, uuid5

__all__ = ["UuidV7", "step_key"]

_COUNTER_BITS = 26
_RANDOM_BITS = 48
_VERSION = 7 << 76
_VARIANT = 0b10 << 62


class UuidV7:
    """Mints UUIDv7s from a clock in milliseconds: each sorts after the one minted before it.

    Behind the 48 bits of time stand 26 bits of a counter, which orders the ids of one millisecond, and 48
    random bits, which keep processes apart, also after a fork. A clock that goes back does not take ids
    with it. `next(count)` is atomic, so threads may share one mint without a lock: ids are always distinct,
    and each thread sees its own in order.

    Example:
        >>> mint = UuidV7(lambda: 1_700_000_000_000)
        >>> mint() < mint()
        True
    """

    def __init__(self, clock_ms: Callable[[], int], *, random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._clock_ms = clock_ms
        self._random_bits = random_bits
        self._count = itertools.count()
        self._latest_ms = 0

    def __call__(self) -> UUID:
        """Mint the next id."""
        count = next(self._count)
        now_ms = self._latest_ms = max(self._latest_ms, self._clock_ms())
        # The counter's wrap after 67 million ids moves the time on, so that order holds there too.
        now_ms += count >> _COUNTER_BITS
        low = ((count & ((1 << _COUNTER_BITS) - 1)) << _RANDOM_BITS) | self._random_bits(_RANDOM_BITS)
        high12, low62 = low >> 62, low & ((1 << 62) - 1)
        return UUID(int=(now_ms & ((1 << 48) - 1)) << 80 | _VERSION | high12 << 64 | _VARIANT | low62)


def step_key(workflow_id: UUID, path: str) -> UUID:
    """Return the idempotency key of the step at `path`: the same at every attempt, in every process.

    Example:
        >>> step_key(UUID(int=1), "3.1") == step_key(UUID(int=1), "3.1")
        True
    """
    return uuid5(workflow_id, path)
