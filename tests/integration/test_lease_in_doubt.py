"""A lease that only looked lost: the database was away for almost as long as it lasts, and then was back."""

from __future__ import annotations

import threading

import psycopg
import pytest

from dbdurable import Durable


class HoldsBeats:
    """A seam at which the heartbeat waits, as if the database were away."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def reached(self, point: str, connection: object) -> None:
        if point.startswith("before beat"):
            self.gate.wait(20)


def test_what_was_left_because_the_lease_looked_lost_goes_on(
    database_url: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "0.1")
    durable, seam, ran = Durable(database_url), HoldsBeats(), []

    @durable.step
    def note(number: int) -> int:
        return number

    @durable.workflow
    def work() -> int:
        ran.append(1)
        if len(ran) == 1:
            seam.gate.clear()
            executor.lease._good_until = 0.0  # what the clock says after TTL - 2 s without an answer
        try:
            return note(7)
        finally:
            seam.gate.set()  # the database is back before anybody has declared this executor dead

    durable._runtime.database.seam = seam
    with durable.executor() as executor:
        handle = work.start()
        try:
            assert handle.result(timeout=3) == 7
        finally:
            durable._runtime.database.seam = None
    durable.close()
    assert len(ran) == 2, "void: the lease never looked lost"
    assert connection.execute("select count(*) from dbdurable.lease").fetchone() == (0,)
