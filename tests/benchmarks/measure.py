"""Rounds of all contestants: alone on the server while counted, in turns while timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.benchmarks.arena import Arena, arena, held_snapshots
from tests.benchmarks.contest import Contestant, Load, Run
from tests.benchmarks.wire import Door, door

DELAY_S = 0.00025
"""`far`: so much longer each way."""


@dataclass(frozen=True)
class Effort:
    """How thoroughly."""

    rounds: int = 5
    quick: bool = False
    counted_times: int = 3
    """The least of so many windows counts: heartbeats and polls come by the clock, not by the workflow."""


@dataclass
class Figures:
    """What one contestant did in one load; a value a round, everything for one unit."""

    per_s: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    client_cpu_ms: list[float] = field(default_factory=list)
    server_cpu_ms: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=dict)
    """Units a second of each phase."""
    samples_ms: list[float] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    done: int = 0
    """Units that were asked for, warm-ups included."""


@dataclass
class Slice:
    """One run, measured."""

    units: int
    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    phases: dict[str, float]
    samples: list[float]
    facts: dict[str, float]


class Match:
    """One load under one condition, with all of its contestants."""

    def __init__(self, ring: Arena, load: Load, effort: Effort, through: Door | None) -> None:
        self._ring = ring
        self._load = load
        self._effort = effort
        self._through = through
        self.contestants = [each for each in load.contestants if each.key in ring.databases]
        self.figures = {each.key: Figures() for each in self.contestants}

    @contextmanager
    def warm(self, contestant: Contestant, through: Door | None) -> Iterator[Run]:
        """The contestant with connections open and statements prepared; keeps account of the units it did."""
        url = self._ring.url_of(contestant)
        lanes = contestant.lanes or self._load.lanes
        figures = self.figures[contestant.key]
        with contestant.opened(through.url_of(url) if through else url, lanes) as run:

            def counting(units: int) -> Any:
                figures.done += units
                return run(units)

            if self._load.warm_up:
                counting(self._load.warm_up * lanes)
            yield counting

    def count(self, contestant: Contestant, few: int, many: int) -> None:
        """Exact counts for a unit, alone on the server, in steady state.

        What a checkpoint makes the server log anew (whole pages at their first change, and with checksums at
        their first hint bit) is provoked before the window: by the warm-up, and by reading what it wrote.
        """
        seen: dict[tuple[str, int], list[float]] = {}
        with door(self._ring.url) as through:
            for units in (few, many) * self._effort.counted_times:
                before, traffic = self._ring.commits(contestant), through.traffic()
                self._ring.admin.execute("checkpoint")
                with self.warm(contestant, through) as run:
                    self._ring.inside(contestant, contestant.done)
                    lsn = self._ring.lsn()
                    run(units)
                    wal = self._ring.lsn() - lsn
                after, now = self._ring.commits(contestant), through.traffic()
                for name, value in (
                    ("commits", after - before),
                    ("statements", now.statements - traffic.statements),
                    ("round_trips", now.round_trips - traffic.round_trips),
                    ("wal_bytes", wal),
                ):
                    seen.setdefault((name, units), []).append(value)
        counts = self.figures[contestant.key].counts
        for name in ("commits", "statements", "round_trips"):
            counts[name] = (min(seen[name, many]) - min(seen[name, few])) / (many - few)
        counts["wal_bytes"] = min(seen["wal_bytes", many]) / many

    def race(self, contestant: Contestant) -> None:
        """One turn, in slices that alternate with the same slices of the reference."""
        load = self._load
        units = load.units(contestant, self._effort.quick)
        each = -(-units // load.slices)
        reference = next((one for one in self.contestants if one.key == load.reference(contestant)), None)
        alternates = load.slices > 1 and reference not in (None, contestant)
        own, others = list[Slice](), list[Slice]()
        with ExitStack() as stack:
            run = stack.enter_context(self.warm(contestant, self._through))
            run_other = None
            if alternates and reference is not None:
                run_other = stack.enter_context(self.warm(reference, self._through))
            gc.collect()
            for _ in range(load.slices):
                own.append(self._timed(run, each))
                if run_other:
                    others.append(self._timed(run_other, each))
        figures = self.figures[contestant.key]
        total = sum(one.units for one in own)
        figures.per_s.append(total / sum(one.seconds for one in own))
        figures.client_cpu_ms.append(sum(one.client_cpu_s for one in own) / total * 1000)
        figures.server_cpu_ms.append(sum(one.server_cpu_s for one in own) / total * 1000)
        for name in own[0].phases:
            figures.phases.setdefault(name, []).append(total / sum(one.phases[name] for one in own))
        figures.samples_ms.extend(sample * 1000 for one in own for sample in one.samples)
        for one in own:
            figures.facts |= one.facts
        if others:
            figures.ratio.append(median(b.seconds / a.seconds for a, b in zip(own, others, strict=True)))

    def _timed(self, run: Run, units: int) -> Slice:
        cpu, server = time.process_time(), self._ring.cpu_s()
        begun = time.perf_counter()
        spent = run(units)
        seconds = time.perf_counter() - begun
        client = time.process_time() - cpu + (spent.cpu_s if spent else 0.0)
        phases = spent.phases if spent else {}
        samples, facts = (spent.samples, spent.facts) if spent else ([], {})
        server = self._ring.cpu_s() - server
        return Slice(units, sum(phases.values()) or seconds, client, server, phases, samples, facts)

    def settle_ratios(self) -> None:
        """Where turns did not alternate: each round's rate by the reference's rate of the same round."""
        for contestant in self.contestants:
            figures = self.figures[contestant.key]
            reference = self.figures.get(self._load.reference(contestant))
            if not figures.ratio and reference is not None:
                figures.ratio = [a / b for a, b in zip(figures.per_s, reference.per_s, strict=True)]

    def check(self) -> None:
        """Raises unless every contestant did exactly the work that was asked for."""
        for contestant in self.contestants:
            done = self.figures[contestant.key].done
            found = tuple(self._ring.inside(contestant, contestant.done))
            wanted = self._load.wanted(done)
            assert found == wanted, f"{self._load.name}: {contestant.key} has {found} in its database, not {wanted}"


def measure(
    url: str,
    load: Load,
    condition: str,
    effort: Effort,
    only: Callable[[Contestant], bool] = lambda _: True,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Figures]:
    """Counts first (`near` only), then rounds: each contestant once a round, beginning with another one each time."""
    present = [each for each in load.contestants if each.installed and only(each)]
    with ExitStack() as stack:
        ring = stack.enter_context(arena(url, present))
        through = stack.enter_context(door(url, DELAY_S)) if condition == "far" else None
        match = Match(ring, load, effort, through)
        if load.counted and condition == "near":
            for contestant in present:
                advance(f"{load.title}: counting {contestant.key}")
                match.count(contestant, *load.counted)
        with held_snapshots(ring) if condition == "held" else nullcontext():
            for number in range(effort.rounds):
                first = number % max(1, len(present))
                for contestant in (*present[first:], *present[:first]):
                    advance(f"{load.title}, {condition}: {contestant.key}")
                    match.race(contestant)
        match.settle_ratios()
        match.check()
        for contestant in present:
            ring.commits(contestant)  # every session has reported
            if (hot := ring.hot(contestant)) is not None:
                match.figures[contestant.key].counts["hot_ratio"] = hot
        return match.figures


def steps_of(load: Load, condition: str, effort: Effort, contestants: Sequence[Contestant]) -> int:
    """How often `measure` calls `advance`."""
    counted = 1 if load.counted and condition == "near" else 0
    return len(contestants) * (counted + effort.rounds)
