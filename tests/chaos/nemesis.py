"""Faults by a seed: processes killed and frozen, sessions ended, sockets cut, the server restarted without mercy."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.support.wait import wait_until

if TYPE_CHECKING:
    from tests.chaos.arena import Arena, Worker

KINDS = ("kill", "freeze", "terminate", "cut", "restart")
WEIGHTS = {"kill": 4, "freeze": 2, "terminate": 3, "cut": 3, "restart": 1}

FROZEN_S = 7.5
"""Longer than a lease."""


class Nemesis:
    """Injects faults one after the other, each where the seed says; what it froze wakes up while it goes on."""

    def __init__(self, arena: Arena, seed: int) -> None:
        self.injected: Counter[str] = Counter()
        self.hit = 0
        """Kills of processes that ran workflows just then."""
        self.reborn = 0
        """Frozen processes that went on under a new identity."""
        self._arena = arena
        self._chance = random.Random(f"{seed} nemesis")
        self._plan = self._faults()
        self._frozen: list[tuple[float, Worker, set[str]]] = []
        self._waking: list[tuple[Worker, set[str]]] = []

    def _faults(self) -> Iterator[str]:
        """Every kind once in each round, in any order, some of them more often."""
        while True:
            bag = list(itertools.chain.from_iterable([kind] * many for kind, many in WEIGHTS.items()))
            self._chance.shuffle(bag)
            first = list(KINDS)
            self._chance.shuffle(first)
            yield from first
            for kind in first:
                bag.remove(kind)
            yield from bag

    def strike(self, now: float) -> None:
        """The next fault, on whoever is there for it."""
        self._thaw(now)
        kind = next(self._plan)
        if getattr(self, f"_{kind}")(now):
            self.injected[kind] += 1

    def heal(self, now: float) -> None:
        """No more faults: all that is frozen wakes up, and is found under a new identity."""
        self._thaw(now)
        for until, worker, before in self._frozen:
            wait_until(lambda until=until: self._arena.now() >= until, FROZEN_S * 2)
            self._wake(worker, before)
        self._frozen.clear()
        for worker, before in self._waking:
            wait_until(lambda w=worker, b=before: not w.alive or self._is_reborn(w, b), 30, f"{worker} a new identity")
        self._count_reborn()

    # -- the faults ------------------------------------------------------------------------------------------

    def _pick(self) -> Worker | None:
        frozen = [worker for _, worker, _ in self._frozen]
        awake = [worker for worker in self._arena.workers if worker.alive and worker.open and worker not in frozen]
        return self._chance.choice(awake) if awake else None

    def _kill(self, now: float) -> bool:
        """SIGKILL, and another one in its place."""
        worker = self._pick()
        if worker is None:
            return False
        ran = self._arena.one(
            "select count(*) from dbdurable.executor e join dbdurable.workflow w on w.executor_id = e.id "
            "where e.pid = %s and w.status = 'running'",
            worker.pid,
        )
        self.hit += bool(ran)
        worker.kill()
        self._arena.replace(worker)
        return True

    def _freeze(self, now: float) -> bool:
        """SIGSTOP for longer than its lease."""
        worker = self._pick()
        before = self._identities(worker) if worker is not None else set()
        if worker is None or not before or len(self._frozen) >= 2:
            return False
        os.kill(worker.pid, signal.SIGSTOP)
        self._frozen.append((now + FROZEN_S, worker, before))
        return True

    def _terminate(self, now: float) -> bool:
        """pg_terminate_backend of some sessions, whoever's they are."""
        pids = self._arena.all(
            "select pid from pg_stat_activity where application_name = 'dbdurable' order by random()"
        )
        chosen = pids[: self._chance.randint(1, max(1, len(pids) // 3))]
        for (pid,) in chosen:
            self._arena.one("select pg_terminate_backend(%s)", pid)
        return bool(chosen)

    def _cut(self, now: float) -> bool:
        """Sockets break under a worker; the server finds out by itself."""
        worker = self._pick()
        return worker is not None and worker.cut(self._chance.randrange(1 << 30)) > 0

    def _restart(self, now: float) -> bool:
        """The server ends at once, without a checkpoint, and recovers from its log."""
        self._arena.restart_server()
        return True

    # -- those who wake up -------------------------------------------------------------------------------------

    def _thaw(self, now: float) -> None:
        due = [entry for entry in self._frozen if entry[0] <= now]
        for _, worker, before in due:
            self._wake(worker, before)
        self._frozen = [entry for entry in self._frozen if entry not in due]
        self._count_reborn()

    def _wake(self, worker: Worker, before: set[str]) -> None:
        os.kill(worker.pid, signal.SIGCONT)
        self._waking.append((worker, before))

    def _count_reborn(self) -> None:
        still = []
        for worker, before in self._waking:
            if self._is_reborn(worker, before):
                self.reborn += 1
            elif worker.alive:
                still.append((worker, before))
        self._waking = still

    def _identities(self, worker: Worker) -> set[str]:
        return {id for (id,) in self._arena.all("select id::text from dbdurable.executor where pid = %s", worker.pid)}

    def _is_reborn(self, worker: Worker, before: set[str]) -> bool:
        return bool(self._identities(worker) - before)
