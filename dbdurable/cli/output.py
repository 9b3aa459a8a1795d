"""How things look on a terminal: tables, ages in words, statuses in colour; or JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "ago",
    "console",
    "moment",
    "one_line",
    "own_frames",
    "print_json",
    "print_table",
    "seconds",
    "status_text",
    "table",
]

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

SLIM = 16
"""Columns that are no wider than this are not worth cutting."""

LINE_CHARS_MAX = 200
"""Of a value in a line: `show`, and --json, have all of it."""

UNBOUNDED = 10_000
"""A width that no table needs."""

_UNITS = ((86_400.0, "day"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def console() -> Console:
    """Where sentences and panels go: stdout; where that is no terminal, $COLUMNS or 120 columns wide."""
    from rich.console import Console

    return Console(highlight=False, width=None if _has_width() else 120)


def _has_width() -> bool:
    return sys.stdout.isatty() or "COLUMNS" in os.environ


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


def moment(text: str) -> str:
    """A timestamp of PostgreSQL's JSON, to the second.

    Example:
        >>> moment("2026-11-22T17:00:47.91784+00:00")
        '2026-11-22 17:00:47+00:00'
    """
    return re.sub(r"\.\d+", "", text).replace("T", " ")


_OWN_FRAME = re.compile(r'\s*File "[^"]*/dbdurable/(_\w+/|(context|definitions|handle|parallel|sagas|waiting)\.py)')


def own_frames(traceback: str) -> str:
    """A traceback without the frames of this library, which say nothing about the mistake.

    Example:
        >>> print(own_frames('File "/lib/dbdurable/_io/a.py", in b\\n  c\\nFile "/shop.py", in d\\n  e'))
        File "/shop.py", in d
          e
    """
    frames = re.split(r"^(?=\s*File \")", traceback, flags=re.MULTILINE)
    kept = [frame for frame in frames if not _OWN_FRAME.match(frame)]
    return "".join(kept).rstrip()


def one_line(value: object) -> str:
    """A value as one line, clipped."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= LINE_CHARS_MAX else f"{text[: LINE_CHARS_MAX - 1]}…"


def status_text(status: str) -> Text:
    """A status in its colour."""
    from rich.text import Text

    return Text(status, style=STATUS_STYLES.get(status, ""))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, whole: Sequence[str] = (), folded: Sequence[str] = ()
) -> Table:
    """A table with one line a row; where it is narrow, wide columns are cut.

    Those in `whole` never are; those in `folded` take as many lines as they need.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [
        [cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row] for row in rows
    ]
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for at, column in enumerate(columns):
        is_slim = all(row[at].cell_len <= SLIM for row in cells)
        made.add_column(column, no_wrap=column in whole or is_slim)
    for row in cells:
        for column, cell in zip(columns, row, strict=True):
            cell.no_wrap, cell.overflow = (False, "fold") if column in folded else (True, "ellipsis")
        made.add_row(*row)
    return made


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, whole: Sequence[str] = (), folded: Sequence[str] = ()
) -> None:
    """Prints such a table. In a file or a pipe nothing is cut, unless $COLUMNS says how wide it is."""
    from rich.console import Console

    made = table(columns, rows, whole=whole, folded=folded)
    Console(highlight=False, width=None if _has_width() else UNBOUNDED).print(made)
