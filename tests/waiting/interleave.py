"""A wait and what ends it, as real transactions that are interleaved at random: by seed, in one thread.

The library's own statements run, each in a transaction that may stay open while others go on. A run is lost when
everybody has done all there is to do, and the workflow still waits for something that is there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import RawCursor

from dbdurable._executor.timers import BEGINNING
from dbdurable._sql import claim, message, wait
from dbdurable._sql.statement import Statement

Texts = dict[Statement, str]
Actor = Iterator[None]
"""Each `next` is one thing that it does; another actor's may come in between."""

WAIT_OF = {"message": "topic", "event": "{source}:it", "sleep": "", "retry": "why"}
TIMED = ("sleep", "retry")


def texts() -> Texts:
    """The statements as the library has them; a mutant changes some."""
    return {
        each: each.render("dbdurable")
        for each in (
            wait.PARK, wait.LOOK, wait.WAKE_DUE, message.SEND, message.HAS_MESSAGE, message.PUT_EVENT,
            message.WAKE_WAITERS, message.READ_EVENT, claim.CLAIM,
        )
    }  # fmt: skip


@dataclass
class World:
    """One database with a connection for each actor."""

    url: str
    texts: Texts = field(default_factory=texts)
    wake_in_transaction: bool = False
    """A mutant: who sets an event reads who waits for it before the commit."""

    def __post_init__(self) -> None:
        names = ("waiter", "sender", "claimer", "timer")
        self.connections = {name: psycopg.connect(self.url) for name in names}
        for connection in self.connections.values():
            connection.execute("set lock_timeout = '20ms'")
            connection.commit()
        self.executor = uuid4()
        self.batches = itertools.count(1)
        self.woken = 0

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def run(self, who: str, statement: Statement, *params: Any) -> list[tuple[Any, ...]]:
        cursor = RawCursor(self.connections[who])
        cursor.execute(self.texts[statement], params)
        return cursor.fetchall() if cursor.description else []

    def commit(self, who: str) -> None:
        self.connections[who].commit()

    # -- one run ---------------------------------------------------------------------------------------

    def is_lost(self, kind: str, seed: int) -> bool:
        """Interleaves one wait with what ends it; whether the wake-up was lost."""
        chance = random.Random(f"{kind} {seed}")
        self.id, self.source, self.kind, self.done = uuid4(), uuid4(), kind, False
        self._begin()
        ending = {"message": self._send, "event": self._set_event, "sleep": self._nothing, "retry": self._nothing}[kind]
        actors: dict[str, Actor] = {
            "waiter": self._wait(),
            "ending": ending(),
            "claimer": self._claim(chance.randrange(3)),
            "timer": self._ring(chance.randrange(3)),
        }
        while actors:
            name = chance.choice(list(actors))
            if next(actors[name], StopIteration) is StopIteration:
                del actors[name]
        for _ in range(4):  # all that is left to do
            for actor in (self._ring(1), self._claim(2), self._wait()):
                for _ in actor:
                    pass
        return not self.done

    def _begin(self) -> None:
        connection = self.connections["waiter"]
        for id, name in ((self.id, "waits"), (self.source, "sets")):
            connection.execute(
                "insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,"
                " status, epoch, executor_id, attempt, started_at)"
                " values (%s, %s, 'default', '', 0, 20, now(), '{}', 'running', 1, %s, 1, now())",
                [id, name, self.executor],
            )
        if self.kind in TIMED:  # it has waited before, and the time is over about now
            connection.execute(
                "insert into dbdurable.wait (workflow_id, path, kind, due, attempts) values (%s, '1', %s, now(), 1)",
                [self.id, self.kind],
            )
        connection.commit()
        self.epoch: int | None = 1

    # -- the actors ------------------------------------------------------------------------------------

    def _wait(self) -> Actor:
        """While it runs: looks, parks, looks once more.

        A sleeper parks without a look: its time was not over yet. A step that is tried again has failed again.
        """
        if self.epoch is None or self.done:
            return
        if self.woken_now() or self.kind not in TIMED:
            found = self._found()
            self.commit("waiter")
            if found:
                self.done = True
                return
            yield
        yield from self._locked("waiter", self._park)
        yield
        self.epoch = None
        self.commit("waiter")
        yield
        self.run("waiter", wait.LOOK, self.id)
        self.commit("waiter")

    def woken_now(self) -> bool:
        return self.epoch is not None and self.epoch > 1

    def _found(self) -> bool:
        if self.kind == "message":
            return bool(self.run("waiter", message.HAS_MESSAGE, self.id, "topic")[0][0])
        if self.kind == "event":
            return bool(self.run("waiter", message.READ_EVENT, self.source, "it")[0][2])
        return True

    def _park(self) -> None:
        subject = WAIT_OF[self.kind].format(source=self.source)
        owner = (self.id, self.executor, self.epoch, None, None)
        left_s, attempts = (0.0, 2) if self.kind == "retry" else (None, 0)
        rows = self.run("waiter", wait.PARK, *owner, ["1"], [self.kind], [subject], [left_s], [None], [attempts])
        assert rows, "not parked"

    def _send(self) -> Actor:
        self.run("sender", message.SEND, self.id, "topic", "1", None)
        yield
        self.commit("sender")

    def _set_event(self) -> Actor:
        self.run("sender", message.PUT_EVENT, self.source, "it", "1")
        if self.wake_in_transaction:
            self.run("sender", message.WAKE_WAITERS, "event", [f"{self.source}:it"])
        yield
        self.commit("sender")
        yield
        if not self.wake_in_transaction:
            self.run("sender", message.WAKE_WAITERS, "event", [f"{self.source}:it"])
            self.commit("sender")

    def _nothing(self) -> Actor:
        yield from ()

    def _claim(self, times: int) -> Actor:
        for _ in range(times):
            batch = next(self.batches)
            rows = self.run("claimer", claim.CLAIM, ["default"], ["waits"], 10, self.executor, batch, batch)
            yield
            self.commit("claimer")
            for row in rows:
                if row[0] == self.id:
                    self.epoch, self.woken = row[3], self.woken + 1
            yield

    def _ring(self, times: int) -> Actor:
        for _ in range(times):
            yield from self._locked("timer", lambda: self.run("timer", wait.WAKE_DUE, 100, *BEGINNING))
            yield
            self.commit("timer")
            yield

    def _locked(self, who: str, action: Callable[[], Any]) -> Actor:
        """Tries again after others have gone on: this thread plays all of them, so it cannot wait for one."""
        for _ in range(50):
            try:
                action()
            except psycopg.errors.LockNotAvailable:
                self.connections[who].rollback()
                yield
            else:
                return
        raise AssertionError(f"{who} never got its lock")


def lost(world: World, kind: str, seeds: range) -> list[int]:
    """The seeds of runs that lost their wake-up."""
    return [seed for seed in seeds if world.is_lost(kind, seed)]


def replace(world: World, statement: Statement, old: str, new: str) -> None:
    """Makes a mutant of this world's statement; one that changes nothing is none."""
    assert old in world.texts[statement], f"{statement} has changed: correct the mutant"
    world.texts[statement] = world.texts[statement].replace(old, new)
