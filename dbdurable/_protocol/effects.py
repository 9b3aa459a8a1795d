"""What a protocol asks its driver to do, and typed helpers that ask.

None is changed once made; they are not frozen because that costs a microsecond for each, several times a step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar
from uuid import UUID

from dbdurable._sql.statement import Statement

R = TypeVar("R")
Row: TypeAlias = tuple[Any, ...]


@dataclass(slots=True)
class Query:
    """Run a statement in a transaction of its own; the answer is its rows."""

    statement: Statement
    params: tuple[Any, ...]


@dataclass(slots=True)
class Flight:
    """Run statements in one transaction and, where the driver can, one round trip; rows of each."""

    queries: tuple[Query, ...]


class Note(NamedTuple):
    """What a step's transaction says of itself on the server."""

    path: str
    """The step's, for its record to compare."""
    mark: int
    """Its executor's: who declares that one dead ends the transaction by it."""


@dataclass(slots=True)
class Begin:
    """Open a step's transaction; the answer is the handle that the user's function takes first."""

    source: Any
    isolation: str | None
    row_factory: Any
    note: Note
    step: str


@dataclass(slots=True)
class Call:
    """Call user code and, in the asynchronous colour, await it. `handle` is a transaction's connection."""

    function: Callable[[], Any]
    timeout_s: float | None = None
    name: str = ""
    in_flight: Any = None
    """Where it says that it can be interrupted, and how."""


@dataclass(slots=True)
class Commit:
    """Write the records and commit, in one exchange; the answer is when the last record was written.

    Whatever it answers, the transaction is over.
    """

    records: tuple[Query, ...]


@dataclass(slots=True)
class Rollback:
    """Undo the open transaction; the answer is whether the connection is still alive."""


@dataclass(slots=True)
class StepRecord:
    """The outcome of an outside step, as it goes to the journal."""

    workflow_id: UUID
    path: str
    seq: int
    kind: str
    name: str
    attempts: int
    epoch: int
    elapsed_s: float
    output: str | None
    error: str | None


@dataclass(slots=True)
class Append:
    """Record outcomes of outside steps: checked, not fenced. The answer is an `Appended`."""

    executor_id: UUID
    record: StepRecord


@dataclass(slots=True)
class Appended:
    """`mine`: the workflow is still the executor's under that epoch. `wrote`: no other record was there."""

    mine: bool
    wrote: bool
    written_us: int | None = None
    """When, by the database's clock; microseconds since 1970."""


class Waiting(Protocol):
    """A wait that somebody in this process may end, in the colour of the driver."""

    def wait(self, timeout_s: float) -> None: ...
    async def await_(self, timeout_s: float) -> None: ...


@dataclass(slots=True)
class Pause:
    """Wait; shutdown and loss of the lease end it early, or whoever knows that there is something to see.

    `over` is looked at now and then, and ends it too.
    """

    delay_s: float
    waiter: Waiting | None = None
    over: Callable[[], bool] | None = field(default=None, compare=False)


@dataclass(slots=True)
class Rest:
    """Wait in an asynchronous attempt that may be parked meanwhile; `watch` sees to that."""

    watch: Any
    delay_s: float


Effect: TypeAlias = Query | Flight | Begin | Call | Commit | Rollback | Append | Pause | Rest
Flow: TypeAlias = Generator[Effect, Any, R]


def query(statement: Statement, *params: Any) -> Flow[list[Row]]:
    """The rows of one statement."""
    rows: list[Row] = yield Query(statement, params)
    return rows


def flight(*queries: Query) -> Flow[list[list[Row]]]:
    """The rows of each of several statements in one transaction."""
    answers: list[list[Row]] = yield Flight(queries)
    return answers


def call(function: Callable[[], R], timeout_s: float | None = None, name: str = "", in_flight: Any = None) -> Flow[R]:
    """What the user's function returns, or raises; Interrupted, where it was ended by a cancel."""
    value: R = yield Call(function, timeout_s, name, in_flight)
    return value


def rollback() -> Flow[bool]:
    """Undoes the open transaction; False when its connection is dead."""
    alive: bool = yield Rollback()
    return alive


def append(executor_id: UUID, record: StepRecord) -> Flow[Appended]:
    """Records the outcome of an outside step."""
    answer: Appended = yield Append(executor_id, record)
    return answer


def pause(delay_s: float, waiter: Waiting | None = None, *, over: Callable[[], bool] | None = None) -> Flow[None]:
    """Waits."""
    yield Pause(delay_s, waiter, over)


def rest(watch: Any, delay_s: float) -> Flow[None]:
    """Waits where the attempt may be parked meanwhile."""
    yield Rest(watch, delay_s)
