"""The table of what was tried, at the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Note = Callable[[str, str, Iterable[Any]], None]
TRIED: pytest.StashKey[list[tuple[str, str, list[str]]]] = pytest.StashKey()


@pytest.fixture
def points_tried(request: pytest.FixtureRequest) -> Note:
    """Notes the points at which a fault was made: for `-s`, for reports, and for the table at the end."""

    def note(program: str, fault: str, points: Iterable[Any]) -> None:
        names = [str(point) for point in points]
        request.node.user_properties.append((f"{fault}: {program}", names))
        for name in names:
            print(f"{fault:8} {program:16} {name}")

    return note
