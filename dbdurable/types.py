"""The values that users hold: statuses, policies, options and descriptions. No behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar
from uuid import UUID

R_co = TypeVar("R_co", covariant=True)

__all__ = [
    "AsyncTx",
    "Batch",
    "Completion",
    "Duration",
    "Options",
    "Queue",
    "QueueInfo",
    "Rate",
    "Retry",
    "Status",
    "StepInfo",
    "SyncTx",
    "WorkflowInfo",
]

Duration: TypeAlias = timedelta | float
"""A length of time; a plain number is seconds."""


class SyncTx(Protocol):
    """A transaction of `def` code: psycopg's or SQLAlchemy's `Connection`, `Session`, `scoped_session`."""

    def commit(self) -> None:
        """Commit it."""


class AsyncTx(Protocol):
    """A transaction of `async def` code: `AsyncConnection`, `AsyncSession`. The wrong colour is a type error."""

    def commit(self) -> Coroutine[Any, Any, None]:
        """Commit it."""


class Completion(NamedTuple):
    """When a `fan_out` is done, and how much of it may fail; without one, nothing may.

    `min_successful`: enough is enough; what is still under way then is left. `tolerated_failures` and
    `tolerated_failure_percent` (of all items): beyond them it gives up at once and raises. With only
    `min_successful`, any number may fail as long as that many succeed.

    Example:
        >>> Completion(tolerated_failure_percent=10).min_successful is None
        True
    """

    min_successful: int | None = None
    tolerated_failures: int | None = None
    tolerated_failure_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Batch(Generic[R_co]):
    """What came of a `fan_out` that may fail in part: (position in items, outcome), in the order of the items.

    With `min_successful`, items that were not needed any more are in neither list.
    """

    succeeded: list[tuple[int, R_co]]
    failed: list[tuple[int, Exception]]


class Status(StrEnum):
    """Where a workflow stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    BLOCKED = "blocked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Retry(NamedTuple):
    """When and how often a step that raised is called again; `retry=5` is short for `Retry(5)`.

    The n-th delay is `initial * factor ** (n - 1)`, at most `max_interval`, less up to `jitter` of itself
    by chance. `max_attempts=None` never gives up; any other is at most 32,767. `on` selects what is worth a
    retry: classes, or a function of the error; `non_retryable` wins over it. A delay of more than a second
    (`DBDURABLE_PARK_AFTER_S`) is a wait like a sleep: it holds no thread, and survives crashes with its count.

    Example:
        >>> Retry(5, initial=0.5, on=ConnectionError).max_attempts
        5
    """

    max_attempts: int | None = None
    initial: Duration = 1
    factor: float = 2
    max_interval: Duration = 60
    jitter: float = 0.5
    on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = Exception
    non_retryable: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow as the database describes it."""

    id: UUID
    name: str
    key: str | None
    queue: str
    status: Status
    reason: str | None
    attempt: int
    created_at: datetime
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One recorded step. `error` is its one-line summary, None where it returned."""

    path: tuple[int, ...]
    name: str
    kind: str
    attempts: int
    error: str | None
    finished_at: datetime


class Rate(NamedTuple):
    """At most `limit` starts in each `per` (a timedelta or seconds), with up to `burst` at once (`limit`, if None).

    A start takes one, or its `cost=`.

    Example:
        >>> Rate(100, per=60).limit
        100
    """

    limit: int
    per: Duration
    burst: int | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue; goes wherever a queue's name goes."""

    name: str


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue as the database describes it: what is in it, and its limits (None: no limit)."""

    name: str
    paused: bool
    ready: int
    """Workflows that an executor may claim now."""
    oldest: datetime | None
    """Since when the oldest of them has been ready."""
    running: int
    delayed: int
    concurrency: int | None
    worker_concurrency: int | None
    per_partition: int | None
    rate: Rate | None
    rate_per_partition: Rate | None
    max_depth: int | None


class Options(TypedDict, total=False):
    """The options of one call; only with `start`: delay, at, expires, priority, partition, cost and key_reuse.

    `timeout`: of a workflow, from its start to its end; of a step, of one attempt. `parent_close`, of a child: it
    is cancelled when its parent ends, or is left alone even when that is cancelled (neither: only when its parent
    is cancelled or times out).
    `key`: start once; later starts find the first. `key_reuse=True`: once that has ended, the key starts anew.
    """

    key: str
    key_reuse: bool
    id: UUID
    queue: str | Queue
    priority: int
    delay: Duration
    at: datetime
    expires: Duration
    partition: str
    cost: int
    timeout: Duration
    retry: Retry | int
    attributes: Mapping[str, Any]
    parent_close: Literal["cancel", "abandon"]
