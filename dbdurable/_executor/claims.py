"""What to ask for in one look at the queues, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from dbdurable._core.journal import Journal, Record
from dbdurable._executor.attempts import CLAIM_MAX
from dbdurable._executor.runtime import boottime
from dbdurable._executor.timers import kept_waits
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, Row, query
from dbdurable._protocol.frame import KeptWait, WorkflowFrame
from dbdurable._sql import claim as sql
from dbdurable._sql.wait import CLAIMED_WAITS

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

PARTITIONS_MAX = 256
"""Partitions of a limited queue that one claim looks at."""

BEHIND_S = 0.25
"""How far behind the last ticket that it took a line is walked again: starts commit in any order."""

FULL_LOOK_S, FULL_LOOK_SHARE = 1.0, 20
"""At least so often every line is walked from its beginning, and at most a twentieth of the time goes there."""

LINES_MAX = 256


RANK_MIN, RANK_MAX = -1_000_000, 1_000_000
"""Outside of what twice any priority can be."""


class Line(NamedTuple):
    """Where an ahead-claim looks: one rank from a time on, or all ranks between two."""

    queue: str
    rank: int | None
    since: datetime | None
    lo: int | None
    hi: int | None


def _urgency(line: Line) -> int:
    return line.lo + 1 if line.lo is not None else line.rank or 0


class QueueRow(NamedTuple):
    """What the database said last about a queue. Claims check it again; this only chooses how to ask."""

    paused: bool
    limited: bool
    worker_concurrency: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """One claim of a flight: of these queues, for that colour."""

    is_async: bool
    queues: list[str]
    limit: int
    queries: tuple[Query, ...]
    full: bool = False

    @property
    def claim(self) -> Query:
        """The last one; what comes before it prepares it."""
        return self.queries[-1]


@dataclass(frozen=True, slots=True)
class Taken:
    """How a look ended.

    `again`: more can be claimed at once. `hungry`: the colours of which more may be there than there were slots for, so
    that a slot which is freed is worth a look.
    """

    count: int
    again: bool
    hungry: Collection[bool]


class Claims:
    """Chooses the statements of a look and launches what they return. Used by the control thread only."""

    def __init__(self, executor: Executor, driver: SyncDriver) -> None:
        self._executor = executor
        self._driver = driver
        self._queues: dict[str, QueueRow] | None = None
        self._lines: dict[tuple[bool, str, int], datetime] = {}
        self._skipped: set[bool] = set()
        self._partition: dict[str, str] = {}
        self._asked: list[Asked] = []
        self._kept: dict[UUID, dict[str, KeptWait]] = {}
        self._began = self._full_at = self._full_again = 0.0
        self._turn = 0
        self._turns = {True: 0, False: 0}
        """Looks that asked for work of that colour: each begins with another queue."""

    def ask(self) -> list[Query]:
        """The statements of one look; none where no slot is free."""
        executor = self._executor
        self._asked, self._skipped, self._began, self._turn = [], set(), boottime(), self._turn + 1
        lowest: int | None = None
        if self._queues is None:
            self._note_queues(self._driver.run(query(sql.QUEUES, executor.queues)))
        for is_async in (False, True):
            names = [d.name for d in executor.definitions.values() if d.is_async is is_async]
            free = min(CLAIM_MAX, executor.attempts.free(is_async))
            groups = list(self._groups(is_async, free)) if names and free > 0 and not executor.lease.lost else []
            if names and free <= 0:
                self._skipped.add(is_async)
            if groups:
                first = executor.attempts.next_batches(len(groups))
                lowest = first if lowest is None else min(lowest, first)
                for batch, (queues, limit) in enumerate(groups, first):
                    self._asked.append(self._one(is_async, queues, names, limit, batch, first))
        if lowest is None:
            # While all queues are paused a look asks for nothing but whether they still are.
            paused = all(row is not None and row.paused for row in map(self._row, executor.queues))
            return [Query(sql.QUEUES, (executor.queues,))] if paused else []
        return [
            *(query for asked in self._asked for query in asked.queries),
            Query(sql.CLAIMED_JOURNALS, (executor.lease.executor_id, lowest)),
            Query(CLAIMED_WAITS, (executor.lease.executor_id, lowest)),
            Query(sql.QUEUES, (executor.queues,)),
        ]

    @property
    def limited(self) -> bool:
        """Whether any queue has a limit that other executors make room in."""
        return any(row.limited for row in (self._queues or {}).values())

    def take(self, answers: list[list[Row]]) -> Taken:
        """Launches what was claimed."""
        if not self._asked:
            return Taken(0, self._note_queues(answers[0]), hungry=())
        *claimed, journals, waits, queues = answers
        claims = iter(claimed)
        records: dict[Any, list[Record]] = {}
        for id, *record in journals:
            records.setdefault(id, []).append(Record(*record))
        self._kept = kept_waits(waits, self._executor.lease.now())
        count, again, hungry = 0, self._note_queues(queues), set(self._skipped)
        for asked in self._asked:
            *_, rows = [next(claims) for _ in asked.queries]
            found, further = self._launch(asked, rows, records)
            full = found == asked.limit
            again = again or further or (full and self._executor.attempts.free(asked.is_async) > 0)
            count += found
            if full:
                hungry.add(asked.is_async)
        self._note_time(count)
        return Taken(count, again, hungry)

    # -- what to ask -----------------------------------------------------------------------------------

    def _groups(self, is_async: bool, free: int) -> Iterator[tuple[list[str], int]]:
        """Queues that nothing limits are asked together, all others alone; every look begins with another one.

        So queues take turns, however much there is in one of them and however urgent it is.
        """
        names = self._executor.queues
        self._turns[is_async] += 1
        turn = self._turns[is_async] % len(names)
        together: list[str] = []
        for name in names[turn:] + names[:turn]:
            row = self._row(name)
            if row is None or not (row.paused or row.limited or row.worker_concurrency):
                together.append(name)
            elif not row.paused and row.worker_concurrency is None:
                yield [name], free
            elif not row.paused and self._turn % 2 == is_async:  # one colour a look: both would count it as free
                left = (row.worker_concurrency or 0) - self._executor.attempts.running_of(name)
                if left > 0:
                    yield [name], min(free, left)
                else:
                    self._skipped.add(is_async)
        if together:
            yield together, free

    def _one(self, is_async: bool, queues: list[str], names: list[str], limit: int, batch: int, first: int) -> Asked:
        row = self._row(queues[0])
        owner = (self._executor.lease.executor_id, batch, first)
        if row is not None and row.limited and len(queues) == 1:
            begin = self._partition.get(queues[0], "")
            keys = Query(sql.ENSURE_KEYS, (queues[0], begin, PARTITIONS_MAX))
            claim = Query(sql.CLAIM_LIMITED, (queues[0], names, limit, *owner, begin, PARTITIONS_MAX))
            return Asked(is_async, queues, limit, (keys, claim))
        if self._began >= self._full_at or not any(of is is_async and queue in queues for of, queue, _ in self._lines):
            return Asked(is_async, queues, limit, (Query(sql.CLAIM, (queues, names, limit, *owner)),), True)
        lines = [line for queue in queues for line in sorted(self._ahead(is_async, queue), key=_urgency)]
        places, ranks, ats, los, his = zip(*lines, strict=True)
        ahead = (list(places), names, limit, *owner, list(ranks), list(ats), list(los), list(his))
        return Asked(is_async, queues, limit, (Query(sql.CLAIM_AHEAD, ahead),))

    def _ahead(self, is_async: bool, queue: str) -> Iterator[Line]:
        """The lines of a queue that are known, and the gaps between them."""
        known = sorted(rank for *of, rank in self._lines if of == [is_async, queue])
        for rank in known:
            yield Line(queue, rank, self._lines[is_async, queue, rank], None, None)
        for lo, hi in pairwise((RANK_MIN, *known, RANK_MAX)):
            if hi - lo > 1:
                yield Line(queue, None, None, lo, hi)

    def _row(self, queue: str) -> QueueRow | None:
        return (self._queues or {}).get(queue)

    # -- what came of it -------------------------------------------------------------------------------

    def _launch(self, asked: Asked, rows: list[Row], records: dict[Any, list[Record]]) -> tuple[int, bool]:
        executor, count, further = self._executor, 0, None
        batch = asked.claim.params[4]
        limited = asked.claim.statement is sql.CLAIM_LIMITED
        for row in rows:
            if limited:
                *row_, asked_to = row
                row = tuple(row_)
                if row[0] is None:
                    further = asked_to
                    continue
            id, name, key, epoch, attempt, interrupt, input, deadline, queue, slots, parent_id, began_us, rank, at = row
            if id is None:
                self._pass(asked.is_async, queue, rank, at)
                continue
            definition = executor.definitions[name]
            frame = WorkflowFrame(
                id=id,
                name=name,
                key=key,
                epoch=epoch,
                attempt=attempt,
                lease=executor.lease,
                journal=Journal(records.get(id, ())),
                is_async=definition.is_async,
                runtime=executor.runtime,
                deadline=deadline,
                queue=queue,
                slots=slots,
                parent_id=parent_id,
                interrupt=interrupt,
                now_us=began_us,
                kept=self._kept.get(id, {}),
            )
            executor.attempts.launch(definition, frame, batch, input)
            count += 1
            if not limited:
                self._pass(asked.is_async, queue, rank, at)
        if limited:
            self._partition[asked.queues[0]] = further or ""
        return count, further is not None

    def _pass(self, is_async: bool, queue: str, rank: int, at: datetime) -> None:
        """Tickets of that line and colour are taken up to here."""
        line, behind = (is_async, queue, rank), at - timedelta(seconds=BEHIND_S)
        known = self._lines.get(line)
        if known is None or behind > known:
            self._lines[line] = behind
        if len(self._lines) > LINES_MAX:
            self._lines.clear()

    def _note_queues(self, rows: list[Row]) -> bool:
        """Whether the queues are other than this look took them for."""
        found = {name: QueueRow(*row) for name, *row in rows}
        changed, self._queues = found != self._queues, found
        return changed

    def _note_time(self, count: int) -> None:
        """When every line is walked from its beginning again: soon after nothing was found, else now and then."""
        now = boottime()
        if any(asked.full for asked in self._asked):
            self._full_again = now + FULL_LOOK_SHARE * (now - self._began)
            self._full_at = max(now + FULL_LOOK_S, self._full_again)
        elif count == 0:
            self._full_at = min(self._full_at, self._full_again)
