"""A long run by one command: what was injected, what was checked, and whether it holds.

python -m tests.chaos [--minutes 10] [--seed N] [--workers 4] [--keep]
"""

from __future__ import annotations

import argparse
import random
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.chaos.arena import Arena, Plan, Report
from tests.chaos.oracle import Verdict, judge, void


def main(arguments: list[str] | None = None) -> int:
    """0: all promises held, and every kind of fault was injected; 1: not."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="which faults; a random one is printed")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--mutant", help="a wrong version of the library, from tests/chaos/mutants.py")
    parser.add_argument("--keep", action="store_true", help="keep the directory of the run: logs, journal")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(100_000)
    plan = Plan(seed, options.minutes * 60, workers=options.workers, mutant=options.mutant)
    console = Console()
    columns = TextColumn("[bold]chaos"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    arena = Arena(plan)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=1.0)
            report = arena.run(lambda what, share: progress.update(task, description=what, completed=share))
        verdicts = judge(arena.connection)
        console.print(table_of(verdicts))
        return 0 if show(console, seed, report, verdicts) else 1
    finally:
        if options.keep:
            console.print(f"kept: {arena.directory}")
        arena.close(options.keep)


def table_of(verdicts: list[Verdict]) -> Table:
    """Every check, with how many rows it looked at."""
    table = Table(title="when all is over")
    table.add_column("promise")
    table.add_column("rows", justify="right")
    table.add_column("")
    for verdict in verdicts:
        said = "[green]holds" if verdict.good else "[red]void" if not verdict.examined else f"[red]{verdict.wrong[:5]}"
        table.add_row(verdict.check.name, f"{verdict.examined:,}", said)
    return table


def show(console: Console, seed: int, report: Report, verdicts: list[Verdict]) -> bool:
    """Says how it went; whether all is well."""
    faults = ", ".join(f"{kind} {many}" for kind, many in sorted(report.injected.items()))
    console.print(
        f"seed {seed}: {report.acknowledged:,} starts acknowledged, {report.refused} not; faults: {faults}; "
        f"{report.hit} kills hit running workflows, {report.reborn} frozen processes took a new identity; "
        f"done {report.drained_s:.1f} s after the last fault"
    )
    missing = void(report.injected, report.hit, report.reborn)
    for reason in missing:
        console.print(f"[red]void: {reason}")
    return not missing and all(verdict.good for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
