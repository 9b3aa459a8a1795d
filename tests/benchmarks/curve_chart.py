"""All curves as one SVG: a panel each, both axes logarithmic, so that what grows in proportion rises by 45 degrees."""

from __future__ import annotations

import math
from typing import Any

from tests.benchmarks.charts import FAINT, FONT, LINE, TEXT, footer, text

WIDTH, COLUMNS, PANEL, GAP = 780, 2, (330, 200), (60, 62)
TOP = 60
COLOURS = ("#2f6fde", "#d9822b", "#2a9d6f", "#a24fc4")


def chart_of(result: dict[str, Any]) -> str:
    """Pages of a unit against size; for payloads, bytes of WAL."""
    panels = [_panel(curve) for curve in result["curves"]]
    lines = footer(result["about"])
    rows = -(-len(panels) // COLUMNS)
    height = TOP + rows * (PANEL[1] + GAP[1]) + LINE * len(lines) + 8
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' {FONT}>",
        "<title>What a unit of work costs, against the size of what lies beside it</title>",
        text(0, 16, "What a unit of work costs, against the size of what lies beside it", 15, TEXT, weight="600"),
        text(0, 34, "exact counts; both axes are logarithmic", 12, FAINT),
    ]
    for number, panel in enumerate(panels):
        x = number % COLUMNS * (PANEL[0] + GAP[0])
        y = TOP + number // COLUMNS * (PANEL[1] + GAP[1])
        parts += [f"<g transform='translate({x + 40},{y})'>", *panel, "</g>"]
    for number, line in enumerate(lines):
        parts.append(text(0, height - 4 - LINE * (len(lines) - 1 - number), line, 10, FAINT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(curve: dict[str, Any]) -> list[str]:
    cost = "wal_bytes" if curve["name"] == "payload" else "pages"
    points, sizes = curve["points"], sorted({point["size"] for point in curve["points"]})
    wide, high = PANEL[0] - 30, PANEL[1] - 50
    left, right = _log(sizes[0] or sizes[1] / 10), _log(sizes[-1])  # nothing at all stands a decade before the first
    top = math.ceil(max(_log(point[cost]) for point in points) + 1e-9)

    def x_of(size: int) -> float:
        return (max(_log(size), left) - left) / (right - left) * wide

    def y_of(power: float) -> float:
        return 10 + high - power / top * high

    what = curve["title"].partition(",")[0]
    parts = [text(0, 0, f"{cost.replace('_', ' ')}, by {what}", 11, TEXT, weight="600")]
    for power in range(top + 1):
        y = y_of(power)
        parts.append(f"<line x1='0' x2='{wide}' y1='{y:.1f}' y2='{y:.1f}' stroke='{FAINT}' stroke-opacity='0.25'/>")
        parts.append(text(-4, round(y) + 3, f"{10**power:,}", 9, FAINT, anchor="end"))
    parts += [text(x_of(size), 10 + high + 12, f"{size:,}", 9, FAINT, anchor="middle") for size in sizes]
    for number, work in enumerate(dict.fromkeys(point["work"] for point in points)):
        colour = COLOURS[number % len(COLOURS)]
        spots = [(x_of(point["size"]), y_of(_log(point[cost]))) for point in points if point["work"] == work]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{colour}'/>" for x, y in spots]
        parts.append(text(0, 10 + high + 26 + 11 * number, work, 9, colour))
    return parts


def _log(value: float) -> float:
    return math.log10(max(value, 1.0))
