"""Clients: start and watch workflows without their code, from any service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.names import check_name
from dbdurable._core.queues import queue_settings
from dbdurable._core.show import shown
from dbdurable._core.whole import whole_number
from dbdurable._executor.definition import RemoteDefinition
from dbdurable._executor.exchange import Completion, complete_flow, rejected, resolved
from dbdurable._executor.reference import workflow_info
from dbdurable._executor.runtime import Configuration, Runtime, check_blocking
from dbdurable._executor.starts import workflow_id
from dbdurable._io.borrow import arun_in, run_in
from dbdurable._protocol.effects import Flow, Row
from dbdurable._protocol.frame import StepFrame, WorkflowFrame, ambient_tx, current
from dbdurable._protocol.start import Start, resend, starts_json
from dbdurable._sql import queue as queue_sql
from dbdurable._sql import workflow as sql
from dbdurable._sql.start import START_MANY
from dbdurable.definitions import AsyncCall, AsyncFunction, Call, Function
from dbdurable.errors import BadArgument
from dbdurable.handle import AsyncHandle, Handle
from dbdurable.types import AsyncTx, Queue, QueueInfo, Rate, Retry, Status, SyncTx, WorkflowInfo

T = TypeVar("T")

__all__ = ["AsyncClient", "Client"]

LIMIT_MAX = 10_000
START_MANY_MAX = 10_000


class _Client:
    """What both colours share."""

    def __init__(self, url: str | None = None, *, schema: str | None = None) -> None:
        # A client is often a guest: it checks the tables and leaves making them to their owner.
        self.runtime = Runtime(Configuration(url=url, schema=schema, migrate=False))

    @classmethod
    def of(cls, runtime: Runtime) -> Self:
        """A client of an application's own runtime."""
        client = cls.__new__(cls)
        client.runtime = runtime
        return client

    def remote(self, face: type[Any], name: str, returns: Any) -> Any:
        """A workflow by name."""
        check_name(name, "workflow")
        definition = RemoteDefinition(
            name=name, kind="workflow", fn=_no_code, is_async=False, method=False, retry=Retry(1), returns=returns
        )
        _ = definition.result  # a type that cannot be read back fails here
        return face(self.runtime, definition, {}, None, None)

    def handle_of(self, face: type[Any], id: UUID | str) -> Any:
        """A handle by id."""
        return face(self.runtime, workflow_id(id), "workflow", ValueCodec.for_annotation(Any, "the result"))

    def list_flow(self, name: str | None, status: Status | None, limit: int) -> Flow[list[WorkflowInfo]]:
        """The newest workflows."""
        whole_number(limit, "limit=", 1, LIMIT_MAX)
        if status is not None and status not in list(Status):
            raise BadArgument(f"status= takes one of {', '.join(Status)}, not {shown(status)}")
        if name is not None:
            check_name(name, "workflow")
        rows = yield from resend(sql.LIST, name, Status(status).value if status else None, limit)
        return [workflow_info(row) for row in rows]

    def start_many_plan(self, calls: Iterable[Any], tx: Any) -> list[tuple[Any, Start]]:
        """What each call would start, all of them checked before anything is written."""
        frame = current.get()
        if isinstance(frame, WorkflowFrame) or (isinstance(frame, StepFrame) and frame.kind == "step"):
            raise BadArgument(
                "start_many() in a workflow or step would start everything again when it is run again: call it in "
                "a transaction, where it commits with its record, or start each with .start(...)"
            )
        plan = []
        for call in calls:
            if not isinstance(call, (Call, AsyncCall)):
                raise BadArgument(f"start_many() takes calls, `checkout.bind(42)`, not {shown(call)}")
            if call.function.tx is not None:
                raise BadArgument("a call in start_many() carries tx=: pass it once, start_many(calls, tx=...)")
            plan.append((call.function, call.function.start_of(call.args, call.kwargs)))
        if len(plan) > START_MANY_MAX:
            raise BadArgument(f"start_many() takes at most {START_MANY_MAX} calls at once, got {len(plan)}")
        return plan

    def started_many(self, face: type[Any], plan: list[tuple[Any, Start]], rows: list[Row], tx: Any) -> list[Any]:
        """A handle for each, in order."""
        handles, told = [], set()
        for (function, this), (_, id) in zip(plan, rows, strict=True):
            if (this.name, this.queue) not in told:
                told.add((this.name, this.queue))
                function.tell(this, id, tx)
            handles.append(face(function.runtime, id, function.name, function.definition.result))
        return handles

    def queues_flow(self) -> Flow[list[QueueInfo]]:
        """All queues."""
        rows = yield from resend(queue_sql.LIST_QUEUES)
        return [_queue_info(row) for row in rows]

    def set_queue_flow(self, queue: str | Queue, limits: dict[str, Any]) -> Flow[None]:
        """Changes what a queue allows."""
        if not limits:
            raise BadArgument('set_queue() was given nothing to change: client.set_queue("orders", concurrency=5)')
        settings = json.dumps(queue_settings(limits))
        yield from resend(queue_sql.SET_QUEUE, _queue_name(queue), settings)
        self.runtime.notifier.requeued(_queue_name(queue))  # there may be room now

    def pause_queue_flow(self, queue: str | Queue) -> Flow[None]:
        """Stops claims of a queue."""
        yield from resend(queue_sql.PAUSE_QUEUE, _queue_name(queue))

    def resume_queue_flow(self, queue: str | Queue) -> Flow[None]:
        """Lets them go on."""
        yield from resend(queue_sql.RESUME_QUEUE, _queue_name(queue))
        self.runtime.notifier.requeued(_queue_name(queue))


