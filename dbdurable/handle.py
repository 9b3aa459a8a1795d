"""Handles: one workflow, wherever it runs, seen from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast, overload
from uuid import UUID

from dbdurable._executor.exchange import NOTHING, event_flow, heard, message_of, send_flow, send_in_tx
from dbdurable._executor.reference import Reference
from dbdurable._executor.runtime import boottime, check_blocking
from dbdurable._io.borrow import arun_in, run_in
from dbdurable._protocol.frame import ambient_tx
from dbdurable._sql import workflow as sql
from dbdurable._sql.start import FIND_BY_KEY
from dbdurable.errors import UnknownWorkflow
from dbdurable.types import AsyncTx, Duration, Status, StepInfo, SyncTx, WorkflowInfo

D = TypeVar("D")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

__all__ = ["AsyncHandle", "Handle"]


class Handle(Reference, Generic[R_co]):
    """One workflow, wherever it runs, for `def` code.

    Raises, from every method:
        UnknownWorkflow: There is no such workflow (any more).
        DatabaseUnavailable: The database cannot be reached.
    """

    __slots__ = ()
    is_async = False

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
            self._found(run_in(tx, database.text(FIND_BY_KEY), key, database.schema))
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


class AsyncHandle(Reference, Generic[R_co]):
    """One workflow, wherever it runs, for `async def` code."""

    __slots__ = ()
    is_async = True

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
            self._found(await arun_in(tx, database.text(FIND_BY_KEY), key, database.schema))
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
