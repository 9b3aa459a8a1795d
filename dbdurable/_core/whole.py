"""Whole numbers that users give: limits, counts, priorities."""

from __future__ import annotations

from dbdurable._core.show import shown
from dbdurable.errors import BadArgument, DurableError

__all__ = ["whole_number"]


def whole_number(
    value: object,
    what: str,
    least: int,
    most: int | None = None,
    *,
    or_else: str = "",
    error: type[DurableError] = BadArgument,
) -> int:
    """Return `value` if it is an int from `least` to `most`, both included; else raise `error`.

    Example:
        >>> whole_number(5, "threads=", 0, 10_000)
        5
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most):
        return value
    bounds = f"from {least} on" if most is None else f"from {least} to {most}"
    raise error(f"{what} takes a whole number {bounds}{or_else}, not {shown(value)}")
