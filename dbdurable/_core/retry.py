"""When a step that raised is called again: pure maths, the waiting itself is durable and elsewhere."""

from __future__ import annotations

import math
from datetime import timedelta
from random import Random

from dbdurable._core import limits
from dbdurable._core.show import shown
from dbdurable.errors import BadArgument, BadConfiguration, NonRetryable, RetryAfter
from dbdurable.types import Duration, Retry

__all__ = ["as_retry", "duration_s", "is_transient", "next_delay_s", "sqlstate"]

# serialization_failure, deadlock_detected, lock_not_available: the same statements may work next time.
_TRANSIENT = frozenset({"40001", "40P01", "55P03"})


def next_delay_s(retry: Retry, attempt: int, error: BaseException, rng: Random) -> float | None:
    """Return the seconds to wait after attempt number `attempt` (from 1) failed with `error`; None: give up.

    The full delay is `initial * factor ** (attempt - 1)`, at most `max_interval`; by chance it becomes
    shorter by up to `jitter` of itself, so that many that failed together do not come back together.
    `NonRetryable` and errors that are no `Exception` (cancellation, exit) always end it. `RetryAfter`
    brings its own delay, which only `max_attempts` limits. An error in an `on` predicate propagates.

    Example:
        >>> next_delay_s(Retry(5, jitter=0), 3, ValueError(), Random())
        4.0
    """
    if not isinstance(error, Exception) or isinstance(error, NonRetryable):
        return None
    if retry.max_attempts is not None and attempt >= retry.max_attempts:
        return None
    if isinstance(error, RetryAfter):
        return duration_s(error.delay_s, "RetryAfter's delay")
    if isinstance(error, retry.non_retryable) or not _selected(retry, error):
        return None
    initial_s = duration_s(retry.initial, "initial")
    max_s = duration_s(retry.max_interval, "max_interval")
    try:
        delay_s = min(initial_s * retry.factor ** (attempt - 1), max_s)
    except OverflowError:
        delay_s = max_s if initial_s else 0.0
    return delay_s * (1 - retry.jitter * rng.random())


def _selected(retry: Retry, error: Exception) -> bool:
    if isinstance(retry.on, type | tuple):
        return isinstance(error, retry.on)
    return bool(retry.on(error))


def as_retry(value: Retry | int | None) -> Retry:
    """Return the policy that `retry=` stands for: None is one attempt, a number that many. Checks it.

    Example:
        >>> as_retry(None).max_attempts, as_retry(5).max_attempts
        (1, 5)
    """
    if value is None:
        return Retry(1)
    if isinstance(value, bool) or not isinstance(value, int | Retry):
        raise BadConfiguration(f"retry= takes a number of attempts or a Retry, got {shown(value)}")
    retry = value if isinstance(value, Retry) else Retry(value)
    attempts: object = retry.max_attempts
    if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
        raise BadConfiguration(f"retry: max_attempts must be at least 1, or None, got {shown(attempts)}")
    if attempts is not None and attempts > limits.attempts_max:
        raise BadConfiguration(
            f"retry: max_attempts must be at most {limits.attempts_max:,}, or None for ever, got {attempts:,}"
        )
    try:
        duration_s(retry.initial, "initial")
        duration_s(retry.max_interval, "max_interval")
    except BadArgument as error:
        raise BadConfiguration(f"retry: {error}") from None
    if not _is_number(retry.factor) or not 0 < retry.factor < math.inf:
        raise BadConfiguration(f"retry: factor must be a number above 0, got {shown(retry.factor)}")
    if not _is_number(retry.jitter) or not 0 <= retry.jitter <= 1:
        raise BadConfiguration(f"retry: jitter is a fraction from 0 to 1, got {shown(retry.jitter)}")
    if not _is_error_classes(retry.on) and (isinstance(retry.on, type | tuple) or not callable(retry.on)):
        raise BadConfiguration(f"retry: on takes exception classes or a function, got {shown(retry.on)}")
    if not isinstance(retry.non_retryable, tuple) or not _is_error_classes(retry.non_retryable):
        raise BadConfiguration(f"retry: non_retryable takes a tuple of classes, got {shown(retry.non_retryable)}")
    return retry


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_error_classes(value: object) -> bool:
    classes = value if isinstance(value, tuple) else (value,)
    return all(isinstance(each, type) and issubclass(each, BaseException) for each in classes)


def duration_s(value: Duration, what: str) -> float:
    """Return a public duration (a timedelta or a number of seconds) in seconds; else raise BadArgument.

    Example:
        >>> duration_s(timedelta(minutes=1), "timeout")
        60.0
    """
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise BadArgument(f"{what} must be a timedelta or a number of seconds, got {shown(value)}")
    if not isinstance(value, timedelta) and value != value:
        raise BadArgument(f"{what} must be a timedelta or a number of seconds, got nan")
    zero = timedelta(0) if isinstance(value, timedelta) else 0
    if value < zero:  # type: ignore[operator]  # both are of one kind
        raise BadArgument(f"{what} must not be negative, got {shown(value)}")
    # Compared before the conversion: a huge int does not fit into a float.
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds > limits.duration_s_max:
        raise BadArgument(f"{what} must be less than a hundred years, got {shown(value)}")
    return float(seconds)


def sqlstate(error: BaseException) -> str | None:
    """Return the PostgreSQL error code behind `error`, through wrappers like SQLAlchemy's; else None.

    Example:
        >>> sqlstate(ValueError()) is None
        True
    """
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        current = todo.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        for attribute in ("sqlstate", "pgcode"):
            code = getattr(current, attribute, None)
            if isinstance(code, str) and len(code) == 5:
                return code
        todo += [current.__cause__, getattr(current, "orig", None)]
    return None


def is_transient(error: BaseException) -> bool:
    """Tell whether PostgreSQL asks for the whole transaction to be run again.

    Example:
        >>> is_transient(ValueError())
        False
    """
    return sqlstate(error) in _TRANSIENT
