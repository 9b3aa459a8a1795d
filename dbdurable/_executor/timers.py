"""Timers: what is due becomes tickets. Any executor sees to anybody's, and knows when the next one is due."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from dbdurable._executor.runtime import boottime
from dbdurable._protocol.effects import Query, Row
from dbdurable._protocol.frame import KeptWait
from dbdurable._sql.claim import CLAIM_PLAN
from dbdurable._sql.wait import WAKE_DUE

BATCH_MAX = 1000
"""Tickets of one look: other executors share what is due, and claims come in between."""


class Timers:
    """What one executor's control thread knows of them; others may set some at any time."""

    def __init__(self) -> None:
        self._next_at = math.inf

    def due_in_s(self) -> float:
        """How long until the next known one."""
        return max(0.0, self._next_at - boottime())

    def expect(self, at: float) -> None:
        """One was set here: due at that time, by the local clock."""
        self._next_at = min(self._next_at, at)

    def ask(self, also_others: bool) -> list[Query]:
        """The statement that rings what is due: where something is known to be, or now and then for all others.

        It walks the index whatever the statistics say, as a claim does.
        """
        if not also_others and self.due_in_s() > 0:
            return []
        return [Query(CLAIM_PLAN, ()), Query(WAKE_DUE, (BATCH_MAX,))]

    def take(self, rows: list[Row]) -> None:
        """Notes when to ask again: at once where a batch was full."""
        found, next_s = rows[0]
        self._next_at = boottime() + (0.0 if found == BATCH_MAX else math.inf if next_s is None else next_s)


def kept_waits(rows: Iterable[tuple[Any, ...]], now: float) -> dict[UUID, dict[str, KeptWait]]:
    """What claimed workflows waited for, by workflow and path; `now` is by the lease's clock."""
    found: dict[UUID, dict[str, KeptWait]] = {}
    for id, path, left_s, attempts in rows:
        until = None if left_s is None else now + left_s
        found.setdefault(id, {})[path] = KeptWait(until, attempts)
    return found
