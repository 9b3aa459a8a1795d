"""`timeout(limit)`: the time of a block of a body, a record and a wait, so that it is the same on replay.

The block itself does no I/O, so that it is one for both colours: its first durable call writes the record, and the
first one after it takes the wait away again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from dbdurable._core.control import Fenced
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.ownership import resync, steadfast
from dbdurable._sql.wait import DROP_WAITS, NOTE_LIMIT

if TYPE_CHECKING:
    from dbdurable._protocol.call import DurableCall

KIND, NAME = "value", "timeout"
TIMED_OUT = '{"limit": '
"""How the record of a call begins that ended by the time of a block around it."""


@dataclass(slots=True, eq=False)
class Limit:
    """One block. `until` is by the lease's clock."""

    frame: WorkflowFrame
    path: str
    limit_s: float
    until: float
    recorded: bool
    seen: set[str] = field(default_factory=set)
    """The lines that have been told: what they do after that is their clean-up."""

    def leave(self) -> None:
        """The body has left the block; not where only its attempt ends, and begins anew in it."""
        if self.recorded and self.frame.unwinding is None:
            self.frame.left_limits.append(self.path)

    def left_s(self, line: str) -> float:
        """What is left of its time for the calls of a line."""
        return inf if line in self.seen else self.until - self.frame.lease.now()


def first_over(this: DurableCall) -> Limit | None:
    """The outermost block around the call whose time is over."""
    line = this.line.prefix
    return next((limit for limit in this.limits if limit.left_s(line) <= 0), None)


def call_timeout_s(this: DurableCall) -> float | None:
    """How long one attempt of the call may take."""
    if not this.limits:
        return this.timeout_s
    left_s = min(limit.left_s(this.line.prefix) for limit in this.limits)
    own_s = inf if this.timeout_s is None else this.timeout_s
    return None if min(left_s, own_s) == inf else max(0.001, min(left_s, own_s))


def note_limits(this: DurableCall) -> Flow[None]:
    """Writes the blocks around the call that no call has written yet, and takes away those that are left."""
    frame = this.frame
    if frame.left_limits:
        yield from drop_limits(frame)
    for limit in this.limits:
        if limit.recorded:
            continue
        seq = frame.journal.next_seq()
        owner = (frame.lease.executor_id, frame.epoch)
        left_s = limit.until - frame.lease.now()
        place = (frame.id, limit.path, seq, KIND, NAME)
        try:
            yield from steadfast(NOTE_LIMIT, *place, *owner, left_s, frame=frame)
        except Fenced:
            yield from resync(frame)
            return  # the call hears of the cancel; the next one writes it
        limit.recorded = True


def drop_limits(frame: WorkflowFrame) -> Flow[None]:
    """Blocks that were left, or have told, must not wake the workflow any more."""
    if frame.left_limits:
        paths, frame.left_limits = frame.left_limits, []
        yield from steadfast(DROP_WAITS, frame.id, paths, frame=frame)


def told(limit: Limit) -> str:
    """The record of a call that ended by the time of that block."""
    message = f"the {limit.limit_s:g} s of timeout() were over"
    return f'{TIMED_OUT}{json.dumps(limit.path)}, "type": "WaitTimeout", "module": "dbdurable.errors", "message": ' + (
        f"{json.dumps(message)}}}"
    )


def mark_told(this: DurableCall, path: str) -> None:
    """The line of the call has been told: nothing wakes it for this block any more."""
    for limit in this.limits:
        if limit.path == path:
            limit.seen.add(this.line.prefix)
            this.frame.left_limits.append(path)