def _queue_name(queue: str | Queue) -> str:
    return check_name(getattr(queue, "name", queue), "queue")


def _queue_info(row: Row) -> QueueInfo:
    name, paused, ready, oldest, running, delayed, concurrency, of_worker, of_partition, *_rates, max_depth = row
    return QueueInfo(
        name=name,
        paused=paused,
        ready=ready,
        oldest=oldest,
        running=running,
        delayed=delayed,
        concurrency=concurrency,
        worker_concurrency=of_worker,
        per_partition=of_partition,
        rate=None if row[9] is None else Rate(*row[9:12]),
        rate_per_partition=None if row[12] is None else Rate(*row[12:15]),
        max_depth=max_depth,
    )


class Limits(TypedDict, total=False):
    """What `set_queue` changes: only what is named; None takes a limit away. See `Durable.queue`."""

    concurrency: int | None
    worker_concurrency: int | None
    per_partition: int | None
    rate: Rate | None
    rate_per_partition: Rate | None
    max_depth: int | None


def _no_code(*args: Any, **kwargs: Any) -> Any:
    """Known by name only."""
    raise NotImplementedError


class Client(_Client):
    """Starts and watches workflows without their code. Connects at first use, once per process.

    Example:
        >>> client = Client("postgresql://localhost/shop")              # doctest: +SKIP
        >>> client.workflow("checkout", returns=str).start(order_id=46)  # doctest: +SKIP
    """

    @property
    def aio(self) -> AsyncClient:
        """The same client for `async def` code."""
        return AsyncClient.of(self.runtime)

    @overload
    def workflow(self, name: str, *, returns: type[T]) -> Function[..., T]: ...
    @overload
    def workflow(self, name: str) -> Function[..., Any]: ...
    def workflow(self, name: str, *, returns: Any = Any) -> Any:
        """A workflow by name; then `.options(...).start(...)` as with its code."""
        return self.remote(Function, name, returns)

    def handle(self, id: UUID | str) -> Handle[Any]:
        """A handle to a workflow by its id; no I/O."""
        found: Handle[Any] = self.handle_of(Handle, id)
        return found

    def workflows(
        self, *, name: str | None = None, status: Status | None = None, limit: int = 100
    ) -> Sequence[WorkflowInfo]:
        """The newest workflows, at most `limit` (up to 10,000)."""
        check_blocking("client.workflows()", "await client.aio.workflows()")
        return self.runtime.drive(self.list_flow(name, status, limit))

    def start_many(self, calls: Iterable[Call[T]], *, tx: SyncTx | None = None) -> list[Handle[T]]:
        """Starts many workflows, all or none, in a statement for all of them; also in the caller's transaction `tx`.

        Raises:
            BadArgument: A call that cannot be started; nothing was.
            KeyConflict: A key was used before with other arguments; nothing was started.

        Example:
            >>> client.start_many(mail.options(key=to).bind(to) for to in people)  # doctest: +SKIP
        """
        plan = self.start_many_plan(calls, tx)
        tx = ambient_tx(tx)
        many = starts_json([start.params for _, start in plan])
        if tx is not None:
            text = self.runtime.database.text(START_MANY)
            return self.started_many(Handle, plan, run_in(tx, text, (many,), self.runtime.database.schema), tx)
        check_blocking("client.start_many()", "await client.aio.start_many(...)")
        return self.started_many(Handle, plan, self.runtime.drive(resend(START_MANY, many)), None)

    def queues(self) -> Sequence[QueueInfo]:
        """Every queue: what is in it, and its limits."""
        check_blocking("client.queues()", "await client.aio.queues()")
        return self.runtime.drive(self.queues_flow())

    def set_queue(self, queue: str | Queue, **limits: Unpack[Limits]) -> None:
        """Changes the limits of a queue at once, for all executors; None takes one away.

        A deploy leaves the change alone unless the code declares other limits than it did before.

        Raises:
            UnknownQueue: There is no such queue.
            BadArgument: A limit that cannot be used.

        Example:
            >>> client.set_queue("orders", concurrency=5, rate=Rate(100, per=60))  # doctest: +SKIP
        """
        check_blocking("client.set_queue()", "await client.aio.set_queue(...)")
        self.runtime.drive(self.set_queue_flow(queue, dict(limits)))

    def pause_queue(self, queue: str | Queue) -> None:
        """Nothing more of it is claimed until it is resumed; what runs goes on."""
        check_blocking("client.pause_queue()", "await client.aio.pause_queue(...)")
        self.runtime.drive(self.pause_queue_flow(queue))

    def resume_queue(self, queue: str | Queue) -> None:
        """Lets a paused queue go on."""
        check_blocking("client.resume_queue()", "await client.aio.resume_queue(...)")
        self.runtime.drive(self.resume_queue_flow(queue))

    def resolve(self, token: str, value: object = None, *, tx: SyncTx | None = None) -> None:
        """Completes a promise: its `result()` returns `value`. With `tx=`, if and only if that commits.

        Raises:
            UnknownPromise: No workflow has made a promise with this token.
            PromiseCompleted: It was resolved or rejected before.
            WorkflowFinished: Its workflow has ended: nobody waits for it any more.
        """
        check_blocking("client.resolve()", "await client.aio.resolve()")
        self._complete(resolved(token, value), tx)

    def reject(self, token: str, reason: str, *, tx: SyncTx | None = None) -> None:
        """Fails a promise: its `result()` raises PromiseRejected with `reason`. Raises as `resolve` does."""
        check_blocking("client.reject()", "await client.aio.reject()")
        self._complete(rejected(token, reason), tx)

    def _complete(self, this: Completion, tx: Any) -> None:
        tx = ambient_tx(tx)
        if tx is None:
            self.runtime.drive(complete_flow(this))
            self.runtime.notifier.requeued()
            return
        query, database = this.query(None), self.runtime.database
        run_in(tx, database.text(query.statement), query.params, database.schema)

    def close(self) -> None:
        """Closes its connections."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient(_Client):
    """The same for `async def` code."""

    @property
    def sync(self) -> Client:
        """The same client for `def` code."""
        return Client.of(self.runtime)

    @overload
    def workflow(self, name: str, *, returns: type[T]) -> AsyncFunction[..., T]: ...
    @overload
    def workflow(self, name: str) -> AsyncFunction[..., Any]: ...
    def workflow(self, name: str, *, returns: Any = Any) -> Any:
        """A workflow by name; then `.options(...).start(...)` as with its code."""
        return self.remote(AsyncFunction, name, returns)

    def handle(self, id: UUID | str) -> AsyncHandle[Any]:
        """A handle to a workflow by its id; no I/O."""
        found: AsyncHandle[Any] = self.handle_of(AsyncHandle, id)
        return found

    async def workflows(
        self, *, name: str | None = None, status: Status | None = None, limit: int = 100
    ) -> Sequence[WorkflowInfo]:
        """The newest workflows, at most `limit` (up to 10,000)."""
        return await self.runtime.adrive(self.list_flow(name, status, limit))

    async def start_many(self, calls: Iterable[AsyncCall[T]], *, tx: AsyncTx | None = None) -> list[AsyncHandle[T]]:
        """Starts many workflows, all or none, in a statement for all of them; also in the caller's transaction `tx`."""
        plan = self.start_many_plan(calls, tx)
        tx = ambient_tx(tx)
        many = starts_json([start.params for _, start in plan])
        if tx is not None:
            text = self.runtime.database.text(START_MANY)
            rows = await arun_in(tx, text, (many,), self.runtime.database.schema)
            return self.started_many(AsyncHandle, plan, rows, tx)
        return self.started_many(AsyncHandle, plan, await self.runtime.adrive(resend(START_MANY, many)), None)

    async def queues(self) -> Sequence[QueueInfo]:
        """Every queue: what is in it, and its limits."""
        return await self.runtime.adrive(self.queues_flow())

    async def set_queue(self, queue: str | Queue, **limits: Unpack[Limits]) -> None:
        """Changes the limits of a queue at once, for all executors; None takes one away."""
        await self.runtime.adrive(self.set_queue_flow(queue, dict(limits)))

    async def pause_queue(self, queue: str | Queue) -> None:
        """Nothing more of it is claimed until it is resumed; what runs goes on."""
        await self.runtime.adrive(self.pause_queue_flow(queue))

    async def resume_queue(self, queue: str | Queue) -> None:
        """Lets a paused queue go on."""
        await self.runtime.adrive(self.resume_queue_flow(queue))

    async def resolve(self, token: str, value: object = None, *, tx: AsyncTx | None = None) -> None:
        """Completes a promise; see `Client.resolve`."""
        await self._complete(resolved(token, value), tx)

    async def reject(self, token: str, reason: str, *, tx: AsyncTx | None = None) -> None:
        """Fails a promise; see `Client.reject`."""
        await self._complete(rejected(token, reason), tx)

    async def _complete(self, this: Completion, tx: Any) -> None:
        tx = ambient_tx(tx)
        if tx is None:
            await self.runtime.adrive(complete_flow(this))
            self.runtime.notifier.requeued()
            return
        query, database = this.query(None), self.runtime.database
        await arun_in(tx, database.text(query.statement), query.params, database.schema)

    async def aclose(self) -> None:
        """Closes its connections on this loop."""
        await self.runtime.database.aclose()
        await asyncio.to_thread(self.runtime.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
