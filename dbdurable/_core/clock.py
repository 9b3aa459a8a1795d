"""Points in time as the protocol carries them: microseconds since 1970, whole numbers that no time zone changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(us: int) -> datetime:
    """The time as an aware datetime, in UTC.

    Example:
        >>> at(1_700_000_000_123_456).isoformat()
        '2023-11-14T22:13:20.123456+00:00'
    """
    return _EPOCH + timedelta(microseconds=us)
