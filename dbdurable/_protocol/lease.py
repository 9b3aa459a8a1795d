"""The right of one process life to write: renewed by the heartbeat, never revived once it is over."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from dbdurable._core.control import HandBack, LeaseLost, Unwind

SELF_FENCE_MARGIN_S = 2.0
"""A process stops this long before the database may call it dead, so that its last effect is in time."""


class Lease:
    """An executor's identity and the local end of its lease.

    `clock` counts suspended time too (CLOCK_BOOTTIME). It only ever stops a process early: what may be
    written is decided by the database.
    """

    __slots__ = ("_clock", "_good_until", "_lost", "closing", "executor_id", "mark", "ttl_s")

    def __init__(self, executor_id: UUID, ttl_s: float, clock: Callable[[], float]) -> None:
        self.executor_id = executor_id
        self.mark = int.from_bytes(executor_id.bytes[:8], signed=True)
        """What is locked, shared, by each open transaction of a step that runs under this lease."""
        self.ttl_s = ttl_s
        self.closing = False
        self._clock = clock
        self._lost = False
        self._good_until = clock() + ttl_s - SELF_FENCE_MARGIN_S

    def renewed(self, sent_at: float) -> None:
        """A beat that was sent at `sent_at` (same clock) has been answered."""
        self._good_until = sent_at + self.ttl_s - SELF_FENCE_MARGIN_S

    def lose(self) -> None:
        """The database has another opinion: this identity is over for good."""
        self._lost = True

    def now(self) -> float:
        """Seconds by the local clock: for durations only."""
        return self._clock()

    @property
    def lost(self) -> bool:
        """Whether nothing may be started under this lease any more."""
        return self._lost or self._clock() > self._good_until

    def reason_to_stop(self) -> Unwind | None:
        """What a durable call has to raise now, if anything."""
        if self.lost:
            return LeaseLost("this executor's lease is over; another process goes on with the workflow")
        if self.closing:
            return HandBack("this executor is closing; the workflow goes back to its queue")
        return None
