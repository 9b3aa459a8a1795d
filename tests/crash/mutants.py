"""Wrong versions of the library, put in place in a child process only: tests of the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MUTANTS: dict[str, Mutant] = {}


@dataclass(frozen=True)
class Mutant:
    """One mistake, and the promise that it breaks."""

    name: str
    promise: str
    apply: Callable[[], None]
