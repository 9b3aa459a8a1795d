"""The screen of `top`, made from one look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from dbdurable.cli.output import ago, one_line, seconds, status_text, table

if TYPE_CHECKING:
    from dbdurable.cli.top_look import Look, Rates

__all__ = ["screen"]

ROWS_MIN = 2
LINES_AROUND = 17
"""Lines of the screen that are no rows of a table."""


def screen(title: str, look: Look, rates: Rates, height: int | None = None) -> RenderableType:
    """All of it, at most `height` lines high."""
    budget = 1000 if height is None else max(3 * ROWS_MIN, height - LINES_AROUND)
    counts = _share(budget, len(look.queues), len(look.executors), len(look.failures))
    parts = (
        _section("queues", _QUEUES, [_queue(queue) for queue in look.queues], counts[0], ["queue", "state", "oldest"]),
        _section("executors", _EXECUTORS, [_executor(e) for e in look.executors], counts[1], ["process", "state"]),
        _section("failures", _FAILURES, [_failure(f) for f in look.failures], counts[2], ["id", "since"]),
    )
    cost = f"this look: {look.statements} statements, {look.cost_s * 1000:.1f} ms"
    return Group(
        Text(title, style="bold", no_wrap=True, overflow="ellipsis"),
        _rates(look, rates),
        *(part for pair in parts for part in pair),
        Text(cost, "dim"),
    )


_QUEUES = ["queue", "state", "ready", "oldest", "running"]
_EXECUTORS = ["process", "state", "running", "started", "version", "queues"]
_FAILURES = ["id", "name", "status", "since", "reason"]
_RATES = (("started", "cyan"), ("claimed", "blue"), ("finished", "green"), ("failed", "red"), ("steps", ""))


def _share(budget: int, *wanted: int) -> list[int]:
    """How many rows each table gets: what it wants if that fits, and never fewer than a few."""
    left, counts = budget, [0] * len(wanted)
    for nth, at in enumerate(sorted(range(len(wanted)), key=lambda at: wanted[at])):
        counts[at] = min(wanted[at], max(ROWS_MIN, left // (len(wanted) - nth)))
        left -= counts[at]
    return counts


def _rates(look: Look, rates: Rates) -> Text:
    line = Text()
    for name, style in _RATES:
        rate = rates.per_s.get(name)
        line.append(f"{name} ").append("-" if rate is None else _rate(rate), style=f"bold {style}".strip()).append("  ")
    line.append(f"(a second, over {rates.over_s:.0f} s)\n" if rates.over_s else "(a second)\n", style="dim")
    line.append(f"running {look.running:,}  delayed {_many(look.delayed)}  waiting {_many(look.waiting)}\n")
    return line


def _rate(value: float) -> str:
    """As exact as it is of use: 0.2, 12.3, 1,234."""
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def _many(count: int) -> str:
    from dbdurable.cli.top_look import COUNT_MAX

    return f"{count:,}" + ("+" if count >= COUNT_MAX else "")


def _section(
    name: str, columns: list[str], rows: list[list[Any]], count: int, whole: list[str]
) -> tuple[RenderableType, ...]:
    if not rows:
        return (Text(f"no {name}", style="dim"), Text())
    more = len(rows) - count
    note = (Text(f"and {more} more {name}", style="dim"),) if more else ()
    return (table(columns, rows[:count], whole=whole), *note, Text())


def _queue(queue: dict[str, Any]) -> list[Any]:
    sign = {"counted": "", "estimated": "~", "more": ">"}[queue["ready_is"]]
    oldest = queue["oldest_s"]
    return [
        queue["name"],
        Text("paused", style="yellow") if queue["paused"] else Text("open", style="green"),
        Text(f"{sign}{queue['ready']:,}" if queue["ready"] else "", style="cyan"),
        "" if oldest is None else seconds(max(0.0, oldest)),
        queue["running"] or "",
    ]


def _executor(executor: dict[str, Any]) -> list[Any]:
    return [
        executor["process"],
        Text("alive", style="green") if executor["alive"] else Text("dead", style="bold red"),
        executor["running"],
        ago(executor["age_s"]),
        executor["version"],
        ", ".join(executor["queues"]),
    ]


def _failure(failure: dict[str, Any]) -> list[Any]:
    return [
        failure["id"],
        failure["name"],
        status_text(failure["status"]),
        ago(failure["since_s"]),
        one_line(failure["reason"]),
    ]
