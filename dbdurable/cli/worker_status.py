"""The line at the bottom of a worker's terminal: what runs, what is done, what failed, how fast."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from dbdurable._core.control import Unwind

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from dbdurable._executor.executor import Executor

__all__ = ["StatusLine", "Tally", "status_line"]

WINDOW_S = 5.0
REFRESHES_PER_S = 2

SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"
"""Takes the line away and brings back the cursor that it hid, for a process that ends without warning."""


class Tally:
    """Counts the bodies that end, as one more `around=` about the application's own. Thread-safe.

    What leaves its body to go on later or elsewhere (a long wait, a lost lease) is not counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.failed = 0

    def about(
        self, inner: Callable[[], AbstractContextManager[object]] | None
    ) -> Callable[[], AbstractContextManager[object]]:
        """The `around=` to use instead of `inner`."""

        @contextmanager
        def counted() -> Iterator[None]:
            try:
                with (inner or nullcontext)():
                    yield
            except Unwind:
                raise
            except BaseException:
                with self._lock:
                    self.failed += 1
                raise
            with self._lock:
                self.done += 1

        return counted


class StatusLine:
    """What the line says now; rich asks for it."""

    def __init__(self, executor: Executor, tally: Tally) -> None:
        self._executor, self._tally = executor, tally
        self._past: deque[tuple[float, int]] = deque()
        self.is_open = self.is_stopping = False

    def __rich__(self) -> Text:
        from rich.text import Text

        done, failed = self._tally.done, self._tally.failed
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("stopping  " if self.is_stopping else "", style="yellow")
        running = len(self._executor.attempts.names()) if self.is_open else 0
        line.append(f"{running} running", style="bold blue")
        line.append(f"  {done:,} done", style="green")
        line.append(f"  {failed:,} failed", style="red" if failed else "dim")
        return line.append(f"  {self._rate(done + failed):.1f}/s", style="dim")

    def _rate(self, ended: int) -> float:
        """How many ended a second, over the last few seconds."""
        now = time.monotonic()
        self._past.append((now, ended))
        while len(self._past) > 2 and self._past[1][0] <= now - WINDOW_S:
            self._past.popleft()
        began, before = self._past[0]
        return (ended - before) / (now - began) if now > began else 0.0


@contextmanager
def status_line(screen: Console | None, executor: Executor) -> Iterator[StatusLine | None]:
    """Shows the line while the block runs, below the log; nothing where `screen` is none. Before `executor.open()`."""
    if screen is None:
        yield None
        return
    from rich.live import Live

    tally = Tally()
    configuration = executor.runtime.configuration
    configuration.around = tally.about(configuration.around)
    line = StatusLine(executor, tally)
    with Live(
        line,
        console=screen,
        transient=True,
        refresh_per_second=REFRESHES_PER_S,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield line
