"""How the library leaves a workflow's body, and what the database can answer to the protocol.

`Unwind` derives from BaseException so that `except Exception` in user code does not swallow it. Where
`except BaseException` does, every later durable call raises it again and the body's result is discarded.
"""

from __future__ import annotations

import asyncio
from datetime import datetime


class Unwind(BaseException):
    """Leaves the body of a workflow; the attempt's own outcome is decided by its class."""


class LeaseLost(Unwind):
    """Another executor may own the workflow by now: stop, record nothing more."""


class HandBack(Unwind):
    """This executor is closing: give the workflow back to its queue."""


class Suspend(Unwind):
    """The body waits for something that takes long: it is left, and begins anew when that is there."""


class Diverged(Unwind):
    """The code made another call than the journal holds at this place."""


class Lost(asyncio.CancelledError):
    """Leaves a branch on a thread that is not needed any more, as `Task.cancel` does with a task."""


class Fault(Exception):
    """What happened to a statement of the library's own; raised by `_io`, handled by `_protocol`."""


class Fenced(Fault):
    """The workflow has another owner, epoch or status: the transaction was aborted."""


class Torn(Fault):
    """The step's body ended the transaction that was opened for it."""


class Duplicate(Fault):
    """The step has a record already, or the workflow a row."""


class Interrupted(Fault):
    """The call was under way when its workflow was cancelled, and has been ended."""


class Transient(Fault):
    """Serialization failure, deadlock or lock timeout: nothing happened, run it again."""


class ConnectionLost(Fault):
    """The connection broke; after a COMMIT was sent its outcome is not known.

    `backend` names the session that may still be at it: process id and start time, if known.
    """

    def __init__(self, message: str, backend: tuple[int, datetime] | None = None) -> None:
        super().__init__(message)
        self.backend = backend
