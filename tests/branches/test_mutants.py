"""What keeps the order is needed: without it, the property that test_order.py tries does not hold."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from dbdurable import Durable
from dbdurable._core.order import Order
from dbdurable._executor import branches
from dbdurable._protocol.frame import current_line
from tests.branches.test_order import Lab, _module_url, lab

__all__ = ["_module_url", "lab"]

TRIES = 12
SPEC: Any = [("gather", [2, 2, 2, 2])]
TASKS: Any = [("asyncio.gather", [2, 2, 2, 2])]


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are seen when they are there, whatever their position."""
    ties = itertools.count()
    wait = Order.wait
    monkeypatch.setattr(Order, "wait", lambda self, seq, waiter: wait(self, next(ties), waiter))
    monkeypatch.setattr(Order, "sent", lambda self, seq: None)


def by_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task takes its path when it makes its first call."""

    class Lazy:
        def __init__(self, parent: Any) -> None:
            self.parent, self.line = parent, None

        def __getattr__(self, name: str) -> Any:
            if self.line is None:
                self.line = self.parent.branch()
            return getattr(self.line, name)

    monkeypatch.setattr(branches, "_line_of", lambda frame, coro: Lazy(current_line(frame)))


def trial(lab: Lab, colour: str, spec: Any) -> None:
    """Cut in the middle; the calls that were fast are slow the second time."""
    for n in range(TRIES):
        delays = [[6, 0, 4, 2, 8, 0], [0, 8, 2, 6, 0, 4, 1]][n % 2]
        lab.check(colour, spec, [14 + n % 5, 16 + n % 5], delays)


@pytest.mark.parametrize(("colour", "spec"), [("threads", SPEC), ("tasks", TASKS)], ids=["threads", "tasks"])
def test_without_mutants_it_holds(lab: Lab, colour: str, spec: Any) -> None:
    trial(lab, colour, spec)


@pytest.mark.parametrize(("colour", "spec"), [("threads", SPEC), ("tasks", TASKS)], ids=["threads", "tasks"])
def test_the_order_of_the_journal_is_needed(lab: Lab, colour: str, spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_comes(monkeypatch)
    with pytest.raises(AssertionError, match="another order"):
        trial(lab, colour, spec)


def paths_by_who_is_first(url: str) -> list[list[Any]]:
    """The journal of two branches, of which one waits for the other before its first call; then the other way."""
    durable, journals = Durable(url), []

    @durable.step
    async def note(n: int) -> int:
        return n

    @durable.workflow
    async def both(first: int) -> None:
        gates = [asyncio.Event(), asyncio.Event()]

        async def branch(number: int) -> None:
            if number != first:
                await gates[number].wait()
            for n in range(number + 1):
                await note(n)
            gates[1 - number].set()

        await asyncio.gather(branch(0), branch(1))

    with durable.executor():
        for first in (0, 1):
            handle = both.sync.start(first)
            handle.result(timeout=30)
            journals.append(sorted(step.path for step in handle.steps()))
    durable.close()
    return journals


def test_tasks_have_to_be_numbered_when_they_are_made(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = paths_by_who_is_first(database_url)
    assert one == other
    by_first_call(monkeypatch)
    one, other = paths_by_who_is_first(database_url)
    assert one != other, "the mutant survives"
