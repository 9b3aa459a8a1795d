"""What a fan-out has come to so far: whether it goes on, and with what it ends."""

from __future__ import annotations

from math import isfinite
from typing import Generic, TypeVar

from dbdurable._core.whole import whole_number
from dbdurable.errors import BadArgument
from dbdurable.types import Batch, Completion

R = TypeVar("R")


class Tally(Generic[R]):
    """Outcomes by position.

    Example:
        >>> tally = Tally(4, Completion(min_successful=1))
        >>> tally.failed(0, ValueError("no")), tally.decided
        (None, False)
        >>> tally.succeeded(2, "yes"), tally.decided
        (None, True)
        >>> tally.batch().succeeded
        [(2, 'yes')]
    """

    def __init__(self, total: int, completion: Completion | None) -> None:
        self.total, self.completion = total, completion
        self._values: dict[int, R] = {}
        self._errors: dict[int, Exception] = {}
        self._tolerated = 0 if completion is None else _tolerated(total, completion)
        self._wanted = None if completion is None else completion.min_successful

    def succeeded(self, position: int, value: R) -> None:
        """An item has returned."""
        self._values[position] = value

    def failed(self, position: int, error: Exception) -> None:
        """An item has raised."""
        self._errors[position] = error

    @property
    def decided(self) -> bool:
        """Whether nothing that is not under way yet has to begin."""
        return self._too_many or (self._wanted is not None and len(self._values) >= self._wanted)

    @property
    def enough(self) -> bool:
        """Whether those that are under way need not be waited for: without a Completion they are."""
        return self.completion is not None and self.decided

    @property
    def _too_many(self) -> bool:
        return self._tolerated is not None and len(self._errors) > self._tolerated

    def values(self) -> list[R]:
        """Everything, in the order of the items; raises the first failure by position."""
        if self._errors:
            raise self._first()
        return [self._values[position] for position in range(self.total)]

    def batch(self) -> Batch[R]:
        """What succeeded and what failed; raises the first failure by position when too much did."""
        if self._too_many:
            raise self._first(f"{len(self._errors)} of {self.total} items failed, {self._tolerated} are tolerated")
        if self._wanted is not None and len(self._values) < self._wanted:
            note = f"only {len(self._values)} of {self.total} items succeeded, {self._wanted} have to"
            raise self._first(note)
        return Batch(sorted(self._values.items()), sorted(self._errors.items()))

    def _first(self, note: str | None = None) -> Exception:
        position = min(self._errors)
        error = self._errors[position]
        error.add_note(f"raised for item {position} of fan_out" + (f": {note}" if note else ""))
        return error


def _tolerated(total: int, completion: Completion) -> int | None:
    """How many failures are one too few to give up; None without a limit."""
    _check(total, completion)
    limits = []
    if completion.tolerated_failures is not None:
        limits.append(completion.tolerated_failures)
    if completion.tolerated_failure_percent is not None:
        limits.append(int(total * completion.tolerated_failure_percent / 100))
    return min(limits, default=None)


def _check(total: int, completion: Completion) -> None:
    wanted, failures, percent = completion
    for name, number in (("min_successful", wanted), ("tolerated_failures", failures)):
        if number is not None:
            whole_number(number, f"Completion({name}=...)", 0)
    if wanted is not None and wanted > total:
        raise BadArgument(f"Completion(min_successful={wanted}) of {total} items can never be reached")
    if percent is not None and not (_is_number(percent) and isfinite(percent) and 0 <= percent <= 100):
        raise BadArgument(f"Completion(tolerated_failure_percent=...) takes 0 to 100, not {percent!r:.100}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
