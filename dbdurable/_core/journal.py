"""The journal of one workflow: what is recorded, and whether the code still makes the same calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dbdurable._core.control import Diverged
from dbdurable._core.path import Line, sort_key

LATE = 2**31 - 1
"""The position of a record that came late, from an epoch that is over: its place in the order of outcomes is
taken when the workflow's owner adopts it."""

SHOWN_MAX = 6
"""Lines of agreement that a difference shows before the place where code and history part."""

CAUSES = (
    "Usual causes: a step was added, removed, renamed or moved while the workflow ran; the code branches "
    "on time, randomness, a global or a set's order outside of a step.\n"
    "Ways out: deploy code that fits the history and `dbdurable resume {id}`, or `dbdurable cancel {id}`."
)


class Record(NamedTuple):
    """One recorded call: exactly one of `output` and `error` is set (JSON text)."""

    path: str
    seq: int
    kind: str
    name: str
    output: str | None
    error: str | None
    attempts: int = 1
    finished_us: int | None = None
    """When it was written, by the database's clock; microseconds since 1970."""


class Journal:
    """The records of one workflow, matched against the calls that its code makes."""

    __slots__ = ("_called", "_last", "_left", "_records", "_seq", "_unread")

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = {record.path: record for record in records}
        self._unread = set(self._records)
        self._called: list[tuple[str, str, str]] = []
        self._last: dict[str, int] | None = None
        self._left: set[str] = set()
        self._seq = max((record.seq for record in self._records.values() if record.seq != LATE), default=0)

    def __len__(self) -> int:
        return len(self._records)

    def is_ahead(self, line: Line) -> bool:
        """Whether calls are recorded that the code has not made yet on this line, or on a branch from here on."""
        return line.count < self._last_on(line.prefix)

    def _last_on(self, prefix: str) -> int:
        if self._last is None:
            self._last = {}
            for path in self._records:
                parts = path.split(".")
                for depth, part in enumerate(parts):
                    above = "".join(f"{each}." for each in parts[:depth])
                    self._last[above] = max(self._last.get(above, 0), int(part))
        return self._last.get(prefix, 0)

    def match(self, path: str, kind: str, name: str) -> Record | None:
        """The record of this call, or None where the workflow is past its history.

        Raises `Diverged` where history has another call at this path.
        """
        self._called.append((path, kind, name))
        record = self._records.get(path)
        if record is None:
            return None
        if record.kind != kind or record.name != name:
            raise Diverged(self._difference(path, f"{record.kind} {record.name}", f"{kind} {name}"))
        self._unread.discard(path)
        return record

    def peek(self, path: str) -> Record | None:
        """What is recorded at this path; does not count as a call."""
        return self._records.get(path)

    def leave(self, path: str) -> None:
        """This call, or the branch with this prefix ('3.1.'), was cancelled: its records need not be asked for."""
        self._unread.discard(path)
        self._left.add(path)

    def next_seq(self) -> int:
        """The position of the next record in durable order."""
        self._seq += 1
        return self._seq

    def check_complete(self) -> None:
        """Raises `Diverged` when the code ran to its end without making every recorded call."""
        unread = [path for path in self._unread if not self._was_left(path)] if self._unread else []
        if unread:
            path = min(unread, key=sort_key)
            record = self._records[path]
            raise Diverged(self._difference(path, f"{record.kind} {record.name}", "(the workflow ended)"))

    def _was_left(self, path: str) -> bool:
        parts = path.split(".")
        return bool(self._left) and any(".".join(parts[:n]) + "." in self._left for n in range(1, len(parts)))

    def _difference(self, path: str, history: str, code: str) -> str:
        agreed = [(p, f"{kind} {name}") for p, kind, name in self._called if p in self._records and p != path]
        lines = [f"The code no longer fits the recorded steps at path {path}:"]
        if len(agreed) > SHOWN_MAX:
            lines.append(f"      ... {len(agreed) - SHOWN_MAX} calls that agree")
        lines += [f"      {p:>6}  {call}" for p, call in agreed[-SHOWN_MAX:]]
        lines += [f"    - {path:>6}  {history}    (recorded)", f"    + {path:>6}  {code}    (the code now)"]
        return "\n".join([*lines, CAUSES])
