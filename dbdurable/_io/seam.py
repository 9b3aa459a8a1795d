"""The seam for faults: every statement and commit passes here, so that a test can stop, cut or freeze there.

A `Database` has no seam unless a test gives it one; then each point has a number by the order in which it
is reached. Product code never looks at what a seam does.
"""

from __future__ import annotations

from typing import Any, Protocol


class Seam(Protocol):
    """Told of every point, in order. It may raise, block, cut the connection, or end the process."""

    def reached(self, point: str, connection: Any) -> None:
        """`point` says what is about to happen or has happened: 'before commit reserve'."""
