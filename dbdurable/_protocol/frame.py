"""Where code stands: the workflow attempt, and the step or transaction inside it, that is running here.

One context variable holds the innermost frame. Threads that a body starts on its own do not inherit it:
a durable call there raises `NotInWorkflow` instead of running unrecorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from dbdurable._core.control import Diverged, Unwind
from dbdurable._core.journal import Journal
from dbdurable._core.path import Line
from dbdurable._protocol.effects import Query
from dbdurable._protocol.lease import Lease


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that a workflow waits for. `until` is by the lease's clock; `due` by the database's."""

    kind: str
    subject: str = ""
    until: float | None = None
    due: datetime | None = None
    attempts: int = 0
    goes_on: bool = False
    """Whether it goes on although the workflow was cancelled: in a shield, or part of a clean-up."""


@dataclass(frozen=True, slots=True)
class KeptWait:
    """A wait that was found in the database: its deadline, by the lease's clock, is older than this attempt."""

    until: float | None
    attempts: int = 0


@dataclass(slots=True, eq=False)
class WorkflowFrame:
    """One attempt of one workflow, from claim or direct call to its outcome."""

    id: UUID
    name: str
    key: str | None
    epoch: int
    attempt: int
    lease: Lease
    journal: Journal
    is_async: bool
    runtime: Any = None
    """The application that runs it; opaque here."""
    tell: Callable[..., None] = lambda *queues: None
    """Says that these queues have something to claim now: a hint."""
    deadline: datetime | None = None
    parent_id: UUID | None = None
    queue: str | None = None
    slots: list[str] | None = None
    """What it holds of its queue's limits: '' is the queue's own, else a partition."""
    pending: Query | None = None
    """The start of a direct call, while it waits to ride the first commit. A crash before that commit means
    that the call never happened; nobody but its caller can know of it."""
    park_after_s: float = 1.0
    """A wait that takes longer than this gives its thread and memory back."""
    waits: dict[str, Wait] = field(default_factory=dict)
    """What the attempt waits for now, by path."""
    kept: dict[str, KeptWait] = field(default_factory=dict)
    """What it waited for when it was claimed, by path."""
    woken: bool = False
    """Whether what it waits for was there as soon as it was parked."""
    announced: dict[str, list[str]] = field(default_factory=dict)
    """Events that were set in open transactions, by the path of each."""
    progress: str | None = None
    """What progress() has said since the last record."""
    watch: Any = None
    """Of an asynchronous attempt: notices when nothing of it can move."""
    interrupt: str | None = None
    """Why it was cancelled, once that is known here."""
    adopted: bool = False
    """Whether `epoch` is known to be the one that began with the cancel."""
    in_flight: Any = None
    """What a cancel interrupts just now; `_io.inflight`, opaque here."""
    left_limits: list[str] = field(default_factory=list)
    """The places of `timeout()` blocks whose waits are to be taken away."""
    closing: set[UUID] = field(default_factory=set)
    """Children that are cancelled when the workflow ends before them, however it ends."""
    undos: list[Any] = field(default_factory=list)
    """What undoes the steps of the body, outside of any `saga()`, in the order in which they were made."""
    unwinding: Unwind | None = None
    """Set once the attempt is over for the body: every durable call raises it again."""
    unawaited: dict[int, str] = field(default_factory=dict)
    """The names of asynchronous calls that were made and not awaited yet."""
    now_us: int = 0
    """What time it is for the body: when the latest record that it has seen was written, or when it began."""
    line: Line = field(default_factory=Line)
    branches: set[Any] = field(default_factory=set)
    """The tasks that the body has made and that have not ended."""
    joining: dict[Any, list[Any]] = field(default_factory=dict)
    """Those of its tasks that wait for others of them, each with these."""
    root: Any = None
    """The task that runs an asynchronous body."""
    told: set[Any] = field(default_factory=set)
    """The tasks that have seen the cancel of the workflow, or get it from one that they join."""
    root_cancelled: bool = False
    """Whether a cancel that branches have seen was passed on to the body's own task."""
    shields: int = 0
    """How many shields the tasks of the body are in; until they have left them it is not passed on."""
    as_completed: tuple[Any, Line, int] | None = None
    """The list that `asyncio.as_completed` makes tasks of just now, their line, and how many are left to make."""
    gave_slot_back: bool = False
    """Whether no code of the user's runs any more, and somebody else may run in its place."""
    ended: bool = False
    """Whether the body has ended: what is left of its branches is nobody's."""
    turns: Any = None
    """In which order its branches go on; None until it has made one."""

    def next_seq(self, this: Any) -> int:
        """The position in durable order of a record of `this` call that is about to be sent."""
        if self.turns is not None:
            return cast(int, self.turns.next_seq(this))
        if this.seq is None:
            this.seq = self.journal.next_seq()
        return cast(int, this.seq)

    def saw(self, written_us: int | None) -> None:
        """The body goes on after a record that was written then. Its time never goes back."""
        if written_us is not None and written_us > self.now_us:
            self.now_us = written_us

    @property
    def waits_in_vain(self) -> bool:
        """Whether something that it waits for would hear of a cancel that is known here: it must not park."""
        return self.interrupt is not None and not all(wait.goes_on for wait in self.waits.values())

    def unwind(self, reason: Unwind) -> Unwind:
        """Notes that the attempt is over, and returns what to raise."""
        if self.unwinding is None:
            self.unwinding = reason
        return self.unwinding

    def forget(self) -> None:
        """The attempt is gone from here: lets go of what leads back to it.

        What stands in a circle waits for the garbage collector, which took more time than parking itself.
        """
        self.watch = self.root = None
        if self.unwinding is not None:
            self.unwinding.__traceback__ = self.unwinding.__context__ = None

    def diverge(self, found: Diverged) -> Unwind:
        """The same for what the journal has found, which does not know whose it is."""
        return self.unwind(Diverged(str(found).replace("{id}", str(self.id))))

    def check(self) -> None:
        """Raises where the attempt must not go on."""
        reason = self.unwinding or self.lease.reason_to_stop()
        if reason is not None:
            raise self.unwind(reason)


