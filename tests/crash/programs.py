"""Every program that is crashed: how a workflow of `workflows` or `endings` is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbdurable.errors import WorkflowCancelled
from tests.crash import endings as e
from tests.crash import workflows as w
from tests.crash.workflows import Refused, durable


@dataclass(frozen=True)
class Program:
    """A way to run one of the workflows under a key."""

    name: str
    workflow: Any
    queued: bool = False
    is_async: bool = False
    raises: tuple[type[Exception], ...] = ()
    arguments: Callable[[str], tuple[Any, ...]] = lambda run: (run,)
    durable = durable


PROGRAMS = {
    program.name: program
    for program in [
        Program("transactions", w.transactions),
        Program("steps", w.steps),
        Program("mixed", w.mixed),
        Program("refused", w.refused, raises=(Refused,)),
        Program("queued", w.mixed, queued=True),
        Program("one transaction", w.write, queued=True, arguments=lambda run: (run, "alone", 3)),
        Program("async", w.awaited, is_async=True),
        Program("async queued", w.awaited, is_async=True, queued=True),
        Program("async branches", w.branches, is_async=True),
        Program("sync of async", w.awaited),
        Program("async of sync", w.transactions, is_async=True),
        Program("method", w.till.sell),
        Program("parent", w.parent),
        Program("session", w.sessions),
        Program("naps", w.naps),
        Program("naps queued", w.naps, queued=True),
        Program("async naps", w.anaps, is_async=True),
        Program("retries", w.retries),
        Program("retries queued", w.retries, queued=True),
        Program("async retries", w.aretries, is_async=True),
        Program("talks", w.talks),
        Program("async talks", w.atalks, is_async=True),
        Program("saga", w.sagas_, raises=(Refused,)),
        Program("async saga", w.asagas, is_async=True, raises=(Refused,)),
        Program("cancelled", e.cancelled, raises=(WorkflowCancelled,)),
        Program("cancelled queued", e.cancelled, queued=True, raises=(WorkflowCancelled,)),
        Program("async cancelled", e.acancelled, is_async=True, raises=(WorkflowCancelled,)),
        Program("deadline", e.deadline, raises=(WorkflowCancelled,)),
        Program("async deadline", e.adeadline, is_async=True, raises=(WorkflowCancelled,)),
        Program("limits", e.limits),
        Program("async limits", e.alimits, is_async=True),
        Program("losers", e.losers),
        Program("async losers", e.alosers, is_async=True),
        Program("closes", e.closes),
        Program("cascades", e.cascades, is_async=True, raises=(WorkflowCancelled,)),
        Program("greets", e.greets),
        Program("async greets", e.agreets, is_async=True),
    ]
}

HANGS = Program("hangs", e.hangs, queued=True, raises=(WorkflowCancelled,))
"""In a step that never ends: it is killed from outside, not at its points."""
ALL = {**PROGRAMS, HANGS.name: HANGS}
