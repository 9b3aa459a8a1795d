"""The figures for programs, and from those the tables for people."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any

from rich.table import Table

from tests.benchmarks.contest import Load
from tests.benchmarks.measure import Figures

MISSING = 'not installed: pip install "dbdurable[bench]"'
COUNTS = ("commits", "round_trips", "statements", "wal_bytes", "hot_ratio")

Data = dict[str, Any]


def data_of(load: Load, condition: str, figures: dict[str, Figures]) -> Data:
    """One load under one condition."""
    return {
        "load": load.name,
        "title": load.title,
        "unit": load.unit,
        "condition": condition,
        "rows": [_row(load, each, figures) for each in load.contestants],
    }


def _row(load: Load, contestant: Any, all_figures: dict[str, Figures]) -> Data:
    row: Data = {"contestant": contestant.key}
    if contestant.key not in all_figures:
        return {**row, "missing": MISSING if not contestant.installed else "not asked for"}
    figures = all_figures[contestant.key]
    row |= {
        "per_s": median(figures.per_s),
        "reference": load.reference(contestant),
        "ratio": median(figures.ratio) if figures.ratio else None,
        "client_cpu_ms": median(figures.client_cpu_ms),
        "server_cpu_ms": median(figures.server_cpu_ms),
        "phases_per_s": {name: median(values) for name, values in figures.phases.items()},
        "counts": figures.counts,
        "facts": figures.facts,
        "rounds_per_s": figures.per_s,
        "rounds_ratio": figures.ratio,
    }
    if figures.samples_ms:
        row["ms"] = percentiles(figures.samples_ms)
    return row


def percentiles(samples: list[float]) -> dict[str, float]:
    """How long single units took."""
    cuts = quantiles(samples, n=100, method="inclusive") if len(samples) > 1 else samples * 99
    return {"p50": median(samples), "p90": cuts[89], "p99": cuts[98], "worst": max(samples)}


def title_of(data: Data) -> str:
    """What was measured, and under which condition."""
    where = {"near": "", "far": ", 0.5 ms more a round trip", "held": ", beside an old snapshot"}
    return f"{data['title']}{where[data['condition']]}"


def table_of(data: Data) -> Table:
    """One load under one condition, for people."""
    present = [row for row in data["rows"] if "missing" not in row]
    phases = list(dict.fromkeys(name for row in present for name in row["phases_per_s"]))
    phases = phases if len(phases) > 1 else []
    timed = any("ms" in row for row in present)
    facts = list(dict.fromkeys(name for row in present for name in row["facts"]))
    counts = [name for name in COUNTS if any(name in row["counts"] for row in present)]
    table = Table(title=title_of(data), title_justify="left")
    table.add_column("contestant", no_wrap=True)
    speed = ["p50 ms", "p90 ms", "p99 ms", "worst ms"] if timed else [f"{data['unit']}/s", "ratio"]
    headings = [*speed, *(f"{name}/s" for name in phases), "client CPU ms", "server CPU ms", *facts]
    for heading in (*headings, *(name.replace("_", " ") for name in counts)):
        table.add_column(heading, justify="right")
    for row in data["rows"]:
        if "missing" in row:
            table.add_row(f"{row['contestant']}: {row['missing']}")
            continue
        cells = list(row["ms"].values()) if timed else [row["per_s"], row["ratio"]]
        cells += [row["phases_per_s"].get(name) for name in phases]
        cells += [row["client_cpu_ms"], row["server_cpu_ms"]]
        cells += [row["facts"].get(name) for name in facts]
        cells += [row["counts"].get(name) for name in counts]
        table.add_row(row["contestant"], *map(shown, cells))
    return table


def shown(value: float | None) -> str:
    """Three digits, or all before the point.

    >>> shown(12345.6), shown(12.345), shown(0.0123), shown(None)
    ('12,346', '12.3', '0.0123', '')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def markdown_of(data: Data) -> str:
    """The same table for docs/performance.md."""
    return markdown_table(table_of(data))


def markdown_table(table: Table) -> str:
    """A table that was made for the terminal, with its title."""
    columns = [list(column.cells) for column in table.columns]
    lines = ["| " + " | ".join(str(column.header) for column in table.columns) + " |"]
    lines.append("|---" + "|---:" * (len(table.columns) - 1) + "|")
    lines += ["| " + " | ".join(str(cell) for cell in cells) + " |" for cells in zip(*columns, strict=True)]
    return f"{table.title}\n\n" + "\n".join(lines)
