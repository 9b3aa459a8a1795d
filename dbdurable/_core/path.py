"""Paths: the position of a call in its workflow, given in program order when the call is made.

The body's own calls are '1', '2', ...; a branch takes the next position of its parent and counts on its
own below it: '3.1', '3.2'. So timing never changes a path.
"""

from __future__ import annotations


class Line:
    """One sequence of calls: the body itself, or one branch of it.

    Example:
        >>> body = Line()
        >>> body.take(), body.take(), body.branch().take()
        ('1', '2', '3.1')
    """

    __slots__ = ("_draws", "count", "heard", "prefix", "suspended", "thread")

    def __init__(self, prefix: str = "", heard: bool = False) -> None:
        self.prefix = prefix
        """What all its paths begin with: '' for the body itself, '3.' for the branch at position 3."""
        self.count = 0
        """How many calls were made on it."""
        self.thread: int | None = None
        """The thread whose calls it counts; None for a task's."""
        self.suspended = False
        """Whether this line was left because it waits: no call on it may begin any more."""
        self.heard = heard
        """Whether the code on it has seen the cancel of the workflow: what it calls from then on cleans up, and so
        do branches that it makes. Branches beside it see the cancel by themselves."""
        self._draws = 0

    def at(self, position: int) -> Line:
        """The line of a branch by its number: what `branch` gives to the one that is made in that place."""
        return Line(f"{self.prefix}{position}.", self.heard)

    def take(self) -> str:
        """The next path of this line."""
        self.count += 1
        self._draws = 0
        return f"{self.prefix}{self.count}"

    def branch(self) -> Line:
        """A line of its own below the next path."""
        return Line(f"{self.take()}.", self.heard)

    def draw(self) -> str:
        """A name for the next value that is derived from this position: each is given once.

        Example:
            >>> body = Line()
            >>> body.draw(), body.draw(), body.take(), body.draw()
            ('0#1', '0#2', '1', '1#1')
        """
        self._draws += 1
        return f"{self.prefix}{self.count}#{self._draws}"


def sort_key(path: str) -> tuple[int, ...]:
    """Program order of paths: '2' before '10'.

    Example:
        >>> sorted(["10", "2", "3.1"], key=sort_key)
        ['2', '3.1', '10']
    """
    return tuple(int(part) for part in path.split("."))
