"""`send`, `resolve`, `reject`: what workflows wait for, said from a shell."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from dbdurable.cli.app import Schema, Url
from dbdurable.cli.look import Id
from dbdurable.cli.target import target

__all__ = ["reject", "resolve", "send"]

Token = Annotated[str, typer.Argument(metavar="TOKEN", help="What promise(...).token gave.")]
Value = Annotated[str, typer.Argument(metavar="[VALUE]", help='JSON: true, 42, \'"text"\', \'{"by": "ann"}\'.')]


def send(
    workflow: Id,
    topic: Annotated[str, typer.Argument(help="The topic that its recv(topic) names.")],
    value: Value = "null",
    key: Annotated[str | None, typer.Option("--key", help="Send it once under this key.")] = None,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Send a message to a workflow."""
    body = _json(value)
    with target(url, schema) as database:
        database.client.handle(database.id_of(workflow)).send(topic, body, idempotency_key=key)


def resolve(token: Token, value: Value = "null", url: Url = None, schema: Schema = None) -> None:
    """Complete a promise of a workflow: its result() returns the value."""
    body = _json(value)
    with target(url, schema) as database:
        database.client.resolve(token, body)


def reject(
    token: Token,
    reason: Annotated[str, typer.Argument(metavar="REASON", help="Why; the workflow sees it.")],
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Fail a promise of a workflow: its result() raises PromiseRejected."""
    with target(url, schema) as database:
        database.client.reject(token, reason)


def _json(text: str) -> Any:
    from dbdurable.errors import BadArgument

    try:
        return json.loads(text)
    except ValueError as error:
        raise BadArgument(f'the value is not JSON: {error}; write \'"text"\', 42 or \'{{"by": "ann"}}\'') from None
