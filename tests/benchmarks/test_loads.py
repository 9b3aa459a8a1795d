"""The benchmark itself works: every contestant does exactly its work, briefly. Nothing here asserts a time."""

from __future__ import annotations

import pytest

from tests.benchmarks.contest import Contestant, Load
from tests.benchmarks.loads import LOADS
from tests.benchmarks.measure import Effort, measure, steps_of

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

EVERYTHING = [
    pytest.param(load, each, id=f"{load.name}-{each.key.replace(' ', '-')}")
    for load in LOADS
    for each in load.contestants
]


@pytest.mark.parametrize(("load", "contestant"), EVERYTHING)
def test_a_contestant_does_exactly_its_work(server_url: str, load: Load, contestant: Contestant) -> None:
    if not contestant.installed:
        pytest.skip(f"{contestant.package} is not installed")
    seen = list[str]()
    effort = Effort(rounds=1, quick=True, counted_times=1)
    figures = measure(server_url, load, "near", effort, lambda each: each is contestant, seen.append)

    assert list(figures) == [contestant.key]
    own = figures[contestant.key]  # `measure` has checked that the database holds what was asked for
    assert own.done >= load.units(contestant, True)
    assert len(own.per_s) == 1
    assert len(seen) == steps_of(load, "near", effort, [contestant])
    if load.counted:
        assert own.counts["commits"] > 0
        assert own.counts["statements"] >= own.counts["commits"] / 2
        assert own.counts["round_trips"] > 0
        assert own.counts["wal_bytes"] > 0
