"""A workflow started inside a workflow."""

from __future__ import annotations

from uuid import UUID

from dbdurable._core.control import Duplicate, Fenced
from dbdurable._protocol.call import DurableCall, adopt, fenced, recall, replayed
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.ownership import steadfast
from dbdurable._protocol.start import Start
from dbdurable._sql.workflow import START_CHILD


def start_child(this: DurableCall, start: Start) -> Flow[UUID]:
    """A workflow started inside a workflow: its id is the output of the parent's record, written with it."""
    record = yield from recall(this)
    frame = this.frame
    if record is None:
        seq = frame.journal.next_seq()
        owner = (frame.id, this.path, seq, frame.lease.executor_id, frame.epoch)
        try:
            rows = yield from steadfast(START_CHILD, *start.params, *owner, frame=frame)
            return UUID(rows[0][0])
        except Fenced:
            yield from fenced(this)
        except Duplicate:
            return UUID((yield from adopt(this)))
    assert record is not None
    return UUID(replayed(this, record))
