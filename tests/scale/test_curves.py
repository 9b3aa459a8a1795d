"""What a unit of work costs does not grow with what lies beside it, or grows in proportion: by exact counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.benchmarks import scenes
from tests.benchmarks.curves import CURVES, UPKEEP, WORKFLOW, Curve, Point, cost_of, measured
from tests.benchmarks.meter import Meter, meters

BY_NAME = {curve.name: curve for curve in CURVES}
Make = Callable[[], Meter]


@pytest.fixture(scope="module")
def meter() -> Iterator[Make]:
    with meters() as make:
        yield make


def sizes_of(*names: str) -> list[object]:
    """Few sizes in the default suite, all of them when asked for."""
    short = [pytest.param(BY_NAME[name], BY_NAME[name].short, id=name) for name in names]
    marks = [pytest.mark.long, pytest.mark.timeout(900)]
    return short + [pytest.param(BY_NAME[name], BY_NAME[name].sizes, marks=marks, id=f"{name}-long") for name in names]


def check_flat(points: list[Point], work: str) -> None:
    """An index that is a thousand times larger is one level deeper; everything else stays as it is."""
    first, *others = [point for point in points if point["work"] == work]
    for cost, more, share in (
        ("statements", 0.2, 1.0),
        ("round_trips", 0.2, 1.0),
        ("wal_bytes", 20, 1.2),
        ("pages", 12, 1.4),
    ):
        for other in others:
            assert other[cost] <= share * first[cost] + more, f"{cost} of {work}: {first} {other}"
    for point in (first, *others):  # sessions that are opened in one of the two windows make some more, or some less
        assert point["commits"] <= first["round_trips"] + 0.5, f"commits of {work}: {first} {point}"


@pytest.mark.parametrize(("curve", "sizes"), sizes_of("backlog", "waiting", "finished", "failed"))
def test_work_costs_the_same_whatever_lies_beside_it(meter: Make, curve: Curve, sizes: tuple[int, ...]) -> None:
    points = measured(meter(), curve, sizes)
    for work in curve.works:
        print(f"pages of {work.name}, by {curve.title}: {cost_of(points, work, 'pages')}")
        check_flat(points, work.name)


@pytest.mark.parametrize(("curve", "sizes"), sizes_of("executors"))
def test_upkeep_reads_all_leases_and_nothing_else_costs_more_among_many_executors(
    meter: Make, curve: Curve, sizes: tuple[int, ...]
) -> None:
    """Who has died is found by reading all lease rows: those of 200 executors, 3,200 of them, are some 700 pages."""
    points = measured(meter(), curve, sizes)
    for work in curve.works:
        print(f"pages of {work.name}, by executors: {cost_of(points, work, 'pages')}")
        if work is not UPKEEP:
            check_flat(points, work.name)
    upkeep = cost_of(points, UPKEEP, "pages")
    assert max(upkeep.values()) <= min(upkeep.values()) + 20 + 4 * max(sizes)
    assert set(cost_of(points, UPKEEP, "round_trips").values()) == {1}


@pytest.mark.parametrize(("curve", "sizes"), sizes_of("history"))
def test_one_more_step_costs_the_same_and_replay_asks_for_nothing(
    meter: Make, curve: Curve, sizes: tuple[int, ...]
) -> None:
    points, (one_more, replayed) = measured(meter(), curve, sizes), curve.works
    print({work.name: cost_of(points, work, "pages") for work in curve.works})
    check_flat(points, one_more.name)
    # Seven statements in two round trips, and one look of the executor's that may fall into the window by the clock.
    for cost, most in (("statements", 14), ("round_trips", 3), ("commits", 8)):
        of_all = {size: size * each for size, each in cost_of(points, replayed, cost).items()}
        assert max(of_all.values()) <= most + 0.01, f"{cost} of a whole replay: {of_all}"
    pages = {size: size * each for size, each in cost_of(points, replayed, "pages").items()}
    assert all(each <= 100 + size for size, each in pages.items()), pages


@pytest.mark.parametrize(("curve", "sizes"), sizes_of("payload"))
def test_a_payload_is_written_once_for_each_place_that_keeps_it(
    meter: Make, curve: Curve, sizes: tuple[int, ...]
) -> None:
    points = measured(meter(), curve, sizes)
    wal, pages = cost_of(points, WORKFLOW, "wal_bytes"), cost_of(points, WORKFLOW, "pages")
    print(f"by characters, kept twice: {wal} bytes of WAL, {pages} pages")
    for cost in ("statements", "round_trips"):
        assert len(set(cost_of(points, WORKFLOW, cost).values())) == 1
    for size in sizes:
        assert wal[size] <= 2_500 + 2 * 1.1 * size
        assert pages[size] <= 100 + 2 * size / 400


def test_what_was_planned_for_empty_tables_reads_none_of_them_when_they_are_full(meter: Make) -> None:
    """A session plans its statements once, and nothing analyses the tables meanwhile: flushes, beats and upkeep."""
    own = meter()
    with (
        psycopg.connect(own.url, autocommit=True) as connection,
        scenes.application(own.url) as (app, executor),
        scenes.heart_of(executor) as heart,
    ):

        def at_work(rounds: int) -> None:
            for _ in range(rounds):
                threads = [threading.Thread(target=lambda: [app.both(n) for n in range(4)]) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                heart.beat()
                executor.control._upkeep_at = 0.0
                executor.control.look()

        at_work(8)
        scenes.finished(connection, 5_000)
        scenes.failed(connection, 5_000)
        scenes.executors(connection, 1)
        at_work(8)
    own.settle()
    with psycopg.connect(own.url) as connection:
        found = connection.execute(
            "select relname, seq_tup_read from pg_stat_all_tables "
            "where schemaname = 'dbdurable' and seq_tup_read > 5000"
        ).fetchall()
    assert found == []
