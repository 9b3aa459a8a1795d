"""What work costs beside more and more of everything: backlog, history, executors, payload, waiting workflows.

python -m tests.benchmarks.curves [--short] [--curves backlog ...] [--markdown] [--output JSON] [--chart SVG]

Exact counts, so any machine will do, however busy it is. The long sizes take about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from tests.benchmarks import scenes
from tests.benchmarks.about import machine
from tests.benchmarks.curve_chart import chart_of
from tests.benchmarks.meter import Connection, Cost, Meter, Opened, meters
from tests.benchmarks.report import markdown_table, shown
from tests.scale.claimer import backlog

COSTS = tuple(each.name for each in fields(Cost))
WINDOW = (0, 8)


@dataclass(frozen=True)
class Work:
    """One line of a curve."""

    name: str
    opened: Callable[[int], Opened]
    """By size, for work that is itself what grows."""
    window: Callable[[int], tuple[int, int]] = lambda _: WINDOW
    """Two numbers of units, whose difference is what counts."""
    shared_by: Callable[[int], int] = lambda _: 1
    """A unit of work is counted as so many."""


def beside(name: str, opened: Opened, shared_by: int = 1) -> Work:
    """Work that stays the same, whatever lies beside it."""
    return Work(name, lambda _: opened, shared_by=lambda _: shared_by)


WORKFLOW = beside("a workflow: start, step, transaction, finish", scenes.workflow)
CLAIM = beside("a workflow's share of a claim of 64", scenes.claim, scenes.CLAIM)
FULL = beside("the same from the queue's beginning", scenes.claim_from_the_beginning, scenes.CLAIM)
BEAT, UPKEEP = beside("a beat", scenes.beat), beside("a round of upkeep", scenes.upkeep)


@dataclass(frozen=True)
class Curve:
    """Work against the size of one thing."""

    name: str
    title: str
    sizes: tuple[int, ...]
    short: tuple[int, ...]
    """For the default test suite."""
    works: tuple[Work, ...]
    there: str = ""
    """Counts what lies beside the work; nothing does where the work itself grows."""
    grow: Callable[[Connection, int], None] = lambda connection, many: None
    """Adds so many of that."""


def _more_steps(steps: int) -> tuple[int, int]:
    return steps, steps + 64


def _some(connection: Connection, many: int) -> None:
    """So that the tables are not tiny: the server reads such as a whole."""
    if many:
        scenes.finished(connection, 1_000)


def _once(_: int) -> tuple[int, int]:
    return 0, 1


TICKETS = "select count(*) from dbdurable.ready where name = 'work'"


def _workflows(status: str) -> str:
    return f"select count(*) from dbdurable.workflow where name = 'beside' and status = '{status}'"


CURVES = (
    Curve(
        "backlog", "queued workflows", (1_000, 10_000, 100_000, 1_000_000), (1_500, 15_000),
        (WORKFLOW, beside("a start", scenes.start), CLAIM, FULL),
        TICKETS, backlog,
    ),
    Curve(
        "history", "recorded steps of one workflow", (10, 100, 1_000, 10_000), (10, 300),
        (
            Work("one more step", lambda _: scenes.long, _more_steps),
            Work("a step that is replayed", scenes.replay, _once, shared_by=lambda steps: steps),
        ),
        _workflows("succeeded"), _some,
    ),
    Curve(
        "executors", "executors alive, each with 32 running workflows in 16 lease rows", (1, 10, 50, 200), (1, 50),
        (BEAT, UPKEEP, WORKFLOW, CLAIM), "select count(*) from dbdurable.executor", scenes.executors,
    ),
    Curve(
        "payload", "characters of an argument, stored twice (input, result of a step)",
        (100, 1_000, 10_000, 100_000, 1_000_000), (100, 100_000), (Work(WORKFLOW.name, scenes.payload),),
    ),
    Curve(
        "waiting", "waiting workflows", (0, 1_000, 10_000, 100_000, 1_000_000), (0, 20_000),
        (WORKFLOW, CLAIM, UPKEEP), _workflows("waiting"), scenes.waiting,
    ),
    Curve(
        "finished", "finished workflows of three steps", (0, 1_000, 10_000, 100_000, 1_000_000), (0, 20_000),
        (WORKFLOW, CLAIM, BEAT, UPKEEP), _workflows("succeeded"), scenes.finished,
    ),
    Curve(
        "failed", "failed workflows", (0, 1_000, 10_000, 100_000), (0, 10_000), (WORKFLOW, UPKEEP),
        _workflows("failed"), scenes.failed,
    ),
)  # fmt: skip

OWN_BACKLOG = 1_000
"""What claims find at least."""

Point = dict[str, Any]


def measured(
    meter: Meter, curve: Curve, sizes: tuple[int, ...], advance: Callable[[str], None] = lambda _: None
) -> list[Point]:
    """A point for each size and work."""
    points = list[Point]()
    for size in sizes:
        for work in curve.works:
            advance(f"{size:,} {curve.title}: {work.name}")
            with psycopg.connect(meter.url, autocommit=True) as connection:
                _fill(connection, curve.there, size, curve.grow)
                if work is CLAIM:
                    _fill(connection, TICKETS, OWN_BACKLOG, backlog)
                connection.execute("vacuum analyze")
            cost = meter.cost(work.opened(size), *work.window(size))
            share = work.shared_by(size)
            points.append({"size": size, "work": work.name, **{name: x / share for name, x in asdict(cost).items()}})
    return points


def _fill(connection: Connection, there: str, size: int, grow: Callable[[Connection, int], None]) -> None:
    if there:
        row = connection.execute(there.encode()).fetchone()
        assert row is not None
        grow(connection, max(0, size - row[0]))


def cost_of(points: list[Point], work: Work, cost: str) -> dict[int, float]:
    """One column of the table, by size."""
    return {point["size"]: point[cost] for point in points if point["work"] == work.name}


# ---- for people ----------------------------------------------------------------------------------------------


def table_of(curve: dict[str, Any]) -> Table:
    """A line for each work: what is the same at all sizes, and what the server looks at for each of them."""
    points, table = curve["points"], Table(title=curve["title"], title_justify="left")
    sizes = sorted({point["size"] for point in points})
    table.add_column("a unit of work", no_wrap=True)
    counts = [name for name in COSTS if name not in ("pages", "cpu_us")]
    for heading in (*(name.replace("_", " ") for name in counts), *(f"pages at {size:,}" for size in sizes)):
        table.add_column(heading, justify="right", no_wrap=True)
    for work in dict.fromkeys(point["work"] for point in points):
        own = [point for point in points if point["work"] == work]
        cells = [span([point[name] for point in own]) for name in counts]
        table.add_row(work, *cells, *(shown(point["pages"]) for point in own))
    return table


def span(values: list[float]) -> str:
    """One figure where they hardly differ, else the first and the last.

    >>> span([4.0, 4.1, 4.0]), span([1500.0, 2_000_000.0])
    ('4', '1,500 to 2,000,000')
    """
    least, most = min(values), max(values)
    if most <= least * 1.1 + 0.02:
        return shown(round(least, 3))
    return f"{shown(values[0])} to {shown(values[-1])}"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves", description=__doc__)
    names = [curve.name for curve in CURVES]
    parser.add_argument("--short", action="store_true", help="the sizes of the test suite")
    parser.add_argument("--curves", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--output", type=Path, metavar="JSON", help="write the points to this file")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing: show such a file")
    parser.add_argument("--chart", type=Path, metavar="SVG", help="draw them")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measures the curves that were asked for."""
    curves = [curve for curve in CURVES if curve.name in options.curves]
    sizes = {curve.name: curve.short if options.short else curve.sizes for curve in curves}
    found = list[dict[str, Any]]()
    bar = Progress(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), console=console)
    with bar, meters() as meter:
        task = bar.add_task("", total=sum(len(sizes[curve.name]) * len(curve.works) for curve in curves))

        def advance(what: str) -> None:
            bar.update(task, description=what, advance=1)

        for curve in curves:
            points = measured(meter(), curve, sizes[curve.name], advance)
            found.append({"name": curve.name, "title": curve.title, "points": points})
    return {"about": machine(), "curves": found}


def main(arguments: list[str] | None = None) -> int:
    """Prints the table."""
    options = parsed(arguments)
    console = Console(width=200)
    result = json.loads(options.source.read_text()) if options.source else run(options, Console(stderr=True))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    if options.chart:
        options.chart.write_text(chart_of(result))
    for curve in result["curves"]:
        if options.markdown:
            print(markdown_table(table_of(curve)) + "\n")
        else:
            console.print(table_of(curve))
    return 0


if __name__ == "__main__":
    sys.exit(main())
