"""`doctor`: looks for what is wrong or becomes so, and says what to do about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from dbdurable.cli.app import Json, Schema, Url, chosen
from dbdurable.cli.output import console

if TYPE_CHECKING:
    from dbdurable.cli.finding import Finding, Patient

    Check = Callable[[Patient], Iterator[Finding]]

__all__ = ["doctor"]

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Read all rows: minutes, where there are many.")] = False,
    old_after: Annotated[
        float, typer.Option("--old-after", min=0, metavar="SECONDS", help="Transactions open so long are old.")
    ] = 300,
    url: Url = None,
    schema: Schema = None,
    as_json: Json = False,
) -> None:
    """Look for stranded work and for trouble with the server, the tables and rights; it changes nothing.

    Exit status 1 when there is an error; warnings and notes leave it 0.
    """
    import psycopg

    from dbdurable._io.connect import connect, connection_error, resolve_url
    from dbdurable._sql.doctor import SERVER
    from dbdurable.cli.finding import Patient
    from dbdurable.settings import load_settings

    url, schema = chosen(url, schema)
    settings = load_settings(url, schema=schema)
    found_url = resolve_url(settings)
    with connect(found_url, application_name="dbdurable doctor") as connection:
        patient = Patient(connection, settings.listen_url_for(found_url), settings.schema_name, {}, deep, old_after)
        try:
            (patient.server,) = patient.objects(SERVER)
            checked, findings = _examine(patient)
        except psycopg.OperationalError as error:
            if not connection.closed:
                raise
            raise connection_error(error, found_url) from None
    is_ok = not any(finding.severity == "error" for finding in findings)
    if as_json:
        report = {"ok": is_ok, "checks": checked, "findings": [finding.as_json() for finding in findings]}
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _tell(checked, findings)
    raise typer.Exit(0 if is_ok else 1)


def _examine(patient: Patient) -> tuple[list[str], list[Finding]]:
    """The names of all checks that were made, and what they found, the worst first."""
    from dbdurable.cli import doctor_server as server
    from dbdurable.cli import doctor_tables as tables
    from dbdurable.cli import doctor_work as work

    of_server: Sequence[Check] = (
        server.server,
        server.settings,
        server.connections,
        server.clock,
        server.pooler,
        server.listen,
        server.snapshots,
    )
    of_tables: Sequence[Check] = (tables.shape, tables.grants, tables.vacuum)
    of_work: Sequence[Check] = (
        work.unclaimable,
        work.executors,
        work.stranded,
        work.limits,
        work.attention,
        work.applications,
    )
    findings = [finding for check in (*of_server, tables.version) for finding in _run(check, patient)]
    made = [*of_server, tables.version]
    if not any(finding.check == "version" for finding in findings):  # else nothing is where it should be
        for check in (*of_tables, *of_work):
            findings += _run(check, patient)
            made.append(check)
    order = list(STYLES)
    return [check.__name__ for check in made], sorted(findings, key=lambda finding: order.index(finding.severity))


def _run(check: Check, patient: Patient) -> list[Finding]:
    import psycopg

    from dbdurable.cli.finding import error

    try:
        found = list(check(patient))
    except psycopg.Error as refused:
        if patient.connection.closed:
            raise
        reason = refused.diag.message_primary or str(refused)
        found = [error(f"could not be checked: {reason}", "Mend that first, or run doctor as an administrator.")]
    return [replace(finding, check=check.__name__) for finding in found]


def _tell(checked: list[str], findings: list[Finding]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    screen = console()
    for finding in findings:
        head = Text.assemble((f"{finding.severity} ", STYLES[finding.severity]), (f"{finding.check}: ", "bold"))
        screen.print(head.append(finding.found))
        screen.print(Padding(Text(finding.do, style="dim"), (0, 0, 1, 4)))
    counts = Counter(str(finding.severity) for finding in findings)
    if not findings:
        screen.print(Text(f"nothing found by {len(checked)} checks: {', '.join(checked)}", style="green"))
        return
    words = ", ".join(f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}" for kind in STYLES if counts[kind])
    screen.print(f"{len(checked)} checks: {words}")
