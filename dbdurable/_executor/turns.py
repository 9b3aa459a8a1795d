"""What both colours share of the turns that parallel branches take: positions in the journal."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

from dbdurable._core.journal import LATE, Record
from dbdurable._core.order import Order, Waiter
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.frame import WorkflowFrame

W = TypeVar("W", bound=Waiter)


class Turns(Generic[W]):
    """Who of a body's branches goes on next. One for each attempt that makes branches, from the first of them on.

    Outcomes reach the body one by one, in the order of their positions in the journal, and each only when the
    body has done all that it does after the one before. So everything that the body does between its durable
    calls happens in one order, live and on replay. What is not recorded begins only when everything that is
    recorded, and asked for, has been seen: what has lost a race is not begun again.
    """

    def __init__(self, frame: WorkflowFrame) -> None:
        self.frame = frame
        self.lock = threading.Lock()
        self.order: Order[W] = Order()
        self.past_history = False

    def recorded(self, this: DurableCall) -> Record | None:
        """The call's record with its place in the order."""
        record = self.frame.journal.peek(this.path)
        return record if record is not None and record.seq != LATE else None

    def next_seq(self, this: DurableCall) -> int:
        """The position of a record that is about to be sent; from here on, later ones wait for it."""
        with self.lock:
            if this.seq is None:
                this.seq = self.frame.journal.next_seq()
                if this.turns is self:
                    self.order.sent(this.seq)
            return this.seq

    def give_up(self, this: DurableCall) -> None:
        """Nothing came of the position that was taken."""
        with self.lock:
            if this.seq is not None:
                self.order.close(this.seq)
                this.seq = None
        self.look()

    def look(self) -> None:
        """Something has changed; called on any thread."""
        raise NotImplementedError

    def drop(self, this: DurableCall) -> Any:
        """The body does not wait for this call any more: it is out of the order, and should not begin anything."""
        this.left = True
        this.turns = None
        with self.lock:
            if this.seq is not None:
                self.order.close(this.seq)
