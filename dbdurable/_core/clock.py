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


class Passed:
    """Time that a test has let pass: by how much the application's clock is ahead of the database's, and since when.

    What happened before it keeps its time, so that a replay sees the same.

    Example:
        >>> passed = Passed()
        >>> passed.add(1_000, 500)
        >>> passed.told_us(999), passed.told_us(1_000)
        (999, 1500)
    """

    def __init__(self) -> None:
        self._steps: list[tuple[int, int]] = []
        self.total = timedelta()
        """All of it."""

    def add(self, when_us: int, amount_us: int) -> None:
        """At `when_us` of the database's clock so much time passed."""
        self._steps.append((when_us, amount_us))
        self.total += timedelta(microseconds=amount_us)

    def told_us(self, us: int) -> int:
        """What time it was for the application then, by the database's clock."""
        return us + sum(amount_us for when_us, amount_us in self._steps if when_us <= us)
