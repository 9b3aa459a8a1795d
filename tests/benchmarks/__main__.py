"""All benchmarks, on one server, in one run: dbdurable against code by hand and its peers.

python -m tests.benchmarks [--quick] [--loads ten outside ...] [--conditions near far held] [--json] [--charts DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dbdurable._embedded import EmbeddedServer
from tests.benchmarks.about import load_average, machine, round_trip, server_of
from tests.benchmarks.awake import awake
from tests.benchmarks.charts import write_charts
from tests.benchmarks.contest import Load
from tests.benchmarks.loads import BY_REQUEST, LOADS
from tests.benchmarks.measure import DELAY_S, Effort, measure, steps_of
from tests.benchmarks.report import data_of, markdown_of, table_of
from tests.benchmarks.wire import door

CONDITIONS = ("near", "far", "held")
SETTINGS = {"max_connections": 200}
"""The one setting that is not the server's default: pools of 64 and of several processes must find room."""

TABLE_WIDTH_MAX = 1000
"""Whatever the terminal's is: a line that it breaks can be read, a figure that is cut cannot."""


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    names = [load.name for load in LOADS]
    parser.add_argument("--quick", action="store_true", help="one short round: shows that everything works, no times")
    parser.add_argument("--loads", nargs="+", choices=names, metavar="LOAD", help=f"of {', '.join(names)}")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=["near"], help="near (default) far held")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="whose names begin so: hand dbdurable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sleeping", type=int, metavar="N", help="also put so many workflows to sleep")
    parser.add_argument("--wake", type=int, metavar="N", help="also wake so many that are due at the same moment")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="write SVG charts there")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing: show such a file")
    parser.add_argument(
        "--awake", action=argparse.BooleanOptionalAction, default=True, help="keep the processors awake meanwhile"
    )
    parser.add_argument("--directory", type=Path, help="where to put the scratch data; a disk, not memory")
    options = parser.parse_args(arguments)
    if any(number is not None and number < 1 for number in (options.rounds, options.sleeping, options.wake)):
        parser.error("--rounds, --sleeping and --wake take whole numbers from 1 on")
    return options


def chosen_loads(options: argparse.Namespace) -> list[Load]:
    """Those that were named, else all but the few that must be asked for."""
    named = options.loads or [load.name for load in LOADS if load.name not in BY_REQUEST]
    sizes = {name: size for name, size in (("sleeping", options.sleeping), ("mass", options.wake)) if size}
    named = [*named, *sizes]
    loads = [load for load in LOADS if load.name in named]
    return [replace(load, full=sizes.get(load.name, load.full)) for load in loads]


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measures on a server of its own, which is gone afterwards."""
    effort = Effort(rounds=1 if options.quick else options.rounds, quick=options.quick)
    if options.quick:
        effort = replace(effort, counted_times=1)

    def wanted(contestant: Any) -> bool:
        return not options.contestants or contestant.key.startswith(tuple(options.contestants))

    plan = list[tuple[Load, str]]()
    for load in chosen_loads(options):
        plan += [(load, condition) for condition in options.conditions if condition in load.conditions]
    missing = sorted({x.package for load, _ in plan for x in load.contestants if x.package and not x.installed})
    for package in missing:
        console.print(f'{package} is not installed: its contestants are skipped (pip install "dbdurable[bench]")')

    def present(load: Load) -> list[Any]:
        return [each for each in load.contestants if each.installed and wanted(each)]

    scratch = Path(tempfile.mkdtemp(prefix="dbdurable-bench-", dir=options.directory))
    scratch.chmod(0o755)  # as root, the server runs under another account
    about, loads = machine(), list[dict[str, Any]]()
    try:
        with ExitStack() as stack:
            server = stack.enter_context(EmbeddedServer(scratch / "pg", linger_s=0.5, settings=SETTINGS))
            if options.awake:
                about["processors kept awake"] = stack.enter_context(awake())
            with psycopg.connect(server.url, autocommit=True) as connection:
                about |= server_of(connection) | {"round trip": round_trip(connection)}
            if "far" in options.conditions:
                with (
                    door(server.url, DELAY_S) as far,
                    psycopg.connect(far.url_of(server.url), autocommit=True) as connection,
                ):
                    about["round trip, far"] = round_trip(connection)
            progress = stack.enter_context(_progress(console))
            total = sum(steps_of(load, condition, effort, present(load)) for load, condition in plan)
            task = progress.add_task("", total=total)
            for load, condition in plan:
                figures = measure(
                    server.url, load, condition, effort, wanted,
                    lambda what: progress.update(task, description=what, advance=1),
                )  # fmt: skip
                loads.append(data_of(load, condition, figures))
    finally:
        EmbeddedServer(scratch / "pg").stop()
        shutil.rmtree(scratch, ignore_errors=True)
    about["load average at the end"] = load_average()
    return {"about": about, "rounds": effort.rounds, "quick": options.quick, "loads": loads}


def main(arguments: list[str] | None = None) -> int:
    """0 when every contestant did its work."""
    options = parsed(arguments)
    console, tables = Console(stderr=options.json), Console(width=TABLE_WIDTH_MAX)
    result = json.loads(options.source.read_text()) if options.source else run(options, console)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    if options.charts:
        for path in write_charts(result, options.charts):
            console.print(f"wrote {path}")
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for data in result["loads"]:
        if options.markdown:
            print(markdown_of(data) + "\n")
        else:
            tables.print(table_of(data))
    console.print("; ".join(f"{name} {value}" for name, value in result["about"].items()), highlight=False)
    if result["quick"]:
        console.print("--quick shows that everything works and counts right; its times mean nothing.", style="bold")
    return 0


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=console
    )


if __name__ == "__main__":
    sys.exit(main())
