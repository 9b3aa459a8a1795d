"""The benchmark itself works: every contestant does exactly its work. Nothing here asserts a time."""

from __future__ import annotations

import pytest

from tests.benchmarks.contestants import CONTESTANTS
from tests.benchmarks.measure import arena, measure, total_of
from tests.benchmarks.transactions import data_of, loads_of, table_of

pytestmark = pytest.mark.benchmark


def test_every_contestant_does_exactly_its_work(server_url: str) -> None:
    contestants = [each for each in CONTESTANTS if each.installed]
    loads, seen = loads_of(2, lanes=4), list[str]()
    with arena(server_url, contestants) as ring:
        result = measure(ring, contestants, loads, 1, seen.append)

    result.check()
    assert set(result.done) == {each.key for each in contestants}
    assert len(seen) == total_of(contestants, loads, 1)
    assert len(data_of(result, loads)) == len(CONTESTANTS)
    assert [table_of(result, load).row_count for load in loads] == [len(CONTESTANTS)] * 2
