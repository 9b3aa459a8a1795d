"""What was tried, as a table at the end of the run; the points themselves with `-s`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import pytest

from tests.crash.faults import SEED
from tests.crash.workflows import TABLES

Note = Callable[[str, str, Iterable[Any], int], None]


@pytest.fixture
def points_tried(request: pytest.FixtureRequest) -> Note:
    """Notes the points at which a fault was made, and out of how many."""

    def note(program: str, fault: str, points: Iterable[Any], out_of: int) -> None:
        names = [str(point) for point in points]
        for name in names:
            print(f"{fault:8} {program:16} {name}")
        request.node.user_properties.append(("points_tried", [fault, program, len(names), out_of]))

    return note


@pytest.fixture
def prepared(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The application's tables, in the test's fresh database."""
    connection.execute(TABLES)
    return connection


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", []):
            if name == "points_tried" and report.when == "call":
                fault, program, count, out_of = value
                tried.setdefault(fault, []).append(f"{program} {count}/{out_of}")
    if tried:
        terminalreporter.write_sep("-", f"points tried (DBDURABLE_TEST_SEED={SEED})")
        for fault, programs in tried.items():
            terminalreporter.write_line(f"{fault:8} {', '.join(programs)}")
