"""How things look on a terminal: tables, ages in words, statuses in colour; or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["ago", "console", "one_line", "print_json", "seconds", "status_text", "table"]

STATUS_STYLES = {
    "queued": "cyan",
    "running": "bold blue",
    "waiting": "magenta",
    "paused": "yellow",
    "blocked": "bold yellow",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "dim",
}

_UNITS = ((86_400.0, "day"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def console() -> Console:
    """Where tables go: stdout, 120 columns wide where it is no terminal."""
    from rich.console import Console

    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=_columns(found))


def _columns(found: Console) -> int:
    import os

    return found.width if "COLUMNS" in os.environ else 120


def print_json(value: object) -> None:
    """Plain JSON on stdout; what is only for people (ages) is left out."""
    print(json.dumps(_without_ages(value), ensure_ascii=False, indent=2, default=str))


def _without_ages(value: object) -> object:
    if isinstance(value, list):
        return [_without_ages(item) for item in value]
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if name != "age_s"}
    return value


def seconds(value: float | None) -> str:
    """A duration for people.

    Example:
        >>> seconds(0.0123), seconds(4.56), seconds(200), seconds(90_000)
        ('12 ms', '4.6 s', '3 min', '25 h')
    """
    if value is None:
        return ""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7_200 else f"{value / 3600:.0f} h"


def ago(age_s: float) -> str:
    """How long ago in words; negative ages are to come.

    Example:
        >>> ago(200), ago(3), ago(-7_300), ago(2 * 86_400), ago(0.2)
        ('3 min ago', '3 s ago', 'in 2 h', '2 days ago', 'just now')
    """
    for length, unit in _UNITS:
        count = int(abs(age_s) // length)
        if count:
            words = f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
            return f"{words} ago" if age_s > 0 else f"in {words}"
    return "just now"


def one_line(value: object, width: int = 200) -> str:
    """A value as one line, clipped."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def status_text(status: str) -> Text:
    """A status in its colour."""
    from rich.text import Text

    return Text(status, style=STATUS_STYLES.get(status, ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, whole: Sequence[str] = ()) -> Table:
    """A table without clutter; columns in `whole` are never cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        is_whole = column in whole
        made.add_column(
            column, no_wrap=True, overflow="fold" if is_whole else "ellipsis", min_width=36 if column == "id" else None
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return made
