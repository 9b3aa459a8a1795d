"""What `top` sees: one look a second at counters and heads of queues, and rates from the differences of two looks."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from dbdurable._io.connect import connect
from dbdurable._sql import top as sql
from dbdurable._sql.tickets import WALK_SETTINGS

if TYPE_CHECKING:
    from dbdurable._sql.statement import Statement

__all__ = ["COUNT_MAX", "Look", "Observer", "Rates"]

COUNT_MAX = 10_000
"""Rows are counted up to this many; beyond, a number is an estimate or a lower bound."""

LOOK_TIMEOUT_S = 5.0
WINDOW_S = 5.0
FAILURES_MAX = 10
FAILED_BEHIND_S = 30.0
"""A failure is looked for so long after its time: it may be committed late."""


@dataclass
class Look:
    """One look. Numbers in `more_than` are lower bounds."""

    at_s: float
    counters: dict[str, int]
    queues: list[dict[str, Any]]
    executors: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    running: int
    delayed: int
    waiting: int
    failed: int
    cost_s: float
    statements: int


@dataclass
class Rates:
    """Per second, over the last looks."""

    per_s: dict[str, float] = field(default_factory=dict)
    over_s: float = 0.0


class Observer:
    """Looks at one schema over a connection of its own."""

    def __init__(self, url: str, schema: str) -> None:
        self.url, self._schema = url, schema
        self._connection: psycopg.Connection[Any] | None = None
        self._looks: deque[Look] = deque()
        self._failed: dict[Any, Any] = {}
        self._failed_total = 0
        self._asked = 0

    def look(self) -> Look:
        """Looks once.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
            psycopg.Error: It went away meanwhile, or did not answer in time; the next look connects again.
        """
        if self._connection is None:
            self._connection = connect(self.url)
            self._connection.read_only = True
        began, self._asked = time.monotonic(), 0
        try:
            with self._connection.transaction():
                self._ask(WALK_SETTINGS, f"{LOOK_TIMEOUT_S * 1000:.0f}")
                found = self._see()
        except psycopg.Error:
            self.close()
            raise
        found.cost_s, found.statements = time.monotonic() - began, self._asked
        self._looks.append(found)
        while len(self._looks) > 2 and self._looks[1].at_s <= found.at_s - WINDOW_S:
            self._looks.popleft()
        return found

    def rates(self) -> Rates:
        """What happened a second since the looks before; empty after the first look."""
        first, last = self._looks[0], self._looks[-1]
        over_s = last.at_s - first.at_s
        if over_s <= 0:
            return Rates()
        # Counters begin anew at 0 when the statistics are reset.
        changes = {name: max(0, last.counters[name] - first.counters[name]) for name in last.counters}
        changes["finished"] = max(0, changes.pop("updated") - changes["claimed"])
        changes["failed"] = last.failed - first.failed
        return Rates({name: change / over_s for name, change in changes.items()}, over_s)

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _see(self) -> Look:
        ((at_s, started, claimed, updated, steps, tickets),) = self._ask(sql.COUNTERS)
        in_queue: Counter[str] = Counter()
        in_executor: Counter[Any] = Counter()
        for queue, executor, running in self._ask(sql.RUNNING):
            in_queue[queue] += running
            in_executor[executor] += running
        ((delayed, waiting),) = self._ask(sql.WAITS, COUNT_MAX)
        queues = _queues(self._ask(sql.DEPTHS, COUNT_MAX + 1), in_queue, tickets)
        executors = [
            {
                "process": f"{host}:{pid}",
                "version": version,
                "alive": alive,
                "age_s": age_s,
                "queues": served,
                "running": in_executor[id],
            }
            for id, host, pid, version, alive, age_s, served in self._ask(sql.EXECUTORS)
        ]
        failures = [
            {
                "id": str(id),
                "name": name,
                "status": status,
                "since_s": since_s,
                "reason": reason or (f"{type}: {message}" if type else ""),
            }
            for id, name, status, reason, since_s, type, message in self._ask(sql.FAILURES, FAILURES_MAX)
        ]
        return Look(
            at_s=at_s,
            counters={"started": started, "claimed": claimed, "updated": updated, "steps": steps},
            queues=queues,
            executors=executors,
            failures=failures,
            running=in_queue.total(),
            delayed=delayed,
            waiting=waiting,
            failed=self._count_failed(),
            cost_s=0.0,
            statements=0,
        )

    def _count_failed(self) -> int:
        """How many have failed since the first look: each once, when it is first seen."""
        seen = dict(self._ask(sql.FAILED, FAILED_BEHIND_S))
        self._failed_total += sum(1 for id, since in seen.items() if self._failed.get(id) != since)
        self._failed = seen
        return self._failed_total

    def _ask(self, statement: Statement, *params: object) -> list[tuple[Any, ...]]:
        assert self._connection is not None
        self._asked += 1
        cursor = psycopg.RawCursor(self._connection)
        return cursor.execute(statement.render(self._schema).encode(), params or None).fetchall()


def _queues(rows: Sequence[tuple[Any, ...]], running: Counter[str], tickets: int) -> list[dict[str, Any]]:
    """The queues, the deepest first. Of one that is deeper than counted, an estimate by the table's statistics."""
    found = []
    for name, paused, oldest_s, ready in rows:
        others = sum(min(other[3], COUNT_MAX) for other in rows if other[0] != name)
        is_only_deep = all(other[3] <= COUNT_MAX for other in rows if other[0] != name)
        is_counted = ready <= COUNT_MAX
        found.append(
            {
                "name": name,
                "paused": paused,
                "ready": ready if is_counted else max(COUNT_MAX, tickets - others) if is_only_deep else COUNT_MAX,
                "ready_is": "counted" if is_counted else "estimated" if is_only_deep else "more",
                "oldest_s": oldest_s,
                "running": running[name],
            }
        )
    known = {queue["name"] for queue in found}
    found += [
        {"name": name, "paused": False, "ready": 0, "ready_is": "counted", "oldest_s": None, "running": count}
        for name, count in running.items()
        if name not in known
    ]
    return sorted(found, key=lambda queue: (-queue["ready"], -queue["running"], queue["name"]))
