"""What handles of both colours share: which workflow it is, and the protocols of what can be asked of it."""

from __future__ import annotations

import json
import logging
import typing
from typing import Any, ClassVar, cast
from uuid import UUID

from dbdurable._core import limits
from dbdurable._core.codec import ValueCodec
from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._executor.calls import place_of
from dbdurable._executor.direct import runner
from dbdurable._executor.runtime import Runtime, boottime
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.child import RunChild, await_child
from dbdurable._protocol.effects import Flow, Row
from dbdurable._protocol.frame import WorkflowFrame, current
from dbdurable._protocol.start import resend, result
from dbdurable._sql import workflow as sql
from dbdurable._sql.start import FIND_BY_KEY
from dbdurable.errors import BadArgument, UnknownWorkflow
from dbdurable.types import Duration, Status, StepInfo, WorkflowInfo

logger = logging.getLogger("dbdurable")

__all__ = ["Reference", "workflow_info"]


class Reference:
    """One workflow, by its id or by its key, and the protocols of what can be asked of it."""

    __slots__ = ("_codec", "_id", "_key", "name", "runtime")
    is_async: ClassVar[bool]
    """The colour of whoever asks."""

    def __init__(
        self, runtime: Runtime, id: UUID | None, name: str, codec: ValueCodec, *, key: str | None = None
    ) -> None:
        self.runtime = runtime
        self._id = id
        self._key = key
        self.name = name
        self._codec = codec

    def __repr__(self) -> str:
        return f"<handle of {self.name} {self._id if self._id is not None else f'key={self._key!r}'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and (self._id, self._key, self.name) == (other._id, other._key, other.name)

    def __hash__(self) -> int:
        return hash((self._id, self._key, self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by the place of its function, never with a URL."""
        definition = self.runtime.registry.definitions.get(self.name)
        if definition is None or definition.method:
            raise TypeError(f"{self!r} cannot be pickled: pickle its id, and use client.handle(id)")
        fn = definition.fn
        return _restore, (fn.__module__, fn.__qualname__, self.is_async, self._id, self._key)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Travels as an argument: its workflow's name and id. The workflow that gets it can use it."""
        from pydantic_core import core_schema

        returns = typing.get_args(source)[0] if typing.get_args(source) else Any

        def read(value: Any) -> Any:
            if isinstance(value, cls):
                return value
            frame = current.get()
            runtime = frame.runtime if isinstance(frame, WorkflowFrame) else None
            codec = ValueCodec.for_annotation(returns, "the result")
            return cls(cast(Runtime, runtime), UUID(value["id"]), value["workflow"], codec)

        def write(handle: Reference) -> dict[str, str]:
            if handle._id is None:
                raise ValueError("a handle by key has no id yet: ask its status() first")
            return {"workflow": handle.name, "id": str(handle._id)}

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(write)
        )

    def known_id(self) -> Flow[UUID]:
        """The id; a handle by key looks it up once."""
        if self._id is None:
            self._found((yield from resend(FIND_BY_KEY, self.name, self._key, "{}")))
        assert self._id is not None
        return self._id

    def result_flow(self, timeout: Duration | None) -> tuple[Flow[Any], None, DurableCall | None]:
        """Waits for the outcome, in the colour of the caller; and the place of that in the caller's workflow.

        In the body of a workflow the outcome is recorded there, and a workflow that nobody runs yet is run
        by the one that waits for it.
        """
        timeout_s = None if timeout is None else duration_s(timeout, "timeout=")
        frame, executor = current.get(), self.runtime.executor
        if not isinstance(frame, WorkflowFrame) or executor is None:
            return self._wait(timeout_s), None, None
        join = place_of(frame, self.name, "join", self._codec, timeout_s)
        definition = executor.definitions.get(self.name)
        if definition is None:
            return self._join(join, _nobody), None, join
        return self._join(join, runner(executor, definition, frame)), None, join

    def _join(self, join: DurableCall, run: RunChild) -> Flow[Any]:
        id = yield from self.known_id()
        return (yield from await_child(join, id, run))

    def _wait(self, timeout_s: float | None) -> Flow[Any]:
        id = yield from self.known_id()
        waiter = self.runtime.waiters.begin(id)
        try:
            return (yield from result(id, self._codec, timeout_s, boottime, logger.warning, waiter))
        finally:
            self.runtime.waiters.leave(id, waiter)

    def one(self, statement: Any, *params: Any) -> Flow[Row]:
        """The row of a statement about this workflow."""
        id = yield from self.known_id()
        rows = yield from resend(statement, id, *params)
        if not rows:
            raise UnknownWorkflow(f"there is no workflow {id} in this schema")
        return rows[0]

    def hint_cancel(self) -> None:
        """What runs in this process hears of the cancel at once, not with the next heartbeat."""
        executor = self.runtime.executor
        if executor is not None:
            executor.hint_cancel()

    def cancel_flow(self, reason: str) -> Flow[Row]:
        """Cancels it."""
        if not isinstance(reason, str) or "\0" in reason or len(reason) > limits.message_chars_max:
            raise BadArgument(
                f"the reason of a cancel is a str of at most {limits.message_chars_max} characters without NUL, "
                f"got {shown(reason)}"
            )
        row = yield from self.one(sql.CANCEL, reason)
        if row[0] == Status.QUEUED:  # its body cleans up
            self.runtime.notifier.requeued()
        return row

    def resume_flow(self) -> Flow[Row]:
        """Lets it go on."""
        row = yield from self.one(sql.RESUME)
        if row[0] == Status.QUEUED:
            self.runtime.notifier.requeued()
        return row

    def _found(self, rows: list[Row]) -> UUID:
        if not rows:
            raise UnknownWorkflow(f"no workflow {self.name} was started with key {self._key!r}")
        self._id = rows[0][0]
        assert self._id is not None
        return self._id

    def status_flow(self) -> Flow[Status]:
        """Where it stands."""
        row = yield from self.one(sql.OWNERSHIP)
        return Status(row[0])

    def info_flow(self) -> Flow[WorkflowInfo]:
        """All about it."""
        row = yield from self.one(sql.SHOW)
        return workflow_info(row)

    def steps_flow(self) -> Flow[list[StepInfo]]:
        """Its journal."""
        id = yield from self.known_id()
        rows = yield from resend(sql.LIST_STEPS, id)
        return [
            StepInfo(tuple(int(part) for part in path.split(".")), name, kind, attempts, error, finished_at)
            for path, name, kind, attempts, error, finished_at in rows
        ]


def _restore(module: str, qualname: str, is_async: bool, id: UUID | None, key: str | None) -> Any:
    from dbdurable._executor.face import find_function

    return find_function(module, qualname, is_async).handle(id, key=key)


def _nobody(_: UUID) -> Flow[bool]:
    """The child's code is not registered here: somebody else runs it."""
    yield from ()
    return False


def workflow_info(row: Row) -> WorkflowInfo:
    """A row of the statements SHOW and LIST."""
    id, name, key, queue, status, reason, attempt, created_at, attributes = row
    return WorkflowInfo(
        id=id,
        name=name,
        key=key,
        queue=queue,
        status=Status(status),
        reason=reason,
        attempt=attempt,
        created_at=created_at,
        attributes=json.loads(attributes) if attributes else {},
    )
