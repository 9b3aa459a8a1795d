"""Checks of the work itself: whether all of it is somewhere where somebody finds it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import combinations

from dbdurable._sql import doctor as sql
from dbdurable.cli.finding import Finding, Patient, error, note, some, warning
from dbdurable.cli.output import ago, seconds

__all__ = ["applications", "attention", "executors", "limits", "stranded", "unclaimable"]

NEWEST = 10_000
"""Without --deep, so many of the newest workflows are looked at."""
HEAD_OF_A_LINE, HEADS = 500, 20_000
TICKETS_BYTES_MAX = 100 * 2**20
"""Without --deep, tickets are compared with workflows while their table is no bigger than that."""
RECOVERED_S = 60.0
AGAIN_S = 1.0
NAMES_MAX = 5


def unclaimable(patient: Patient) -> Iterator[Finding]:
    """Ready work that no living executor takes."""
    with patient.walking():
        limits = (None, None) if patient.deep else (HEAD_OF_A_LINE, HEADS)
        found = patient.objects(sql.HEADS, *limits)
    if not any(executor["alive"] for executor in patient.objects(sql.EXECUTORS)):
        if found:
            count = sum(ticket["workflows"] for ticket in found)
            yield error(
                f"no executor is alive, and work is ready: {_counted(count, patient)}, "
                f"the oldest for {seconds(max(ticket['age_s'] for ticket in found))}",
                "Start one: `dbdurable worker MODULE:OBJECT`.",
            )
        return
    for ticket in found:
        queue, name = ticket["queue"], ticket["name"]
        count, oldest = _counted(ticket["workflows"], patient), seconds(ticket["age_s"])
        what = f"{count} of {name!r} in queue {queue!r}, ready for up to {oldest}"
        if not ticket["name_known"]:
            yield error(
                f"no living executor has a workflow of this name: {what}",
                f"Deploy code that has {name!r} (a renamed function keeps its name by name={name!r}), or cancel them.",
            )
        elif not ticket["queue_served"]:
            yield error(
                f"no living executor serves this queue: {what}",
                f"Start a worker for it: dbdurable worker MODULE:OBJECT --queue {queue}.",
            )
        else:
            yield error(
                f"no living executor serves this queue and has this workflow: {what}",
                f"Let a worker that has {name!r} serve queue {queue!r}, too.",
            )


def executors(patient: Patient) -> Iterator[Finding]:
    """Dead executors, and what they still hold."""
    known = patient.objects(sql.EXECUTORS)
    has_living = any(executor["alive"] for executor in known)
    for executor in known:
        if executor["alive"]:
            continue
        who = executor["process"] or "an executor that is not registered any more"
        dead_s, held = executor["dead_s"], _workflows(executor["holds"])
        since = "" if dead_s is None else f" (its lease ended {ago(dead_s)})"
        if not executor["holds"]:
            yield note(f"{who} is dead{since}; it holds nothing", "Nothing: a living executor removes its row.")
        elif not has_living:
            yield error(
                f"{who} is dead{since} and held {held}; nobody is alive to take over",
                "Start a worker: `dbdurable worker MODULE:OBJECT`; it takes them over in seconds.",
            )
        elif dead_s is None or dead_s < RECOVERED_S:
            yield note(
                f"{who} is dead{since}; {held} of it will be taken over in a moment",
                "Look again in a minute.",
            )
        else:
            yield error(
                f"{who} is dead{since} and held {held} that nobody takes over",
                "Look for a transaction that holds their rows (see snapshots) and at the logs of the living workers.",
            )


def stranded(patient: Patient) -> Iterator[Finding]:
    """Unfinished workflows that are nowhere where somebody would find them. There must be none."""
    size = next((t["bytes"] for t in patient.objects(sql.TABLES) if t["name"] == "ready"), 0)
    with_tickets = patient.deep or size <= TICKETS_BYTES_MAX
    scope = (None if patient.deep else NEWEST, with_tickets)
    lost = set(patient.rows(sql.STRANDED, *scope))
    if lost:  # what moved just now shows once; what is lost shows twice
        time.sleep(AGAIN_S)
        lost &= set(patient.rows(sql.STRANDED, *scope))
    if not with_tickets:
        yield note(
            f"there are too many tickets ({size / 2**20:,.0f} MB) to look whether each queued workflow has one",
            "Run `dbdurable doctor --deep`, which reads all of them.",
        )
    words = {
        "queued": "queued with neither a ticket nor a time to start",
        "running": "running without a lease",
        "waiting": "waiting for nothing that is recorded",
    }
    for status in sorted({status for _, _, status, _ in lost}):
        names = [f"{name} {id}" for id, name, each, _ in sorted(lost) if each == status]
        yield error(
            f"{_workflows(len(names))} {words.get(status, f'{status}, but in no list of such')}: "
            f"{some(names, NAMES_MAX)}",
            "This cannot happen by itself: was something written by hand, or restored in parts? `dbdurable pause ID`, "
            "then `dbdurable resume ID` makes one go on; please report it."
            if status in words
            else "`dbdurable resume ID` lets one go on; please report it.",
        )


def limits(patient: Patient) -> Iterator[Finding]:
    """What limits say is taken, against what is."""
    for queue, partition, used, taken in patient.rows(sql.LIMITS, patient.deep):
        what = f"queue {queue!r}" + (f", partition {partition!r}" if partition else "")
        name, part = (text.replace("'", "''") for text in (queue, partition))
        where = f"queue = '{name}' and partition = '{part}'"
        yield error(
            f"the limit of {what} says that {used} are taken, but {taken} are",
            "Please report it. Pause the queue until nothing of it runs, then: update "  # noqa: S608 - to be read
            f"{patient.schema}.limit_key set used = 0 where {where}.",
        )


def attention(patient: Patient) -> Iterator[Finding]:
    """Failed, blocked and paused workflows, and paused queues."""
    for status, count, since_s in patient.rows(sql.ATTENTION):
        oldest = f"{count:,} {status}, the oldest {ago(since_s)}"
        match status:
            case "blocked":
                yield warning(
                    f"{oldest}: the code no longer fits what they recorded",
                    "`dbdurable failures` shows where; deploy code that fits, and `dbdurable resume ID`.",
                )
            case "failed":
                yield warning(
                    oldest, "`dbdurable failures` shows why; mend the cause and `dbdurable resume ID`, or leave them."
                )
            case _:
                yield note(oldest, f"`dbdurable list --status {status}` shows them; `dbdurable resume ID` goes on.")
    for (queue,) in patient.rows(sql.PAUSED_QUEUES):
        yield note(f"queue {queue!r} is paused and has work", f"`dbdurable queues resume {queue}` lets it go on.")


def applications(patient: Patient) -> Iterator[Finding]:
    """Signs of several applications in one schema. Only what executors register can be known."""
    living = [executor for executor in patient.objects(sql.EXECUTORS) if executor["alive"]]
    versions = sorted({executor["version"] for executor in living})
    if len(versions) > 1:
        yield note(
            f"living executors run different versions of dbdurable: {', '.join(versions)}",
            "Fine while a deploy is under way; finish it.",
        )
    kinds = {frozenset(executor["names"]): executor for executor in living}
    for (mine, one), (theirs, other) in combinations(kinds.items(), 2):
        if mine & theirs and mine - theirs and theirs - mine:
            yield note(
                f"{one['process']} and {other['process']} share {some(mine & theirs, NAMES_MAX)}, but only the first "
                f"has {some(mine - theirs, NAMES_MAX)} and only the second {some(theirs - mine, NAMES_MAX)}",
                "Either a deploy is under way, or these are two applications in one schema: then each runs the "
                "other's work under the shared names, so give each a schema of its own (DBDURABLE_SCHEMA).",
            )
            return


def _counted(count: int, patient: Patient) -> str:
    """Of a line only the head is counted, unless all is."""
    at_least = "" if patient.deep or count < HEAD_OF_A_LINE else "at least "
    return at_least + _workflows(count)


def _workflows(count: int) -> str:
    return f"{count:,} workflow{'' if count == 1 else 's'}"
