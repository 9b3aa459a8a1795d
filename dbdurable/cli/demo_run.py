"""The course of the demo: prepare or go on, start, watch, kill, wait, check."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from dbdurable._io.connect import connect
from dbdurable.cli.demo_app import THREADS, durable
from dbdurable.cli.demo_fleet import Fleet
from dbdurable.cli.demo_show import Screen
from dbdurable.cli.demo_store import START_ALL, Check, Standing, Store
from dbdurable.settings import mask_url

__all__ = ["Outcome", "run_demo"]

KILL_AT = 0.4
KILL_NOT_AFTER = 0.9
LOOK_S, LOOK_S_FEW_ROWS = 0.2, 0.02
FEW_ROWS = 1000
LOCK_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 60.0
STALLED_S = 90.0
SESSIONS_END_S = 5.0


@dataclass
class Kill:
    """The worker that was killed."""

    pid: int
    at_done: int
    held: int
    """How many workflows it had in hand."""
    finished_elsewhere_after_s: float | None = None


@dataclass
class Outcome:
    """What the demo found."""

    rows: int
    workers: int
    resumed_at: int | None = None
    killed: Kill | None = None
    carrier_calls: int = 0
    changed_hands: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {"ok": self.ok, **asdict(self)}


def run_demo(screen: Screen, *, rows: int, workers: int, kill: bool, fresh: bool) -> Outcome:
    """Runs it to its end.

    Raises:
        DatabaseUnavailable, BadConfiguration: It cannot run here.
        RuntimeError: Another demo is running, or nothing moves any more.
    """
    logging.getLogger("dbdurable").setLevel(logging.ERROR)  # the line below says where the database is
    with connect(durable.url) as connection:
        screen.say(f"Database: {mask_url(durable.url)}")
        store = Store(connection)
        _wait(store.lock, LOCK_TIMEOUT_S, "another `dbdurable demo` is running on this database")
        unfinished = None if fresh else store.unfinished()
        if unfinished is None:
            screen.say(f"Loading {rows:,} cities into the application's own tables (schema dbdurable_demo_app).")
            store.begin(rows)
        store.migrate()
        course = Course(screen, store, Outcome(rows=unfinished or rows, workers=workers), kill)
        if unfinished is not None:
            course.going_on()
        course.fleet = Fleet(durable.url, workers)
        try:
            course.run()
        finally:
            course.fleet.close()
        course.check()
        return course.outcome


def _wait(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    """Looks until it is true.

    Raises:
        RuntimeError: It is not, after `timeout_s`.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(LOOK_S_FEW_ROWS)


class Course:
    """One run."""

    fleet: Fleet

    def __init__(self, screen: Screen, store: Store, outcome: Outcome, kill: bool) -> None:
        self.screen, self.store, self.outcome = screen, store, outcome
        self.kill_wanted = kill
        self.kill_at = round(KILL_AT * outcome.rows)
        self._killed_at = 0.0

    def going_on(self) -> None:
        """Says where the interrupted run was; a worker is killed only if there is enough left for it."""
        now, killed = self.store.standing(), self.store.killed()
        self.outcome.resumed_at = now.done
        self.screen.say(
            f"Going on with the run that was interrupted at {now.done:,} of {now.total:,}; "
            f"{self.store.interrupted():,} workflows were in the hands of its workers.",
            "bold",
        )
        if killed is not None:
            self.outcome.killed = Kill(*killed, held=self.store.held_at_kill())
        elif now.done > self.kill_at:
            self.kill_at = round(now.done + 0.1 * now.total)
            self.kill_wanted = self.kill_wanted and self.kill_at < KILL_NOT_AFTER * now.total

    def run(self) -> None:
        """Starts everything and returns when everything has ended."""
        _wait(self._registered, READY_TIMEOUT_S, "no worker was ready in time")
        self.screen.say("Starting a workflow for each city, in one SQL statement:")
        self.screen.say("    " + START_ALL.replace("\n", "\n    ") + ";", "dim")
        began, first = time.monotonic(), self.store.standing().done
        self.store.start_all()
        with self.screen:
            now = self._watch()
        self.outcome.rate = round((now.done - first) / (time.monotonic() - began), 1)

    def _registered(self) -> bool:
        self._repeat_words()
        self._replace_the_dead()
        return self.store.registered()

    def _watch(self) -> Standing:
        moved_at, done = time.monotonic(), -1
        while True:
            now = self.store.standing()
            self.screen.show(now.done, now.total, len(self.fleet.alive))
            self._repeat_words()
            self._after_the_kill(now)
            if now.done >= now.total:
                return now
            if now.done > done:
                moved_at, done = time.monotonic(), now.done
            elif time.monotonic() - moved_at > STALLED_S:
                raise RuntimeError(f"nothing has moved for {STALLED_S:.0f} s at {now.done} of {now.total}")
            if self.kill_wanted and self.outcome.killed is None and now.done >= self.kill_at:
                self._kill_one(now)
            self._replace_the_dead()
            time.sleep(LOOK_S if now.total > FEW_ROWS else LOOK_S_FEW_ROWS)

    def _kill_one(self, now: Standing) -> None:
        """SIGKILL for the worker that has the most in hand; later, if they have next to nothing just now."""
        pid, running = self.store.busiest([worker.process.pid for worker in self.fleet.alive])
        worker = self.fleet.by_pid(pid)
        if worker is None or running < (THREADS // 2 if now.done < KILL_NOT_AFTER * now.total else 1):
            return
        worker.kill()
        self._killed_at = time.monotonic()
        name = worker.session_name
        _wait(lambda: self.store.sessions(name) == 0, SESSIONS_END_S, "the server keeps a dead worker's sessions")
        held = self.store.note_kill(pid, now.done)
        self.outcome.killed = Kill(pid, now.done, held)
        self.screen.say(
            f"Killed worker {worker.number} (pid {pid}) with SIGKILL at {now.done:,} of {now.total:,}; "
            f"it had {held} workflows in hand.",
            "bold yellow",
        )

    def _after_the_kill(self, now: Standing) -> None:
        killed = self.outcome.killed
        if killed is None or not self._killed_at or killed.finished_elsewhere_after_s is not None or now.held:
            return
        killed.finished_elsewhere_after_s = round(time.monotonic() - self._killed_at, 1)
        self.screen.say(
            f"All {killed.held} were taken over and are done, {killed.finished_elsewhere_after_s:g} s after the kill.",
            "bold green",
        )

    def _replace_the_dead(self) -> None:
        """The survivors do the work; only when there are none, a new worker starts."""
        if not self.fleet.alive:
            self.fleet.start_one()

    def _repeat_words(self) -> None:
        while not self.fleet.said.empty():
            self.screen.say(self.fleet.said.get(), "dim")

    def check(self) -> None:
        """Compares the application's tables with the workflow tables."""
        outcome = self.outcome
        outcome.carrier_calls, outcome.changed_hands = self.store.calls()
        outcome.checks = self.store.checks(kill=self.kill_wanted or outcome.killed is not None)
        self.store.finish()
        self.screen.say(
            f"\n{outcome.rows:,} workflows done, {outcome.rate:,.0f}/s; {outcome.changed_hands:,} of them changed "
            "hands (epoch > 1)."
        )
        self.screen.table(outcome.checks)
