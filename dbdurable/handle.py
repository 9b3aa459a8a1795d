"""Handles: one workflow, wherever it runs, seen from outside."""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar, cast, overload
from uuid import UUID

from dbdurable._core import limits
from dbdurable._core.codec import ValueCodec
from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._executor.calls import place_of
from dbdurable._executor.direct import run_child
from dbdurable._executor.exchange import NOTHING, event_flow, heard, message_of, send_flow, send_in_tx
from dbdurable._executor.runtime import Runtime, boottime, check_blocking
from dbdurable._io.borrow import arun_in, run_in
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.child import RunChild, await_child
from dbdurable._protocol.effects import Flow, Row
from dbdurable._protocol.frame import WorkflowFrame, ambient_tx, current
from dbdurable._protocol.start import resend, result
from dbdurable._sql import workflow as sql
from dbdurable.errors import BadArgument, UnknownWorkflow
from dbdurable.types import AsyncTx, Duration, Status, StepInfo, SyncTx, WorkflowInfo

D = TypeVar("D")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
logger = logging.getLogger("dbdurable")

__all__ = ["AsyncHandle", "Handle", "workflow_info"]


class _Handle:
    """What both colours share: which workflow, and the protocols of what can be asked of it."""

    __slots__ = ("_codec", "_id", "_key", "name", "runtime")

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
        return isinstance(other, _Handle) and (self._id, self._key, self.name) == (other._id, other._key, other.name)

    def __hash__(self) -> int:
        return hash((self._id, self._key, self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles by the place of its function, never with a URL."""
        definition = self.runtime.registry.definitions.get(self.name)
        if definition is None or definition.method:
            raise TypeError(f"{self!r} cannot be pickled: pickle its id, and use client.handle(id)")
        fn = definition.fn
        return _restore, (fn.__module__, fn.__qualname__, type(self).__name__ == "AsyncHandle", self._id, self._key)

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

        def write(handle: _Handle) -> dict[str, str]:
            if handle._id is None:
                raise ValueError("a handle by key has no id yet: ask its status() first")
            return {"workflow": handle.name, "id": str(handle._id)}

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(write)
        )

    def known_id(self) -> Flow[UUID]:
        """The id; a handle by key looks it up once."""
        if self._id is None:
            self._found((yield from resend(sql.FIND_BY_KEY, self.name, self._key, "{}")))
        assert self._id is not None
        return self._id

    def result_flow(self, timeout: Duration | None) -> tuple[Flow[Any], bool | None, DurableCall | None]:
        """Waits for the outcome; the colour of user code that may run meanwhile, and the place in its workflow.

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
        return self._join(join, partial(run_child, executor, definition, frame)), definition.is_async, join

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


class Handle(_Handle, Generic[R_co]):
    """One workflow, wherever it runs, for `def` code.

    Raises, from every method:
        UnknownWorkflow: There is no such workflow (any more).
        DatabaseUnavailable: The database cannot be reached.
    """

    __slots__ = ()

    @property
    def id(self) -> UUID:
        """Its id; a handle by key asks the database once."""
        if self._id is None:
            check_blocking("handle.id of a handle by key", "(await handle.aio.info()).id")
            self.runtime.drive(self.known_id())
        return cast(UUID, self._id)

    @property
    def aio(self) -> AsyncHandle[R_co]:
        """The same workflow for `async def` code."""
        return AsyncHandle(self.runtime, self._id, self.name, self._codec, key=self._key)

    def result(self, timeout: Duration | None = None) -> R_co:
        """Waits for its end and returns what it returned, or raises what it raised.

        Raises:
            WaitTimeout: It has not ended within `timeout` (seconds or timedelta); it goes on.
            WorkflowCancelled: It was cancelled.
            WorkflowBlocked: Its code no longer fits its recorded steps.
            RemoteError: It raised an error whose class is not loaded here.
        """
        check_blocking("handle.result()", "await handle.aio.result()")
        return cast(R_co, self.runtime.drive(*self.result_flow(timeout)))

    def status(self) -> Status:
        """Where it stands."""
        check_blocking("handle.status()", "await handle.aio.status()")
        return self.runtime.drive(self.status_flow())

    def info(self) -> WorkflowInfo:
        """All about it."""
        check_blocking("handle.info()", "await handle.aio.info()")
        return self.runtime.drive(self.info_flow())

    def steps(self) -> Sequence[StepInfo]:
        """What it has recorded so far, in order."""
        check_blocking("handle.steps()", "await handle.aio.steps()")
        return self.runtime.drive(self.steps_flow())

    def send(
        self, topic: str, value: object, /, *, idempotency_key: str | None = None, tx: SyncTx | None = None
    ) -> None:
        """Sends a message for its `recv(topic, type)`; kept until it is read, in the order of each sender.

        In a workflow's body it is recorded; in a step it is sent once, however often the step runs; in a
        transaction, or with `tx=`, it is sent if and only if that commits. With `idempotency_key` it is sent once
        per workflow, topic and key. The receiver's type reads the value: dataclasses, models and plain data.

        Raises:
            WorkflowFinished: It has ended: nobody would read the message.
            BadArgument: A topic, value or key that cannot be sent.
        """
        check_blocking("handle.send()", "await handle.aio.send()")
        message = message_of(topic, value, idempotency_key)
        tx = ambient_tx(tx)
        if tx is None:
            self.runtime.drive(send_flow(self.known_id(), message))
            self.runtime.notifier.requeued()
            return
        database = self.runtime.database
        if self._id is None:
            key = (self.name, self._key, "{}")
            self._found(run_in(tx, database.text(sql.FIND_BY_KEY), key, database.schema))
        query = send_in_tx(cast(UUID, self._id), message)
        run_in(tx, database.text(query.statement), query.params, database.schema)

    @overload
    def get_event(self, name: str, type: type[T], /, *, timeout: Duration | None = None) -> T: ...
    @overload
    def get_event(self, name: str, type: type[T], /, *, timeout: Duration | None = None, default: D) -> T | D: ...
    @overload
    def get_event(
        self, name: str, type: Any = ..., /, *, timeout: Duration | None = None, default: Any = ...
    ) -> Any: ...
    def get_event(
        self, name: str, type: Any = Any, /, *, timeout: Duration | None = None, default: Any = NOTHING
    ) -> Any:
        """The value that it gave `set_event(name, value)`, read as `type`; waits until there is one.

        In a workflow's body it is recorded, and a long wait holds no thread.

        Raises:
            WaitTimeout: There was none within `timeout`, and no `default`.
            WorkflowFinished: It has ended without ever setting it, and no `default`.
        """
        check_blocking("handle.get_event()", "await handle.aio.get_event()")
        what = heard("event", name, type, timeout, default)
        return self.runtime.drive(event_flow(self.known_id(), what, boottime))

    def cancel(self, reason: str = "") -> None:
        """Cancels it. Once this returns, no database effect of the workflow commits."""
        check_blocking("handle.cancel()", "await handle.aio.cancel()")
        self.runtime.drive(self.cancel_flow(reason))
        self.hint_cancel()

    def pause(self) -> None:
        """Stops it before its next record, until `resume()`."""
        check_blocking("handle.pause()", "await handle.aio.pause()")
        self.runtime.drive(self.one(sql.PAUSE))

    def resume(self) -> None:
        """Lets it go on when it is paused, blocked or failed; what failed last is tried again."""
        check_blocking("handle.resume()", "await handle.aio.resume()")
        self.runtime.drive(self.resume_flow())


class AsyncHandle(_Handle, Generic[R_co]):
    """One workflow, wherever it runs, for `async def` code."""

    __slots__ = ()

    @property
    def id(self) -> UUID:
        """Its id; for a handle by key, known after its first awaited method."""
        if self._id is None:
            raise UnknownWorkflow(f"the id of key {self._key!r} is known after `await handle.status()`")
        return self._id

    @property
    def sync(self) -> Handle[R_co]:
        """The same workflow for `def` code."""
        return Handle(self.runtime, self._id, self.name, self._codec, key=self._key)

    async def result(self, timeout: Duration | None = None) -> R_co:
        """Waits for its end and returns what it returned, or raises what it raised; see `Handle.result`."""
        return cast(R_co, await self.runtime.adrive(*self.result_flow(timeout)))

    async def status(self) -> Status:
        """Where it stands."""
        return await self.runtime.adrive(self.status_flow())

    async def info(self) -> WorkflowInfo:
        """All about it."""
        return await self.runtime.adrive(self.info_flow())

    async def steps(self) -> Sequence[StepInfo]:
        """What it has recorded so far, in order."""
        return await self.runtime.adrive(self.steps_flow())

    async def send(
        self, topic: str, value: object, /, *, idempotency_key: str | None = None, tx: AsyncTx | None = None
    ) -> None:
        """Sends a message for its `recv(topic, type)`; see `Handle.send`."""
        message = message_of(topic, value, idempotency_key)
        tx = ambient_tx(tx)
        if tx is None:
            await self.runtime.adrive(send_flow(self.known_id(), message))
            self.runtime.notifier.requeued()
            return
        database = self.runtime.database
        if self._id is None:
            key = (self.name, self._key, "{}")
            self._found(await arun_in(tx, database.text(sql.FIND_BY_KEY), key, database.schema))
        query = send_in_tx(cast(UUID, self._id), message)
        await arun_in(tx, database.text(query.statement), query.params, database.schema)

    @overload
    async def get_event(self, name: str, type: type[T], /, *, timeout: Duration | None = None) -> T: ...
    @overload
    async def get_event(self, name: str, type: type[T], /, *, timeout: Duration | None = None, default: D) -> T | D: ...
    @overload
    async def get_event(
        self, name: str, type: Any = ..., /, *, timeout: Duration | None = None, default: Any = ...
    ) -> Any: ...
    async def get_event(
        self, name: str, type: Any = Any, /, *, timeout: Duration | None = None, default: Any = NOTHING
    ) -> Any:
        """The value that it gave `set_event(name, value)`; see `Handle.get_event`."""
        what = heard("event", name, type, timeout, default)
        return await self.runtime.adrive(event_flow(self.known_id(), what, boottime))

    async def cancel(self, reason: str = "") -> None:
        """Cancels it. Once this returns, no database effect of the workflow commits."""
        await self.runtime.adrive(self.cancel_flow(reason))
        self.hint_cancel()

    async def pause(self) -> None:
        """Stops it before its next record, until `resume()`."""
        await self.runtime.adrive(self.one(sql.PAUSE))

    async def resume(self) -> None:
        """Lets it go on when it is paused, blocked or failed; what failed last is tried again."""
        await self.runtime.adrive(self.resume_flow())
