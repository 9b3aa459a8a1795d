"""What any executor does for all, about once a second: declare the dead, hand their work on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dbdurable._core.control import Transient
from dbdurable._executor.runtime import boottime
from dbdurable._io.drive import SyncDriver
from dbdurable._io.pool import OwnConnection
from dbdurable._protocol.effects import Query, Row, flight, query
from dbdurable._sql import upkeep as sql
from dbdurable._sql.cancel import CASCADED, CASCADES, CHILDREN, DEADLINES
from dbdurable._sql.workflow import CANCEL, RIDE_TIMEOUT
from dbdurable.errors import UnknownWorkflow

logger = logging.getLogger("dbdurable")

SIGHTINGS_APART_S = 1.0
FORGET_KEYS_EVERY = 30
CHILDREN_MAX = 200
"""Children of one workflow that are cancelled in one round."""


class Upkeep:
    """Rides with a look at the queues. Replicas share the work: they skip the rows that others hold."""

    def __init__(
        self,
        driver: SyncDriver,
        connection: OwnConnection,
        ttl_s: float,
        stopping: Callable[[], bool],
        hint_cancel: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._connection = connection
        self._ttl_s = ttl_s
        self._stopping = stopping
        self._hint_cancel = hint_cancel
        self._sure_from = (1, 0.0)
        """Under which session of its own, and since when, the end of others' says something."""
        self._seen: dict[tuple[Any, ...], float] = {}
        self.sure_at = float("inf")
        """When to look at the suspects again: a second sighting then makes sure."""
        self._rounds = 0

    def ask(self, queues: list[str]) -> list[Query]:
        """The statements of one round; `queues` are those that this executor serves."""
        self._rounds += 1
        queries = [
            Query(sql.SUSPECTS, ()),
            Query(sql.DECLARE_EXPIRED, ()),
            Query(sql.UPKEEP_PLAN, ()),
            Query(sql.RECOVER, ()),
            Query(sql.EXPIRE, ()),
            Query(DEADLINES, ()),
            Query(CASCADES, ()),
            Query(sql.GIVE_BACK, ()),
            Query(sql.REFILE, (queues,)),
            Query(sql.FORGET, ()),
        ]
        if self._rounds % FORGET_KEYS_EVERY == 0:
            queries.append(Query(sql.FORGET_KEYS, ()))
        return queries

    def take(self, answers: list[list[Row]]) -> bool:
        """Goes on with what was found; whether there may be new work to claim."""
        suspects, expired, _, recovered, _, late, cascades, given, refiled, *_rest = answers
        declared = expired + self._declare_seen(suspects)
        for _id, host, pid, ended in declared:
            also = f", {ended} open transactions of its steps were ended" if ended else ""
            logger.warning("executor %s:%s is dead: its workflows are taken over%s", host, pid, also)
        cleared, taken, failed = recovered[0]
        if declared or cleared:
            more, gave_up = self._recover_rest()
            taken, failed = taken + more, failed + gave_up
        if taken:
            logger.warning("recovered %d workflows of dead executors (%d gave up)", taken, failed)
        requeued = any(status != "running" for _, status in late)
        reached = self._cascade(cascades)
        if late or reached:
            self._hint_cancel()
        return bool(declared or taken or requeued or reached or given or refiled)

    def _cascade(self, cascades: list[Row]) -> int:
        """Cancels children of what was cancelled or has ended: each in a transaction of its own, some a round."""
        reached = 0
        for parent, ended, epoch, reason in cascades:
            children = self._driver.run(query(CHILDREN, parent, ended, epoch, CHILDREN_MAX))
            waiting = 0
            for (child,) in children:
                if self._stopping():
                    return reached
                try:
                    self._driver.run(flight(Query(RIDE_TIMEOUT, ()), Query(CANCEL, (child, reason))))
                    reached += 1
                except (Transient, UnknownWorkflow):  # somebody holds its row: in the next round
                    waiting += 1
            if not waiting and len(children) < CHILDREN_MAX:
                self._driver.run(query(CASCADED, parent, ended))
        return reached

    def _recover_rest(self) -> tuple[int, int]:
        """What was declared just now, and what did not fit into the first batch: until no lease row is cleared.

        Most of a dead executor's rows hold only workflows that had ended: a round that takes nothing over
        is not the last one.
        """
        taken_all, failed_all = 0, 0
        while not self._stopping():
            _, [(cleared, taken, failed)] = self._driver.run(flight(Query(sql.UPKEEP_PLAN, ()), Query(sql.RECOVER, ())))
            taken_all, failed_all = taken_all + taken, failed_all + failed
            if not cleared:
                break
        return taken_all, failed_all

    def _declare_seen(self, suspects: list[Row]) -> list[Row]:
        """A session that was seen ended twice, a second apart, was its executor's end."""
        now, generation = boottime(), self._connection.generation
        if self._sure_from[0] != generation:
            # What ended this session may have ended all of them. Who has died meanwhile does not beat any more.
            self._sure_from = (generation, now + self._ttl_s)
        if now < self._sure_from[1]:
            self._seen.clear()
            self.sure_at = float("inf")
            return []
        self._seen = {tuple(s): self._seen.get(tuple(s), now) for s in suspects}
        sure = [s for s, first in self._seen.items() if now - first >= SIGHTINGS_APART_S]
        later = [first + SIGHTINGS_APART_S for first in self._seen.values() if now - first < SIGHTINGS_APART_S]
        self.sure_at = min(later, default=float("inf"))
        if not sure:
            return []
        ids, pids, starts = zip(*sure, strict=True)
        return self._driver.run(query(sql.DECLARE_SEEN, list(ids), list(pids), list(starts)))
