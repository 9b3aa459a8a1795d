"""What a queue may be told to allow: checked here, applied by the SQL function `set_queue`."""

from __future__ import annotations

from typing import Any, Final

from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._core.whole import whole_number
from dbdurable.errors import BadArgument
from dbdurable.types import Rate

LIMIT_MAX: Final = 1_000_000
RATE_S_MIN: Final = 0.001
RATE_S_MAX: Final = 366 * 86_400.0

_NUMBERS = ("concurrency", "worker_concurrency", "per_partition", "max_depth")
_RATES = {"rate": "rate", "rate_per_partition": "partition_rate"}


def queue_settings(limits: dict[str, Any]) -> dict[str, Any]:
    """The columns of a queue's row for limits as users write them; None takes a limit away. Raises BadArgument.

    Example:
        >>> queue_settings({"concurrency": 5, "rate": Rate(100, per=60)})
        {'concurrency': 5, 'rate_limit': 100, 'rate_per': 60.0, 'rate_burst': None}
    """
    settings: dict[str, Any] = {}
    for name, value in limits.items():
        if name in _NUMBERS:
            settings[name] = None if value is None else _whole(name, value)
        elif name in _RATES:
            settings |= _rate(name, _RATES[name], value)
        else:
            known = ", ".join((*_NUMBERS, *_RATES))
            raise BadArgument(f"a queue has no setting {name!r}; there are {known}")
    return settings


def _whole(name: str, value: object) -> int:
    return whole_number(value, f"{name}=", 1, LIMIT_MAX, or_else=", or None for no limit")


def _rate(name: str, column: str, value: object) -> dict[str, Any]:
    if value is None:
        return {f"{column}_limit": None, f"{column}_per": None, f"{column}_burst": None}
    if not isinstance(value, Rate):
        raise BadArgument(f"{name}= takes a Rate, Rate(100, per=60), not {shown(value)}")
    per_s = duration_s(value.per, f"{name}=Rate(per=)")
    if not RATE_S_MIN <= per_s <= RATE_S_MAX:
        raise BadArgument(f"{name}=Rate(per=) is a time from 1 ms to 366 days, not {per_s:g} s")
    return {
        f"{column}_limit": _whole(f"{name}=Rate(limit)", value.limit),
        f"{column}_per": per_s,
        f"{column}_burst": None if value.burst is None else _whole(f"{name}=Rate(burst)", value.burst),
    }
