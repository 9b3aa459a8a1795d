"""Bar charts as SVG, without a library: one file a load and condition, readable on light and dark pages."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from tests.benchmarks.report import shown, title_of

WIDTH, LEFT, RIGHT = 760, 190, 120
BAR, GAP, TOP, LINE = 18, 8, 46, 14
OURS, OTHERS, TEXT, FAINT = "#2f6fde", "#9aa4b2", "#57606a", "#8b949e"
FONT = "font-family='system-ui, sans-serif'"


def chart_of(data: dict[str, Any], about: dict[str, str]) -> str:
    """The median speed of each contestant, or its median time; ours in colour. Times and rates begin at zero."""
    rows = [row for row in data["rows"] if "missing" not in row]
    timed = any("ms" in row for row in rows)
    values = [row["ms"]["p50"] if timed else row["per_s"] for row in rows]
    longest = max([*values, 1e-9])
    foot = footer(about)
    height = TOP + len(rows) * (BAR + GAP) + 12 + LINE * len(foot)
    unit = "ms, median: less is better" if timed else f"{data['unit']}/s, median: more is better"
    title = title_of(data)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' {FONT}>",
        f"<title>{escape(title)}</title>",
        text(0, 16, title, 15, TEXT, weight="600"),
        text(0, 34, unit, 12, FAINT),
    ]
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        y = TOP + number * (BAR + GAP)
        length = max(1.0, value / longest * (WIDTH - LEFT - RIGHT))
        colour = OURS if row["contestant"].startswith("dbdurable") else OTHERS
        said = shown(value)
        if row.get("ratio") and not timed and row["contestant"] != row["reference"]:
            said += f"  ({shown(row['ratio'])} x {row['reference'].removesuffix(' sync').removesuffix(' async')})"
        parts.append(text(LEFT - 8, y + 13, row["contestant"], 12, TEXT, anchor="end"))
        parts.append(f"<rect x='{LEFT}' y='{y}' width='{length:.1f}' height='{BAR}' rx='2' fill='{colour}'/>")
        parts.append(text(LEFT + length + 6, y + 13, said, 12, TEXT))
    for number, line in enumerate(foot):
        parts.append(text(0, height - 4 - LINE * (len(foot) - 1 - number), line, 10, FAINT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def footer(about: dict[str, str]) -> list[str]:
    """Machine, versions and commit, in lines that fit."""
    said = [f"{name} {value}" for name, value in about.items() if value != "not installed"]
    lines = [""]
    for each in said:
        if len(lines[-1]) + len(each) > 125 and lines[-1]:
            lines.append("")
        lines[-1] += ("; " if lines[-1] else "") + each
    return lines


def text(x: float, y: float, said: str, size: int, fill: str, anchor: str = "start", weight: str = "400") -> str:
    style = f"font-size='{size}' fill='{fill}' text-anchor='{anchor}' font-weight='{weight}'"
    return f"<text x='{x:.1f}' y='{y}' {style}>{escape(said)}</text>"


def write_charts(result: dict[str, Any], directory: Path) -> list[Path]:
    """All of them; the names are `LOAD.svg`, `LOAD-far.svg` and `LOAD-held.svg`."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for data in result["loads"]:
        if all("missing" in row for row in data["rows"]):
            continue
        suffix = "" if data["condition"] == "near" else f"-{data['condition']}"
        path = directory / f"{data['load']}{suffix}.svg"
        path.write_text(chart_of(data, result["about"]))
        written.append(path)
    return written
