"""The short form of the chaos run: about half a minute of faults, then every promise, by SQL."""

from __future__ import annotations

import pytest

from tests.chaos.arena import Plan, arena
from tests.chaos.oracle import judge, void
from tests.crash.faults import SEED

SECONDS = 18


@pytest.mark.timeout(300)
def test_four_workers_under_a_nemesis_lose_and_repeat_nothing() -> None:
    with arena(Plan(SEED, SECONDS)) as opened:
        report = opened.run()
        print(f"DBDURABLE_TEST_SEED={SEED}: {report}")
        verdicts = judge(opened.connection)
    for verdict in verdicts:
        print(verdict)
    assert void(report.injected, report.hit, report.reborn) == []
    assert [str(verdict) for verdict in verdicts if not verdict.good] == []
