"""All commands, in the order of `dbdurable --help`."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from dbdurable.cli import control, db, doctor, look, migrate, query, queues, talk, top, worker
from dbdurable.cli.app import app

__all__ = ["app"]

LOOK, RUN, OPERATE = "Look", "Run", "Operate the database"

for command, name, panel in (
    (look.list_, "list", LOOK),
    (look.show, "show", LOOK),
    (look.steps, "steps", LOOK),
    (look.failures, "failures", LOOK),
    (look.executors, "executors", LOOK),
    (top.top, "top", LOOK),
    (query.sql, "sql", LOOK),
    (worker.worker, "worker", RUN),
    (control.start, "start", RUN),
    (control.result, "result", RUN),
    (control.cancel, "cancel", RUN),
    (control.pause, "pause", RUN),
    (control.resume, "resume", RUN),
    (talk.send, "send", RUN),
    (talk.resolve, "resolve", RUN),
    (talk.reject, "reject", RUN),
    (migrate.migrate, "migrate", OPERATE),
    (doctor.doctor, "doctor", OPERATE),
):
    app.command(name, rich_help_panel=panel)(command)
app.add_typer(queues.app, name="queues", rich_help_panel=LOOK)
app.add_typer(db.app, name="db", rich_help_panel=OPERATE)

# Each of these modules defines one function of its own name.
for extra in ("demo", "bench"):
    if find_spec(f"dbdurable.cli.{extra}"):
        app.command(extra, rich_help_panel="Try")(getattr(import_module(f"dbdurable.cli.{extra}"), extra))
