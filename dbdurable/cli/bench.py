"""`dbdurable bench`: what this database can do for workflows, in about a minute, and a verdict in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dbdurable.cli.app import Json, Url, chosen, fail

if TYPE_CHECKING:
    from rich.console import Console

    from dbdurable.cli.bench_loads import Figure

__all__ = ["bench"]


def bench(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="The database; else as for --url.")] = None,
    seconds: Annotated[float, typer.Option(help="About how long all of it takes.", min=5, max=3600)] = 60.0,
    threads: Annotated[int, typer.Option(help="How many `def` workflows at once.", min=1, max=256)] = 16,
    tasks: Annotated[int, typer.Option(help="How many `async def` workflows at once.", min=1, max=1024)] = 64,
    option_url: Url = None,
    as_json: Json = False,
) -> None:
    """Measure what a database can do for workflows: round trips, commits, steps, jobs of a queue, latency.

    It makes a schema of its own, and drops it at the end. Run it from where your application runs, while the
    database does what it does on a normal day.
    """
    from psycopg import Error
    from rich.console import Console
    from rich.progress import Progress

    from dbdurable.cli.bench_loads import Bench
    from dbdurable.errors import DurableError

    try:
        with (
            Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress,
            Bench(url or chosen(option_url, None)[0], threads, tasks) as loads,
        ):
            task = progress.add_task("connecting", total=len(loads.all))
            figures = []
            for load in loads.all:
                progress.update(task, description=load.what)
                figures.append(loads.measure(load, seconds / len(loads.all)))
                progress.advance(task)
            about = loads.about()
    except (DurableError, Error) as error:
        fail(str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        fail("interrupted; the schema that it made is dropped")
        raise typer.Exit(130) from None
    if as_json:
        from dbdurable.cli.output import print_json

        print_json({"about": about, "figures": {f.name: f.as_json() for f in figures}, "verdict": verdict(figures)})
    else:
        from dbdurable.cli.output import console

        show(console(), figures, about)


def show(out: Console, figures: list[Figure], about: dict[str, str]) -> None:
    """The table and the verdict."""
    from dbdurable.cli.output import print_table

    rows = [(f.what, f.shown, f.note) for f in figures]
    print_table(["load", "measured", "note"], rows, whole=["load", "measured"], folded=["note"])
    out.print("\n" + "; ".join(f"{name} {value}" for name, value in about.items()), style="dim")
    for sentence in verdict(figures):
        out.print(f"\n{sentence}")


ROUND_TRIP_MS_NEAR, ROUND_TRIP_MS_FAR = 0.5, 3.0
COMMIT_MS_SLOW = 5.0


def verdict(figures: list[Figure]) -> list[str]:
    """What the figures mean, in sentences.

    Example:
        >>> from dbdurable.cli.bench_loads import Figure
        >>> verdict([Figure("round_trip", "", 0.1, "ms"), Figure("commit", "", 9.0, "ms")])[1][:41]
        'Commits are slow (9.0 ms): the disk, or a'
    """
    found = {figure.name: figure.value for figure in figures}
    said = []
    trip, commit = found["round_trip"], found["commit"]
    if trip <= ROUND_TRIP_MS_NEAR:
        said.append(f"The database is near ({trip:.2g} ms a round trip): steps cost little more than their commit.")
    elif trip <= ROUND_TRIP_MS_FAR:
        said.append(
            f"A round trip takes {trip:.1f} ms: a transactional step needs two besides your statements, so one "
            "workflow alone is slow; many at once are not."
        )
    else:
        said.append(
            f"The database is far away ({trip:.1f} ms a round trip): run workers next to it, or expect "
            f"about {1000 / (3 * trip):.0f} transactional steps a second of one workflow."
        )
    if commit > COMMIT_MS_SLOW:
        said.append(
            f"Commits are slow ({commit:.1f} ms): the disk, or a synchronous standby, sets the pace. Many workflows at "
            "once share commits; one alone cannot."
        )
    if "steps_async" in found:
        said.append(
            f"One process of this application runs about {found['steps_async'] * 3600:,.0f} outside steps or "
            f"{found['transactions'] * 3600:,.0f} transactional steps an hour here, and takes {found['jobs']:,.0f} "
            "jobs a second from a queue. More processes add to it until the database's processors are busy."
        )
    return said
