"""Every error that a user of dbdurable can see, in three families.

* `DurableError`: for callers; the message says what was wrong, where, and what to write instead.
* `NonRetryable`, `RetryAfter`: raised by steps to steer their own retries.
* `Cancelled`: seen inside a workflow that was cancelled, in both colours.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

__all__ = [
    "AttemptsExhausted",
    "BadArgument",
    "BadConfiguration",
    "Cancelled",
    "DatabaseUnavailable",
    "DuplicateName",
    "DurableError",
    "KeyConflict",
    "NonDeterministic",
    "NonRetryable",
    "NotInTransaction",
    "NotInWorkflow",
    "NotRunning",
    "PromiseCompleted",
    "PromiseRejected",
    "QueueFull",
    "RemoteError",
    "RetryAfter",
    "SchemaMismatch",
    "StepTimeout",
    "UndoFailed",
    "UnknownPromise",
    "UnknownQueue",
    "UnknownWorkflow",
    "WaitTimeout",
    "WorkflowBlocked",
    "WorkflowCancelled",
    "WorkflowFinished",
    "WrongColour",
]


class DurableError(Exception):
    """Base of every error that dbdurable raises to its callers."""


class NotRunning(DurableError):
    """A workflow was called where no executor of this process is open to run it."""


class NotInWorkflow(DurableError):
    """A step or transaction was called where nothing would record it."""


class WrongColour(DurableError):
    """A blocking call on an event loop, or an asynchronous one where no loop can run it."""


class NonDeterministic(DurableError, UserWarning):
    """A workflow's body calls what a replay would not repeat: a clock, a random source, a wait, a connection.

    A warning, or with DBDURABLE_DETERMINISM=raise an error, when an executor opens.
    """


class DuplicateName(DurableError):
    """Two functions were registered under one name; the message shows both places."""


class UnknownWorkflow(DurableError):
    """No workflow has that id, or no executor ever registered a function of that name."""


class UnknownQueue(DurableError):
    """No queue of that name is known: neither an executor nor the code that starts has it."""


class QueueFull(DurableError):
    """The queue holds as many ready workflows as its `max_depth` allows. Nothing was written: start again later."""


class KeyConflict(DurableError):
    """The key was used before to start the same workflow with other arguments."""


class BadArgument(DurableError, TypeError):
    """An argument, result or option that cannot be used; the message names it. Nothing was written."""


class BadConfiguration(DurableError, ValueError):
    """A setting or decorator argument that cannot be used."""


class DatabaseUnavailable(DurableError):
    """The database cannot be reached, refuses the login, or is read-only. Passwords are never shown."""


class SchemaMismatch(DurableError):
    """The tables in the database are older or newer than this package, or were edited by hand."""


class WaitTimeout(DurableError, TimeoutError):
    """The time to wait for a result, message or event is over; what was waited for goes on."""


class WorkflowFinished(DurableError):
    """The workflow has ended: nobody would read a message to it, and it sets no event any more."""


class UnknownPromise(DurableError):
    """No workflow of this schema has made a promise with that token: it was mistyped, cut short or made up."""


class PromiseCompleted(DurableError):
    """The promise was resolved or rejected before: the first outcome stays."""


class PromiseRejected(DurableError):
    """Somebody rejected the promise; the message is the reason that they gave."""


class StepTimeout(DurableError, TimeoutError):
    """One attempt of a step took longer than its `timeout=`."""


class NotInTransaction(DurableError):
    """A connection was handed over, or left by user code, outside of the transaction it had to be in."""


class WorkflowCancelled(DurableError):
    """Raised to callers that wait for a workflow that was cancelled; the message has the reason."""


class WorkflowBlocked(DurableError):
    """The code no longer fits the recorded steps; the message shows the difference and the ways out."""


class AttemptsExhausted(DurableError):
    """The workflow's process died `max_attempts` times without progress in between (dead letter)."""


class UndoFailed(DurableError):
    """A workflow failed or was cancelled, and some of its compensations gave up: the message lists what was not undone.

    Its cause is what had ended the workflow.
    """


class RemoteError(DurableError):
    """An error whose class is not loaded in this process: `type`, `message` and `traceback` as recorded."""

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(type, message, traceback)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class NonRetryable(Exception):
    """Raise it in a step: whatever the retry policy says, this error is final."""


class RetryAfter(Exception):
    """Raise it in a step to be called again after `delay` (a timedelta or seconds), if attempts are left.

    Example:
        >>> RetryAfter(30).delay_s
        30.0
    """

    def __init__(self, delay: timedelta | float, /) -> None:
        super().__init__(delay)
        self.delay_s = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)


class Cancelled(asyncio.CancelledError):
    """The workflow was cancelled: raised by its next durable call, so that it may clean up."""
