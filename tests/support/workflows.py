"""What tests of workflows share: a place where a step stops, and what is left of a workflow."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from psycopg import Connection

from dbdurable import Handle
from dbdurable.errors import WorkflowCancelled

LIMIT_S = 20.0


class Gate:
    """A place in a step or transaction: it says that it is there, and goes on when the test lets it."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.go.wait(LIMIT_S)

    async def never(self) -> None:
        """For `async def`: it is there, until it is cancelled."""
        self.reached.set()
        await asyncio.Event().wait()

    def wait_reached(self) -> None:
        assert self.reached.wait(LIMIT_S)


def check_cancelled(handle: Handle[Any], gate: Gate) -> None:
    """Cancels it while it stands at the gate, and waits for its end."""
    gate.wait_reached()
    handle.cancel("stop")
    gate.go.set()
    with pytest.raises(WorkflowCancelled, match="stop"):
        handle.result(LIMIT_S)


def journal(handle: Handle[Any]) -> list[tuple[str, str | None]]:
    """The recorded steps, each with its error."""
    return [(step.name, step.error) for step in handle.steps()]


def items(stock: Connection[Any]) -> list[str]:
    """What is committed in the application's table."""
    return [item for (item,) in stock.execute("select item from stock order by 1").fetchall()]
