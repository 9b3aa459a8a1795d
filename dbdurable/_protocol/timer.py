"""The end of a time that parallel branches have: a record like any other outcome, so it has its place in order."""

from __future__ import annotations

from time import monotonic

from dbdurable._protocol.call import DurableCall, may_begin, recall
from dbdurable._protocol.effects import Flow, pause
from dbdurable._protocol.step import record_outcome

LOOK_S = 0.5
"""How often a wait in memory looks whether its attempt, or its branch, is over."""


def timer(this: DurableCall) -> Flow[None]:
    """Returns after `timeout_s` seconds, and records that."""
    record = yield from recall(this)
    if record is not None:
        return
    begun = monotonic()
    assert this.timeout_s is not None
    while (left_s := this.timeout_s - (monotonic() - begun)) > 0:
        yield from pause(min(left_s, LOOK_S))
        record = yield from may_begin(this)
        if record is not None:
            return
    yield from record_outcome(this, 1, monotonic() - begun, text="null")
