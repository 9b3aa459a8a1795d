"""The seam for faults: every statement and commit passes here, so that a test can stop, cut or freeze there.

A `Database` has no seam unless a test gives it one; then each point has a number by the order in which it
is reached. Product code never looks at what a seam does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from dbdurable._protocol.effects import Begin, Call, Commit, Flight, Query, Rollback

Reached: TypeAlias = Flight | Begin | Call | Commit | Rollback
"""The effects that have a point before and one after them."""


class Seam(Protocol):
    """Told of every point, in order. It may raise, block, cut the connection, or end the process."""

    def reached(self, point: str, connection: Any) -> None:
        """`point` says what is about to happen or has happened: 'before commit reserve'."""


def point_of(effect: Reached) -> str:
    """What an effect is called in the name of a point."""
    match effect:
        case Flight():
            return _names(effect.queries)
        case Begin():
            return f"begin {effect.step}"
        case Call():
            return f"call {effect.name}"
        case Commit():
            return f"{_names(effect.records)} + commit"
        case Rollback():
            return "rollback"


def _names(queries: Iterable[Query]) -> str:
    return " + ".join(query.statement.name for query in queries)
