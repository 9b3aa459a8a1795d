"""`dbdurable demo`: thousands of real rows, two processes, one killed with SIGKILL, every row once."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from dbdurable.cli.app import Json, Url, chosen, fail

if TYPE_CHECKING:
    from dbdurable.cli.demo_run import Outcome

__all__ = ["demo"]

ROWS_MIN_WITH_KILL = 100


def demo(
    rows: Annotated[int, typer.Option(help="How many cities, from the largest on; there are 5,000.", min=1)] = 5000,
    workers: Annotated[int, typer.Option(help="How many worker processes.", min=1, max=16)] = 2,
    kill: Annotated[bool, typer.Option(help="Kill one worker with SIGKILL when 40 % are done.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, even if an earlier run was interrupted.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Runs a workflow for each of thousands of real cities, kills a worker meanwhile, and checks all of it by SQL.

    It uses two schemas of its own, dbdurable_demo and dbdurable_demo_app.

    Kill the demo itself at any moment and run it again: it goes on where it was.

    Exit code: 0 if every check holds, 1 if one does not, 2 if it could not run.
    """
    began = time.monotonic()
    from psycopg import Error
    from rich.console import Console

    from dbdurable.cli.demo_app import cities_shipped, durable
    from dbdurable.cli.demo_run import run_demo
    from dbdurable.cli.demo_show import Screen
    from dbdurable.errors import DurableError

    if rows > cities_shipped():
        raise typer.BadParameter(f"there are {cities_shipped():,} cities", param_hint="--rows")
    if kill and rows < ROWS_MIN_WITH_KILL:
        raise typer.BadParameter(
            f"a worker can hardly be killed in the middle of {rows} rows: take {ROWS_MIN_WITH_KILL} or more, "
            "or add --no-kill",
            param_hint="--rows",
        )
    durable.configure(chosen(url, None)[0])
    screen = Screen(Console(quiet=as_json, emoji=False))
    try:
        outcome = run_demo(screen, rows=rows, workers=workers, kill=kill, fresh=fresh)
    except (DurableError, Error, RuntimeError) as error:
        fail(str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        fail("interrupted; `dbdurable demo` goes on where it was")
        raise typer.Exit(130) from None
    outcome.seconds = round(time.monotonic() - began, 1)
    if as_json:
        print(json.dumps(outcome.as_json(), indent=2))
    else:
        _tell(screen.say, outcome)
    raise typer.Exit(0 if outcome.ok else 1)


def _tell(say: object, outcome: Outcome) -> None:
    assert callable(say)
    say("")
    calls, rows = outcome.carrier_calls, outcome.rows
    if calls > rows:
        say(
            f"The carrier is outside of the database: it got {calls:,} calls for {rows:,} shipments. The calls that a "
            "killed process had under way were made again, under the same idempotency key."
        )
    if outcome.ok:
        say(f"Every city was supplied exactly once. All of it took {outcome.seconds:g} s.", "bold green")
    else:
        say(f"Some checks do not hold. All of it took {outcome.seconds:g} s.", "bold red")
    say("The tables stay until the next demo. To remove them: drop schema dbdurable_demo, dbdurable_demo_app cascade")


if __name__ == "__main__":
    typer.run(demo)
