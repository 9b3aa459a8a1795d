"""`list`, `show`, `steps`, `failures`, `executors`: what there is, from the documented views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbdurable.cli.app import Json, Schema, Url
from dbdurable.cli.output import (
    ago,
    console,
    moment,
    one_line,
    own_frames,
    print_json,
    print_table,
    seconds,
    status_text,
)
from dbdurable.cli.target import target
from dbdurable.types import Status

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Id", "executors", "failures", "list_", "show", "steps"]

Id = Annotated[str, typer.Argument(metavar="ID", help="The workflow's id, or its first digits (six or more).")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")]


def list_(
    name: Annotated[str | None, typer.Option("--name", help="Only workflows of this name.")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Only in this status.")] = None,
    limit: Limit = 50,
    url: Url = None,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """List workflows, the newest first."""
    from dbdurable._sql.inspect import LIST_JSON

    with target(url, schema) as database:
        found = database.objects(LIST_JSON, name, status.value if status else None, limit)
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("no workflows" + (" like that" if name or status else " yet"))
        return
    optional = ("queue", "key", "progress")
    has_queue, has_key, has_progress = (any(w[what] not in (None, "default") for w in found) for what in optional)
    columns = ["id", "name", "status", "started", *["queue"] * has_queue, *["key"] * has_key]
    columns += [*["progress"] * has_progress, "reason"]
    rows = [
        [
            w["id"],
            w["name"],
            status_text(w["status"]),
            ago(w["age_s"]),
            *[w["queue"]] * has_queue,
            *[w["key"]] * has_key,
            *[_progress(w["progress"])] * has_progress,
            _reason(w),
        ]
        for w in found
    ]
    print_table(columns, rows, whole=["id", "status", "started"])


def show(workflow: Id, url: Url = None, schema: Schema = None, as_json: Json = False) -> None:
    """Show everything about one workflow."""
    from dbdurable._sql.inspect import SHOW_JSON, STEPS_JSON

    with target(url, schema) as database:
        id = database.id_of(workflow)
        (found,) = database.objects(SHOW_JSON, id)
        journal = database.objects(STEPS_JSON, id)
    if as_json:
        print_json({**found, "steps": [{k: v for k, v in s.items() if k != "age_s"} for s in journal]})
        return
    from rich.panel import Panel

    heading = f"{found['name']} {found['id']}"
    console().print(Panel(_fields(found), title=heading, title_align="left", border_style="dim"))
    if journal:
        _print_journal(journal)
    else:
        typer.echo("no steps recorded yet")


def steps(workflow: Id, url: Url = None, schema: Schema = None, as_json: Json = False) -> None:
    """List the recorded steps of one workflow."""
    from dbdurable._sql.inspect import STEPS_JSON

    with target(url, schema) as database:
        journal = database.objects(STEPS_JSON, database.id_of(workflow))
    if as_json:
        print_json(journal)
    elif journal:
        _print_journal(journal)
    else:
        typer.echo("no steps recorded yet")


def failures(limit: Limit = 50, url: Url = None, schema: Schema = None, as_json: Json = False) -> None:
    """List what failed or is blocked; `resume ID` lets one go on once the cause is mended."""
    from dbdurable._sql.inspect import FAILURES_JSON

    with target(url, schema) as database:
        found = database.objects(FAILURES_JSON, limit)
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("no failures")
        return
    rows = [(w["id"], w["name"], status_text(w["status"]), ago(w["age_s"]), _reason(w)) for w in found]
    print_table(["id", "name", "status", "since", "reason"], rows, whole=["id", "status", "since"])


def executors(url: Url = None, schema: Schema = None, as_json: Json = False) -> None:
    """List the processes that claim and run workflows."""
    from dbdurable._sql.inspect import EXECUTORS_JSON

    with target(url, schema) as database:
        found = database.objects(EXECUTORS_JSON)
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("no executor is running: `dbdurable worker MODULE:OBJECT`, or `with durable.executor():`")
        return
    rows = [
        (
            f"{e['host']}:{e['pid']}",
            "alive" if e["alive"] else "dead",
            e["running"],
            ago(e["age_s"]),
            e["version"],
            ", ".join(e["queues"]),
            ", ".join(e["names"]),
        )
        for e in found
    ]
    columns = ["process", "state", "running", "started", "version", "queues", "functions"]
    print_table(columns, rows, whole=["process", "state", "started"])


def _progress(said: dict[str, Any] | None) -> str:
    if said is None:
        return ""
    total = "" if said["total"] is None else f" of {said['total']}"
    return one_line(f"{said['done']}{total} {said['text']}".strip())


def _reason(w: dict[str, Any]) -> str:
    return one_line(w["reason"] or (f"{w['error_type']}: {w['error_message']}" if w["error_type"] else ""))


def _print_journal(journal: list[dict[str, Any]]) -> None:
    rows = [
        (
            s["path"],
            s["name"],
            s["kind"],
            status_text(s["status"]),
            s["attempts"],
            seconds(s["duration_s"]),
            one_line(s["output"] if s["error_type"] is None else f"{s['error_type']}: {s['error_message']}"),
        )
        for s in journal
    ]
    columns = ["path", "name", "kind", "status", "attempts", "took", "output"]
    print_table(columns, rows, whole=["path", "kind", "status"])


_PLAIN = ("reason", "key", "queue", "priority", "partition", "parent_id", "executor")
_TIMES = ("created_at", "started_at", "finished_at", "deadline")


def _fields(w: dict[str, Any]) -> Table:
    from rich.json import JSON
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("status", status_text(w["status"]))
    for name in _PLAIN:
        if w[name] not in (None, "", 0):
            grid.add_row(name.removesuffix("_id"), Text(str(w[name])))
    if w["progress"] is not None:
        grid.add_row("progress", Text(_progress(w["progress"])))
    grid.add_row("attempt", f"{w['attempt']} of {w['max_attempts']}")
    for name in _TIMES:
        if w[name] is not None:
            note = f" ({ago(w['age_s'])})" if name == "created_at" else ""
            grid.add_row(name.removesuffix("_at"), moment(w[name]) + note)
    if w["duration_s"] is not None:
        grid.add_row("took", seconds(w["duration_s"]))
    for wait in w["waits"]:
        until = f" until {moment(wait['due'])}" if wait["due"] else ""
        grid.add_row("waits for", Text(f"{wait['kind']} {wait['subject']}".strip() + until))
    for name in ("attributes", "input", "output"):
        if w[name] is not None or (name == "output" and w["status"] == "succeeded"):
            grid.add_row(name, JSON.from_data(w[name], indent=2 if len(str(w[name])) > 60 else None))
    if w["error_type"] is not None:
        grid.add_row("error", Text(f"{w['error_type']}: {w['error_message']}", style="red"))
        if w["error_traceback"]:
            grid.add_row("", Text(own_frames(w["error_traceback"]), style="dim"))
    return grid
