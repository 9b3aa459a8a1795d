"""What an executor costs that has nothing to do, counted at the seam."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from dbdurable import Durable
from dbdurable._executor.claims import Taken
from dbdurable._executor.control import POLL_S_FIRST
from tests.support.wait import wait_until

SECONDS = 6.0
FLIGHTS_PER_S_MAX = 2.0


class Counts:
    """Counts flights by who makes them, once the executor has come to rest."""

    def __init__(self) -> None:
        self.by: Counter[str] = Counter()

    def reached(self, point: str, connection: object) -> None:
        if point.startswith("before "):
            self.by[threading.current_thread().name] += 1


def count_at_rest(seam: Counts) -> tuple[Counter[str], float]:
    """The flights of an executor that has nothing to do, by who makes them, and the seconds they were counted."""
    # The pause between two looks grows to a second while nothing is found.
    begun = seam.by["dbdurable-control"]
    wait_until(lambda: seam.by["dbdurable-control"] >= begun + 8, 20, "the looks to slow down")
    seam.by.clear()
    since = time.monotonic()
    wait_until(lambda: time.monotonic() - since >= SECONDS, SECONDS * 2)
    return seam.by.copy(), time.monotonic() - since


def test_an_idle_executor_makes_at_most_two_flights_a_second(database_url: str) -> None:
    """Beats and looks together, at default settings; upkeep rides with the looks."""
    durable = Durable(database_url)
    seam = Counts()
    durable._runtime.database.seam = seam

    @durable.workflow
    def work() -> None:
        pass

    with durable.executor():
        work.start().result(timeout=20)
        counted, took_s = count_at_rest(seam)
    durable.close()
    print(f"flights of an idle executor in {took_s:.1f} s: {dict(counted)}")
    assert counted["dbdurable-control"] > 0, "void: it did not look"
    assert counted["dbdurable-heartbeat"] > 0, "void: it did not beat"
    # One more of each kind than fits, because the window begins anywhere.
    assert counted.total() <= FLIGHTS_PER_S_MAX * took_s + 2


@pytest.mark.parametrize(
    ("hears", "limits", "pauses"),
    [
        (True, False, [20, 250, 375, 562, 844, 1000, 1000]),
        (False, False, [20, 30, 45, 68, 101, 152, 228]),
        (True, True, [20, 30, 45, 68, 101, 152, 228]),
    ],
    ids=["hears of work", "polls alone", "shares a limit"],
)
def test_where_work_is_heard_of_idle_looks_are_rare_at_once(
    hears: bool, limits: bool, pauses: list[int], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses after a job, in milliseconds: exactly so many looks for nothing."""
    if not hears:
        monkeypatch.setenv("DBDURABLE_LISTEN_URL", "never")
    durable = Durable(database_url)
    durable.queue("orders", concurrency=5 if limits else None)
    found: list[int] = []

    @durable.workflow
    def work() -> None:
        pass

    with durable.executor() as executor:
        wait_until(lambda: executor.listener.listening or not hears, what="it listens")
        control = executor.control
        pause_s = control._pause_s

        def note(taken: Taken, before_s: float) -> float:
            paused_s = pause_s(taken, before_s)
            if taken.count or before_s == POLL_S_FIRST:  # it was woken, maybe by the job's end
                found[:] = [round(POLL_S_FIRST * 1000)]
            if not taken.count:
                found.append(round(paused_s * 1000))
            return paused_s

        monkeypatch.setattr(control, "_pause_s", note)
        work.start().result(timeout=20)
        wait_until(lambda: len(found) >= len(pauses), 20, "the looks after it")
    durable.close()
    assert found[: len(pauses)] == pauses
