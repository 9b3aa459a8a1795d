"""Timers: what is due becomes tickets. Any executor sees to anybody's, and knows when the next one is due."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from dbdurable._executor.runtime import boottime
from dbdurable._protocol.effects import Query, Row
from dbdurable._protocol.frame import KeptWait
from dbdurable._sql.wait import WAKE_DUE

BATCH_MAX: Final = 1000
"""Tickets of one look: other executors share what is due, and claims come in between."""

BEGINNING: Final = ("-infinity", UUID(int=0))
"""Of all that is due."""

BEGINNING_SHARE: Final = 20
"""At most a twentieth of the time goes into looks from the beginning: what was rung may lie there, dead, for long."""


class Timers:
    """What one executor's control thread knows of them; others may set some at any time."""

    def __init__(self) -> None:
        self._next_at = math.inf
        self._from: tuple[Any, UUID] = BEGINNING
        """Where the next look begins: behind the last one that was rung."""
        self._began = self._again_at = 0.0
        """When the last look was asked for, and when one may begin at the beginning again."""
        self._full = False

    def due_in_s(self) -> float:
        """How long until the next known one."""
        return max(0.0, self._next_at - boottime())

    def expect(self, at: float) -> None:
        """One was set here: due at that time, by the local clock."""
        self._next_at = min(self._next_at, at)

    def ask(self, also_others: bool) -> list[Query]:
        """The statement that rings what is due: where something is known to be, or now and then for all others."""
        if not also_others and self.due_in_s() > 0:
            return []
        self._next_at = math.inf  # what is set from here on may not be in the answer
        self._began = boottime()
        if self._began >= self._again_at and not self._full:
            self._from = BEGINNING
        return [Query(WAKE_DUE, (BATCH_MAX, *self._from))]

    def take(self, rows: list[Row]) -> None:
        """Notes when to ask again, and from where: at once behind a batch that was full."""
        found, next_s, due, workflow_id = rows[0]
        now = boottime()
        if self._from is BEGINNING:
            self._again_at = now + BEGINNING_SHARE * (now - self._began)
        if found:
            self._from = due, workflow_id
        self._full = found == BATCH_MAX
        self.expect(now + (0.0 if self._full else math.inf if next_s is None else next_s))


def kept_waits(rows: Iterable[tuple[Any, ...]], now: float) -> dict[UUID, dict[str, KeptWait]]:
    """What claimed workflows waited for, by workflow and path; `now` is by the lease's clock."""
    found: dict[UUID, dict[str, KeptWait]] = {}
    for id, path, left_s, attempts in rows:
        until = None if left_s is None else now + left_s
        found.setdefault(id, {})[path] = KeptWait(until, attempts)
    return found