@dataclass(slots=True, eq=False)
class StepFrame:
    """One attempt of one step or transaction."""

    workflow: WorkflowFrame | None
    workflow_id: UUID
    path: str
    name: str
    kind: str
    idempotency_key: Callable[[], UUID]
    attempt: int = 1
    starts: int = 0
    """How many workflows this attempt has started."""
    handle: Any = None
    """The connection or session of a transaction."""
    undoes: UUID | None = None
    """The idempotency key of the step that it undoes."""


Frame = WorkflowFrame | StepFrame

current: ContextVar[Frame | None] = ContextVar("dbdurable_frame", default=None)
branch: ContextVar[tuple[WorkflowFrame, Line] | None] = ContextVar("dbdurable_branch", default=None)
"""The line that calls of this task count on; the frame's own line when unset."""


shielded: ContextVar[WorkflowFrame | None] = ContextVar("dbdurable_shielded", default=None)
"""The attempt whose durable calls run here although it was cancelled; a child that runs inside is another one."""


@contextmanager
def holding_off(frame: WorkflowFrame) -> Iterator[None]:
    """What runs inside runs although the workflow was cancelled."""
    token = shielded.set(frame)
    frame.shields += frame.is_async  # tasks: all of them on one thread
    try:
        yield
    finally:
        with suppress(ValueError):  # closed by the garbage collector, after its loop has ended
            shielded.reset(token)
        if frame.is_async:
            frame.shields -= 1
            if frame.turns is not None:
                frame.turns.pass_cancel_on()


saga: ContextVar[tuple[WorkflowFrame, list[Any]] | None] = ContextVar("dbdurable_saga", default=None)
"""Where compensations made here are registered; the frame's own list when unset."""


limits: ContextVar[tuple[WorkflowFrame, tuple[Any, ...]] | None] = ContextVar("dbdurable_limits", default=None)
"""The `timeout()` blocks around this code, the outermost first."""


def limits_here(frame: WorkflowFrame) -> tuple[Any, ...]:
    """The `timeout()` blocks around a call made here."""
    found = limits.get()
    return found[1] if found is not None and found[0] is frame else ()


def undos_here(frame: WorkflowFrame) -> list[Any]:
    """What a compensation made here is added to."""
    found = saga.get()
    return found[1] if found is not None and found[0] is frame else frame.undos


def current_line(frame: WorkflowFrame) -> Line:
    """The line on which a call made here takes its path."""
    found = branch.get()
    return found[1] if found is not None and found[0] is frame else frame.line


def ambient_tx(tx: Any) -> Any:
    """The transaction in which a start takes part: the one given, or that of the transaction around the call."""
    frame = current.get()
    if tx is None and isinstance(frame, StepFrame) and frame.kind == "transaction":
        return frame.handle
    return tx


def workflow_here() -> WorkflowFrame | None:
    """The attempt that this code belongs to: in its body, or in a step of it."""
    frame = current.get()
    return frame.workflow if isinstance(frame, StepFrame) else frame


def is_replaying() -> bool:
    """Whether this is a workflow's body that an earlier attempt has been through here."""
    frame = current.get()
    return isinstance(frame, WorkflowFrame) and frame.journal.is_ahead(current_line(frame))
