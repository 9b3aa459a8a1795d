"""`queues`: what is in each queue and what it allows, and the commands that change that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbdurable.cli.app import Json, Schema, Url, choose
from dbdurable.cli.output import ago, print_json, print_table
from dbdurable.cli.target import Target, target

if TYPE_CHECKING:
    from rich.text import Text

    from dbdurable.types import Rate

__all__ = ["app", "in_words"]

app = typer.Typer(help="Queues: what is in them, and their limits.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The queue.")]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


@app.callback(invoke_without_command=True)
def queues(context: typer.Context, url: Url = None, schema: Schema = None, as_json: Json = False) -> None:
    """List queues: what is ready in them and how long, what runs, and their limits."""
    from dbdurable._sql.inspect import QUEUES_JSON

    if context.invoked_subcommand is not None:
        choose(url, schema)
        return
    with target(url, schema) as database:
        found = database.objects(QUEUES_JSON, None)
    if as_json:
        print_json(found)
    elif found:
        columns = ["queue", "state", "ready", "oldest", "running", "delayed", "limits"]
        rows = [
            (q["name"], _state(q), _count(q["ready"]), _oldest(q), q["running"] or "", q["delayed"] or "", in_words(q))
            for q in found
        ]
        print_table(columns, rows, whole=["queue", "state", "oldest"], folded=["limits"])
    else:
        typer.echo("no queues yet: the first executor that connects makes those that it serves")


@app.command("set")
def set_(
    name: Name,
    concurrency: Annotated[str | None, typer.Option(metavar="N", help="So many at once.")] = None,
    worker_concurrency: Annotated[str | None, typer.Option(metavar="N", help="So many at once in a worker.")] = None,
    per_partition: Annotated[str | None, typer.Option(metavar="N", help="So many at once in a partition.")] = None,
    rate: Annotated[str | None, typer.Option(metavar="N/TIME", help="So many starts in a time: 100/60s, 5/s.")] = None,
    burst: Annotated[str | None, typer.Option(metavar="N", help="Of the rate, so many at once; else all.")] = None,
    rate_per_partition: Annotated[str | None, typer.Option(metavar="N/TIME", help="The same in a partition.")] = None,
    burst_per_partition: Annotated[str | None, typer.Option(metavar="N", help="Of that, so many at once.")] = None,
    max_depth: Annotated[str | None, typer.Option(metavar="N", help="So many ready; more starts are refused.")] = None,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Change the limits of a queue, at once and for all workers; `none` takes a limit away.

    Only what is named is changed. A deploy leaves it alone, unless the code declares other limits than before.

    Example: dbdurable queues set orders --concurrency 5 --rate 100/60s --max-depth none
    """
    from dbdurable.errors import BadArgument

    given = {
        "concurrency": concurrency,
        "worker_concurrency": worker_concurrency,
        "per_partition": per_partition,
        "max_depth": max_depth,
    }
    limits: dict[str, Any] = {
        limit: _number(f"--{limit.replace('_', '-')}", text) for limit, text in given.items() if text is not None
    }
    rates = (("rate", rate, burst), ("rate_per_partition", rate_per_partition, burst_per_partition))
    with target(url, schema) as database:
        for limit, text, most in rates:
            if text is not None or most is not None:
                limits[limit] = _rate(database, name, limit, text, most)
        if not limits:
            raise BadArgument(f"nothing to change: dbdurable queues set {name} --concurrency 5 (`none` for no limit)")
        database.client.set_queue(name, **limits)
        typer.echo(f"{name}: {in_words(_one(database, name)) or 'no limits'}")


@app.command()
def pause(name: Name, url: Url = None, schema: Schema = None) -> None:
    """Let nothing more of a queue begin; what runs goes on."""
    with target(url, schema) as database:
        database.client.pause_queue(name)
        found = _one(database, name)
    typer.echo(f"{name} is paused: {found['ready']} ready, {found['running']} still running")


@app.command()
def resume(name: Name, url: Url = None, schema: Schema = None) -> None:
    """Let a paused queue go on."""
    with target(url, schema) as database:
        database.client.resume_queue(name)
        found = _one(database, name)
    typer.echo(f"{name} goes on: {found['ready']} ready, {found['running']} running")


