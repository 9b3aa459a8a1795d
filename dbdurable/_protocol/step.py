"""A call with outside effects: at least once, always under the same idempotency key, then a row."""

from __future__ import annotations

from time import monotonic
from typing import Any

from dbdurable._core.control import Interrupted
from dbdurable._core.failure import settle_failure
from dbdurable._protocol.call import (
    DurableCall,
    adopt,
    appended,
    fenced,
    new_record,
    recall,
    replayed,
    time_out,
)
from dbdurable._protocol.effects import Flow, call
from dbdurable._protocol.limit import call_timeout_s, first_over
from dbdurable._protocol.ownership import ensure_started, resync
from dbdurable._protocol.retry import again_after, attempts_before, next_attempt, wait_for_next
from dbdurable.errors import StepTimeout


def step(this: DurableCall) -> Flow[Any]:
    """A call with outside effects: at least once, then its outcome is a row."""
    record = yield from recall(this)
    attempt, begun = 0, monotonic()
    if record is None and this.frame.kept:
        attempt, record = yield from attempts_before(this)
    while record is None:
        attempt = next_attempt(attempt)
        yield from ensure_started(this.frame)
        try:
            value = yield from call(lambda n=attempt: this.run(n), call_timeout_s(this), this.name, this.in_flight)  # type: ignore[misc]
            text, value = this.codec.settle(value, this.what)
        except Interrupted:
            return (yield from fenced(this))
        except Exception as error:
            limit = first_over(this) if isinstance(error, StepTimeout) else None
            if limit is not None:
                return replayed(this, (yield from time_out(this, limit)))
            again = again_after(this, attempt, error)
            if again is None:
                return (yield from record_outcome(this, attempt, monotonic() - begun, error=error))
        else:
            return (yield from record_outcome(this, attempt, monotonic() - begun, text=text, value=value))
        record = yield from wait_for_next(this, again)
    return replayed(this, record)


def record_outcome(
    this: DurableCall,
    attempts: int,
    elapsed_s: float,
    *,
    text: str | None = None,
    value: Any = None,
    error: Exception | None = None,
) -> Flow[Any]:
    """Records what came out of an outside call; the body goes on only when the workflow is still ours."""
    failure = None
    if error is not None:
        failure, error = settle_failure(error)
    record = new_record(this, attempts, elapsed_s, text, failure)
    answer = yield from appended(this, record)
    if not answer.mine:
        yield from resync(this.frame)
        if not answer.wrote and failure is not None:
            # The error of an epoch that is over is no fact; under the new one it is.
            answer = yield from appended(this, new_record(this, attempts, elapsed_s, text, failure))
    if not answer.wrote:
        return (yield from adopt(this))
    if error is not None:
        raise error
    return value
