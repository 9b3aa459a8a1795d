"""What an executor costs that has nothing to do, counted at the seam."""

from __future__ import annotations

import threading
import time
from collections import Counter

from dbdurable import Durable
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
    # The pause between two looks grows from 20 ms to a second while nothing is found.
    begun = seam.by["dbdurable-control"]
    wait_until(lambda: seam.by["dbdurable-control"] >= begun + 14, 20, "the looks to slow down")
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
