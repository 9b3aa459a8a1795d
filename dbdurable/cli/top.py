"""`top`: a live screen of what goes on; looks once a second and costs a few milliseconds each."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbdurable.cli.app import Json, Schema, Url
from dbdurable.cli.output import console, print_json
from dbdurable.cli.target import target

if TYPE_CHECKING:
    from dbdurable.cli.top_look import Observer

__all__ = ["pause_s", "top"]


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one screen and end.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between looks.")] = 1.0,
    url: Url = None,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Watch rates, queues, executors and failures; q quits. The output of --once and --json is one look's.

    Rates are differences of what PostgreSQL counts; each connection reports its own about once a second.
    """
    from dbdurable.cli.top_look import Observer

    with target(url, schema) as database:
        database.runtime.database.prepare()  # the tables are there and fit
        observer = Observer(database.runtime.database.url, database.runtime.settings.schema_name)
    title = _title(observer, database.runtime.settings.schema_name)
    try:
        if once or as_json or not sys.stdout.isatty():
            _once(observer, title, interval, as_json)
        else:
            _live(observer, title, interval)
    except KeyboardInterrupt:
        pass  # the other way to quit
    finally:
        observer.close()


def _title(observer: Observer, schema: str) -> str:
    from dbdurable.settings import mask_url

    return f"dbdurable top: {mask_url(observer.url)}, schema {schema}"


def _once(observer: Observer, title: str, interval_s: float, as_json: bool) -> None:
    from dbdurable.cli.top_screen import screen

    observer.look()
    time.sleep(interval_s)
    look = observer.look()
    if not as_json:
        console().print(screen(title, look, observer.rates()))
        return
    rates = observer.rates()
    print_json(
        {
            "rates_per_s": {name: round(rate, 3) for name, rate in rates.per_s.items()},
            "over_s": round(rates.over_s, 3),
            "running": look.running,
            "delayed": look.delayed,
            "waiting": look.waiting,
            "queues": look.queues,
            "executors": look.executors,
            "failures": look.failures,
            "cost": {"statements": look.statements, "ms": round(look.cost_s * 1000, 3)},
        }
    )


def _live(observer: Observer, title: str, interval_s: float) -> None:
    import psycopg
    from rich.live import Live
    from rich.text import Text

    from dbdurable.cli.top_screen import screen
    from dbdurable.errors import DatabaseUnavailable
    from dbdurable.settings import mask_url

    out = console()
    cost_s = 0.0
    with _keys() as pressed, Live(Text("looking ..."), console=out, screen=True, auto_refresh=False) as live:
        while True:
            shown: Any
            try:
                look = observer.look()
                cost_s = look.cost_s
                shown = screen(title, look, observer.rates(), out.height)
            except (psycopg.Error, DatabaseUnavailable) as error:
                shown = Text(f"{title}\n\nno answer, trying again: {mask_url(str(error))}", style="red")
            live.update(shown, refresh=True)
            if pressed(pause_s(interval_s, cost_s)) in ("q", "Q", "\x04"):
                return


def pause_s(interval_s: float, cost_s: float) -> float:
    """Until the next look: looks take a twentieth of the time at most, also where dead rows make them slow.

    Example:
        >>> pause_s(1, 0.004), pause_s(1, 0.5)
        (1, 9.5)
    """
    return max(interval_s, 19 * cost_s)


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds for a key; the keys come one by one and are not shown."""
    import select
    import termios
    import tty

    if not sys.stdin.isatty():
        yield lambda wait_s: time.sleep(wait_s)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(wait_s: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], wait_s)
        return os.read(descriptor, 1).decode(errors="replace") if ready else ""

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
