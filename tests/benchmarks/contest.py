"""The words of the benchmarks: a load, who runs it, and what a run of it answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

STEPS = 10


@dataclass(frozen=True)
class Spent:
    """What a run took when not everything between its beginning and its end counts, or when others worked for it."""

    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of each phase. Their sum is the time of the run."""
    cpu_s: float = 0.0
    """Of worker processes."""
    samples: list[float] = field(default_factory=list)
    """Seconds that single units took, where that is what the load is about."""
    facts: dict[str, float] = field(default_factory=dict)
    """What else is worth telling, each under a name with its unit."""


Run = Callable[[int], Spent | None]
"""Does so many units of work to the end."""

Opened = Callable[[str, int], AbstractContextManager[Run]]
"""`opened(url, lanes)`: what happens once (connecting, tables, executors) is outside of the `Run` that it yields."""


@dataclass(frozen=True)
class Contestant:
    """One way to do a load."""

    name: str
    colour: str
    """"sync", "async", or how it is set up where that is the difference."""
    opened: Opened
    done: str
    """Selects what its database has afterwards: as many columns as `Load.wanted` gives."""
    setup: str | Callable[[str], None] = ""
    """SQL, or a function of the URL, that makes its tables."""
    package: str | None = None
    share: float = 1.0
    """Slow ones do only this share of the units of a round. Rates are comparable, and an evening is enough."""
    lanes: int | None = None
    """Its own number of lanes, instead of the load's."""

    @property
    def key(self) -> str:
        return f"{self.name} {self.colour}".strip()

    @property
    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


@dataclass(frozen=True)
class Load:
    """What is done, how much of it, and by whom."""

    name: str
    title: str
    unit: str
    """What is counted: workflows, jobs, branches, steps."""
    contestants: tuple[Contestant, ...]
    wanted: Callable[[int], tuple[Any, ...]]
    """What `Contestant.done` must select after so many units."""
    reference: Callable[[Contestant], str]
    """The key of the contestant that the ratio of this one is to."""
    lanes: int = 1
    full: int = 100
    quick: int = 4
    """Units of a round, and of a round with --quick."""
    slices: int = 1
    """With more than one, a turn alternates with slices of the reference, so that both meet the same weather."""
    warm_up: int = 2
    """Units a lane before the clock starts."""
    counted: tuple[int, int] | None = None
    """Two windows of so many units: the difference has no cost of opening and closing in it. None: not counted."""
    conditions: tuple[str, ...] = ("near", "far", "held")
    """Where it is worth measuring: `near` is as it is, `far` has 0.5 ms more a round trip, `held` an old snapshot."""

    def units(self, contestant: Contestant, quick: bool) -> int:
        return max(2, round((self.quick if quick else self.full) * contestant.share))
