"""The control thread: claims while there are free slots, recovers what dead executors left, fires timers."""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, Any

from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._core.journal import Journal, Record
from dbdurable._executor.heartbeat import OwnConnection
from dbdurable._executor.runtime import boottime
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, flight, query
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._sql import executor as sql
from dbdurable.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

logger = logging.getLogger("dbdurable")

POLL_S_FIRST = 0.02
CLAIM_MAX = 64
RECOVER_S = 1.0
SIGHTINGS_APART_S = 1.0


class Control:
    """One thread and one connection for everything that looks for work."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._database = executor.runtime.database
        self._connection = OwnConnection(self._database.url)
        self._driver = SyncDriver(self._database, pool=self._connection)
        self._wake = threading.Event()
        self._stopping = False
        self._seen: dict[tuple[Any, ...], float] = {}
        self._poll_s_max = executor.runtime.settings.poll_interval_s_max
        self._random = random.Random()  # noqa: S311  (spreads polls, guards nothing)
        self._thread = threading.Thread(target=self._run, name="dbdurable-control", daemon=True)

    def start(self) -> None:
        """Begins to claim."""
        self._thread.start()

    def retire(self) -> None:
        """Claims no more from here on; waits for nothing."""
        self._stopping = True
        self._wake.set()

    def stop(self) -> None:
        """Claims no more."""
        self.retire()
        self._thread.join(10.0)
        self._connection.close()

    def hint(self) -> None:
        """Looks at once."""
        self._wake.set()

    def _run(self) -> None:
        delay_s, recover_at = POLL_S_FIRST, 0.0
        while not self._stopping:
            self._wake.clear()
            try:
                if boottime() >= recover_at:
                    recover_at = boottime() + RECOVER_S * self._random.uniform(0.8, 1.2)
                    self.recover()
                self._executor.learn(self._driver)
                busy = self.claim()
                delay_s = POLL_S_FIRST if busy else min(self._poll_s_max, delay_s * 1.5)
            except (ConnectionLost, Transient, DatabaseUnavailable) as error:
                logger.warning("the database is away: %s", error)
                delay_s = min(2.0, delay_s * 2)
            except Exception:
                logger.exception("claiming failed")
                delay_s = min(2.0, delay_s * 2)
            if not self._stopping:
                wait_s = min(delay_s, max(0.0, recover_at - boottime()))
                if self._wake.wait(wait_s * self._random.uniform(0.8, 1.2)):
                    delay_s = POLL_S_FIRST

    # -- claim -----------------------------------------------------------------------------------------

    def claim(self) -> int:
        """Fills the free slots; how many workflows were claimed."""
        executor, claimed = self._executor, 0
        for is_async in (False, True):
            names = [d.name for d in executor.definitions.values() if d.is_async is is_async]
            for queue in executor.queues:
                free = min(CLAIM_MAX, executor.attempts.free(is_async))
                if names and free > 0 and not executor.lease.lost:
                    claimed += self._claim(queue, names, free)
        return claimed

    def _claim(self, queue: str, names: list[str], limit: int) -> int:
        executor, lease = self._executor, self._executor.lease
        batch = executor.attempts.next_batch()
        _, rows, journals = self._driver.run(
            flight(
                Query(sql.CLAIM_PLAN, ()),
                Query(sql.CLAIM, (queue, names, limit, lease.executor_id, batch)),
                Query(sql.CLAIMED_JOURNALS, (lease.executor_id, batch)),
            )
        )
        records: dict[Any, list[Record]] = {}
        for id, *record in journals:
            records.setdefault(id, []).append(Record(*record))
        for id, name, key, epoch, attempt, interrupt, input, deadline, _ in rows:
            definition = executor.definitions[name]
            frame = WorkflowFrame(
                id=id,
                name=name,
                key=key,
                epoch=epoch,
                attempt=attempt,
                lease=lease,
                journal=Journal(records.get(id, ())),
                is_async=definition.is_async,
                runtime=executor.runtime,
                deadline=deadline,
                interrupt=interrupt,
            )
            executor.attempts.launch(definition, frame, batch, input)
        return len(rows)

    # -- recover ---------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Declares executors dead, puts their work back, and turns due starts into tickets."""
        suspects, expired, recovered, _, woken = self._driver.run(
            flight(
                Query(sql.SUSPECTS, ()),
                Query(sql.DECLARE_EXPIRED, ()),
                Query(sql.RECOVER, ()),
                Query(sql.FORGET, ()),
                Query(sql.WAKE_STARTS, ()),
            )
        )
        declared = expired + self._declare_seen(suspects)
        for _id, host, pid in declared:
            logger.warning("executor %s:%s is dead: its workflows are taken over", host, pid)
        cleared, taken, failed = recovered[0]
        if declared or cleared:
            more, gave_up = self._recover_rest()
            taken, failed = taken + more, failed + gave_up
        if taken:
            logger.warning("recovered %d workflows of dead executors (%d gave up)", taken, failed)
        if declared or taken or woken:
            self._wake.set()

    def _recover_rest(self) -> tuple[int, int]:
        """What was declared just now, and what did not fit into the first batch: until no lease row is cleared.

        Most of a dead executor's rows hold only workflows that had ended: a round that takes nothing over
        is not the last one.
        """
        taken_all, failed_all = 0, 0
        while not self._stopping:
            (cleared, taken, failed), *_rest = self._driver.run(query(sql.RECOVER))
            taken_all, failed_all = taken_all + taken, failed_all + failed
            if not cleared:
                break
        return taken_all, failed_all

    def _declare_seen(self, suspects: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """A session that was seen ended twice, a second apart, was its executor's end."""
        now = boottime()
        self._seen = {tuple(s): self._seen.get(tuple(s), now) for s in suspects}
        sure = [s for s, first in self._seen.items() if now - first >= SIGHTINGS_APART_S]
        if not sure:
            return []
        ids, pids, starts = zip(*sure, strict=True)
        return self._driver.run(query(sql.DECLARE_SEEN, list(ids), list(pids), list(starts)))
