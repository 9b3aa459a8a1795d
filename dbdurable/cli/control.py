"""`start`, `result`, `cancel`, `pause`, `resume`: what a client can do, from a shell."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from dbdurable.cli.app import Json, Schema, Url, fail
from dbdurable.cli.look import Id
from dbdurable.cli.output import print_json
from dbdurable.cli.target import target
from dbdurable.types import Status

__all__ = ["cancel", "pause", "result", "resume", "start"]


def start(
    name: Annotated[str, typer.Argument(help="The workflow's name, as an executor registered it.")],
    arguments: Annotated[
        str,
        typer.Argument(metavar="[ARGUMENTS]", help="JSON: an object by name, or an array by position."),
    ] = "{}",
    key: Annotated[str | None, typer.Option("--key", help="Start it once under this key.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", help="Another queue than the workflow's own.")] = None,
    delay: Annotated[float | None, typer.Option("--delay", min=0, help="Seconds to wait first.")] = None,
    url: Url = None,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Start a workflow in the background, and print its id."""
    args, kwargs = _arguments(arguments)
    options: dict[str, Any] = {"key": key, "queue": queue, "delay": delay}
    given = {option: value for option, value in options.items() if value is not None}
    with target(url, schema) as database:
        handle = database.client.workflow(name).options(**given).start(*args, **kwargs)
        if as_json:
            print_json({"id": str(handle.id), "name": name})
        else:
            typer.echo(handle.id)


def result(
    workflow: Id,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = None,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Wait for a workflow's end, and print what it returned as JSON; status 1 if it did not succeed."""
    from dbdurable._sql.inspect import SHOW_JSON
    from dbdurable.errors import Cancelled, DurableError

    with target(url, schema) as database:
        id = database.id_of(workflow)
        try:
            database.client.handle(id).result(timeout)
        except DurableError:
            raise
        except (Exception, Cancelled) as error:  # what the workflow raised, as the class it had
            fail(f"workflow {id} failed: {type(error).__name__}: {error}")
            raise typer.Exit(1) from None
        (found,) = database.objects(SHOW_JSON, id)
    print_json(found["output"])


def cancel(
    workflow: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown in lists.")] = "",
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Cancel a workflow: no database effect of it commits from now on."""
    with target(url, schema) as database:
        handle = database.client.handle(database.id_of(workflow))
        handle.cancel(reason)
        info = handle.info()
    is_open = info.status not in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
    note = ", to be cancelled; its body may clean up" if is_open else ""
    typer.echo(f"{info.name} {info.id} is {info.status}{note}")


def pause(workflow: Id, url: Url = None, schema: Schema = None) -> None:
    """Stop a workflow before its next record, until it is resumed."""
    with target(url, schema) as database:
        handle = database.client.handle(database.id_of(workflow))
        handle.pause()
        _report(handle)


def resume(workflow: Id, url: Url = None, schema: Schema = None) -> None:
    """Let a paused, blocked or failed workflow go on; what failed last is tried again."""
    with target(url, schema) as database:
        handle = database.client.handle(database.id_of(workflow))
        handle.resume()
        _report(handle)


def _report(handle: Any) -> None:
    info = handle.info()
    typer.echo(f"{info.name} {info.id} is {info.status}" + (f": {info.reason}" if info.reason else ""))


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    from dbdurable.errors import BadArgument

    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadArgument(f"the arguments are not JSON: {error}; write '{{\"order_id\": 42}}'") from None
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        return [], value
    raise BadArgument("the arguments must be a JSON object (by name) or array (by position)")
