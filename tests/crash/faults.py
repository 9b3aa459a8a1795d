"""How the points of a program are tried: all of them in the long run, a sample by seed in the short one."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from dbdurable.testing.crash import Point

SEED = int(os.environ.get("DBDURABLE_TEST_SEED") or random.SystemRandom().randrange(10_000))
"""Printed with the points tried; set the variable to try the same ones again."""

ROLES = ("caller", "workflow")


def of_programs(points: Sequence[Point]) -> list[Point]:
    """The points of what runs workflows, without those of services."""
    return [point for point in points if point.role in ROLES]


def sample(points: Sequence[Point], wanted: int | None, name: str) -> list[Point]:
    """At most `wanted` of them, in order; None: all."""
    if wanted is None or len(points) <= wanted:
        return list(points)
    chosen = random.Random(f"{SEED} {name}").sample(range(len(points)), wanted)
    return [points[index] for index in sorted(chosen)]
