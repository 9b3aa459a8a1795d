"""In which order the outcomes of parallel calls reach a body: by their position in the journal, lowest first.

The position (`seq`) of an outcome is taken when its record is sent. An outcome may be seen when no lower one
waits to be seen and none is on its way, so a body sees the same order live and on replay. Positions in the
journal that no call asks for delay nothing: they belong to branches that were left.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """Whoever waits to see an outcome. `gone`: waits no longer."""

    gone: bool


W = TypeVar("W", bound=Waiter)


class Order(Generic[W]):
    """Outcomes that wait to be seen, and positions taken for outcomes that are on their way.

    Example:
        >>> class Branch:
        ...     gone = False
        >>> a, b = Branch(), Branch()
        >>> order = Order[Branch]()
        >>> order.sent(1), order.sent(2)
        (None, None)
        >>> order.wait(2, b)            # the second is a row already, the first is still on its way
        >>> order.first() is None
        True
        >>> order.wait(1, a)
        >>> order.pop() is a, order.pop() is b
        (True, True)
    """

    __slots__ = ("_sent", "_ties", "_under_way", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, W]] = []
        self._sent: list[int] = []
        self._under_way: set[int] = set()
        self._ties = itertools.count()

    def sent(self, seq: int) -> None:
        """A record with this position is on its way."""
        heapq.heappush(self._sent, seq)
        self._under_way.add(seq)

    def close(self, seq: int) -> None:
        """Nothing will come of this position: its record was refused, or its branch was left."""
        self._under_way.discard(seq)

    def wait(self, seq: int, waiter: W) -> None:
        """The outcome at this position is a row; `waiter` wants to see it."""
        self._under_way.discard(seq)
        heapq.heappush(self._waiting, (seq, next(self._ties), waiter))

    def first(self) -> W | None:
        """Whose outcome is the next one, if that is certain."""
        while self._waiting and self._waiting[0][2].gone:
            heapq.heappop(self._waiting)
        while self._sent and self._sent[0] not in self._under_way:
            heapq.heappop(self._sent)
        if not self._waiting or (self._sent and self._sent[0] < self._waiting[0][0]):
            return None
        return self._waiting[0][2]

    def pop(self) -> W | None:
        """The same, and takes it out."""
        first = self.first()
        if first is not None:
            heapq.heappop(self._waiting)
        return first

    def clear(self) -> list[W]:
        """Takes out everybody who waits."""
        left = [waiter for _, _, waiter in self._waiting if not waiter.gone]
        self._waiting.clear()
        return left
