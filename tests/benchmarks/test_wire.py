"""The door in front of the server: what it counts is exact, and what it adds is there."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.benchmarks.wire import Frames, door

pytestmark = pytest.mark.benchmark


def test_statements_and_round_trips_are_counted_exactly(server_url: str) -> None:
    with door(server_url) as through, psycopg.connect(through.url_of(server_url), autocommit=True) as connection:
        connection.execute("select 1")
        before = through.traffic()
        for _ in range(5):
            connection.execute("select %s::int", [1], prepare=False)
        one_by_one = through.traffic()
        with connection.pipeline():
            for _ in range(5):
                connection.execute("select %s::int", [1], prepare=False)
        in_a_flight = through.traffic()

    assert (one_by_one.statements - before.statements, one_by_one.round_trips - before.round_trips) == (5, 5)
    assert in_a_flight.statements - one_by_one.statements == 5
    assert in_a_flight.round_trips - one_by_one.round_trips == 1


def test_a_delay_is_added_both_ways_and_keeps_the_order(server_url: str) -> None:
    with door(server_url, 0.05) as through, psycopg.connect(through.url_of(server_url), autocommit=True) as connection:
        begun = time.perf_counter()
        rows = connection.execute("select n, repeat('x', 100000) from generate_series(1, 50) n").fetchall()
        taken = time.perf_counter() - begun

    assert [n for n, _ in rows] == list(range(1, 51))
    assert taken >= 0.1  # never less than what it adds: that is a fact, not a speed


@pytest.mark.parametrize("cut", range(1, 12))
def test_frames_are_found_however_the_bytes_arrive(cut: int) -> None:
    startup, query, sync = b"\0\0\0\x08\0\x03\0\0", b"Q\0\0\0\x06a\0", b"S\0\0\0\x04"
    stream = startup + query + sync + query
    frames = Frames(untyped_first=True)

    kinds = [kind for start in range(0, len(stream), cut) for kind in frames.kinds(stream[start : start + cut])]

    assert kinds == [b"", b"Q", b"S", b"Q"]
