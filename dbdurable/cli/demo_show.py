"""What the demo prints: a progress bar on a terminal, plain lines elsewhere, nothing for --json."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dbdurable.cli.demo_store import Check

__all__ = ["Screen"]

RATE_WINDOW_S = 2.0
PLAIN_INTERVAL_S = 2.0


class Screen:
    """The demo's output."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: Any = None
        self._seen: deque[tuple[float, int]] = deque()
        self._printed_at = 0.0

    def say(self, text: str, style: str = "") -> None:
        """One line, above the bar."""
        self.console.print(escape(text), style=style or None, soft_wrap=True, highlight=False)

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("cities supplied"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=None, text="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int, total: int, alive: int) -> None:
        """How far the run is."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.popleft()
        (before, done_before), span = self._seen[0], now - self._seen[0][0]
        rate = (done - done_before) / span if now > before else 0.0
        text = f"{done:,} of {total:,}, {rate:,.0f}/s, {alive} worker{'' if alive == 1 else 's'} alive"
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, text=text)
        elif now - self._printed_at >= PLAIN_INTERVAL_S and done:
            self._printed_at = now
            self.say(f"  {text}")

    def table(self, checks: list[Check]) -> None:
        """The checks, and the SQL behind them."""
        self.say("\nThe SQL behind the table below; run it yourself:")
        for number, check in enumerate(checks, 1):
            self.say(f"{number:>3}  " + check.sql.replace("\n", "\n    ") + ";", "dim")
        self.say("")
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", justify="right")
        table.add_column("check")
        table.add_column("found", justify="right")
        table.add_column("expected", justify="right")
        table.add_column("")
        for number, check in enumerate(checks, 1):
            verdict = "[green]ok[/green]" if check.ok else "[bold red]WRONG[/bold red]"
            table.add_row(str(number), check.what, f"{check.found:,}", f"{check.expected:,}", verdict)
        self.console.print(table)