def in_words(queue: dict[str, Any]) -> str:
    """The limits of a queue.

    Example:
        >>> in_words({"concurrency": 5, "per_partition": 1, "rate_limit": 100, "rate_per_s": 60.0, "rate_burst": 20})
        '5 at once, 1 a partition, 100 every 60 s (20 at once)'
        >>> in_words({"worker_concurrency": 2, "partition_rate_limit": 3, "partition_rate_per_s": 1, "max_depth": 9})
        '2 a worker, 3 a second a partition, 9 ready at most'
    """
    parts = [
        f"{queue[limit]} {words}"
        for limit, words in (
            ("concurrency", "at once"),
            ("worker_concurrency", "a worker"),
            ("per_partition", "a partition"),
        )
        if queue.get(limit) is not None
    ]
    for prefix, words in (("", ""), ("partition_", " a partition")):
        if queue.get(f"{prefix}rate_limit") is not None:
            burst = queue.get(f"{prefix}rate_burst")
            at_once = "" if burst is None else f" ({burst} at once)"
            parts.append(f"{queue[f'{prefix}rate_limit']} {_every(queue[f'{prefix}rate_per_s'])}{words}{at_once}")
    if queue.get("max_depth") is not None:
        parts.append(f"{queue['max_depth']} ready at most")
    return ", ".join(parts)


def _every(seconds: float) -> str:
    return "a second" if seconds == 1 else f"every {seconds:g} s"


def _state(queue: dict[str, Any]) -> Text:
    from rich.text import Text

    return Text("paused", style="yellow") if queue["paused"] else Text("open", style="green")


def _count(number: int) -> Text:
    from rich.text import Text

    return Text(f"{number:,}" if number else "", style="cyan")


def _oldest(queue: dict[str, Any]) -> str:
    return "" if queue["age_s"] is None else ago(queue["age_s"])


def _one(database: Target, name: str) -> dict[str, Any]:
    from dbdurable._sql.inspect import QUEUES_JSON

    (found,) = database.objects(QUEUES_JSON, name)
    return found


def _is_none(text: str) -> bool:
    return text.strip().lower() == "none"


def _number(option: str, text: str) -> int | None:
    from dbdurable.errors import BadArgument

    if _is_none(text):
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise BadArgument(f"{option} takes a whole number, or none for no limit, not {text[:50]!r}")
    return int(text)


def _rate(database: Target, queue: str, limit: str, text: str | None, burst: str | None) -> Rate | None:
    """The rate as the options say it; a burst alone changes that of the rate that is there."""
    from dbdurable.errors import BadArgument, UnknownQueue

    option = f"--{limit.replace('_', '-')}"
    of_burst = option.replace("rate", "burst")
    most = None if burst is None else _number(of_burst, burst)
    if text is None:
        known = {q.name: q for q in database.client.queues()}
        if queue not in known:
            raise UnknownQueue(f"there is no queue named {queue!r}; `dbdurable queues` lists them")
        there: Rate | None = getattr(known[queue], limit)
        if there is None:
            raise BadArgument(f"{of_burst} needs a rate, and queue {queue!r} has none: pass {option} 100/60s, too")
        return there._replace(burst=most)
    if _is_none(text):
        if most is not None:
            raise BadArgument(f"{of_burst} is a part of the rate that {option} none takes away: pass one of them")
        return None
    return _parsed(option, text)._replace(burst=most)


def _parsed(option: str, text: str) -> Rate:
    from dbdurable.errors import BadArgument
    from dbdurable.types import Rate

    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9}(?:\.\d+)?)?\s*(ms|s|min|m|h|d)?\s*", text)
    if found is None or (found[2] is None and found[3] is None):
        raise BadArgument(f"{option} takes starts and a time, 100/60s, 5/s or 1000/h, or none, not {text[:50]!r}")
    return Rate(int(found[1]), float(found[2] or 1) * _UNITS_S[found[3] or "s"])
