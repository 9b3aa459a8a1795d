"""What decorators return: objects that behave as the functions they were made from, in both colours.

A function is called as its `def` says. `f.aio` is the face that `async def` code uses, `f.sync` the one
that `def` code uses; both are the same registered function. What a call does where it is made is the table
in `_executor.calls`.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, cast, overload
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.names import check_key
from dbdurable._executor.calls import (
    Invocation,
    check_colour,
    durable_call,
    flow_of,
    place_of,
    plain_call,
    refuse_connection,
    require_workflow,
)
from dbdurable._executor.definition import Definition, RemoteDefinition
from dbdurable._executor.direct import Direct, run_child
from dbdurable._executor.runtime import Runtime, check_blocking
from dbdurable._executor.starts import build_start, refuse_start_options
from dbdurable._io.borrow import arun_in, run_in
from dbdurable._protocol.child import call_child, start_child
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import StepFrame, WorkflowFrame, current
from dbdurable._protocol.start import Start, start
from dbdurable._sql.workflow import START
from dbdurable.errors import BadArgument, NotRunning
from dbdurable.handle import AsyncHandle, Handle, workflow_id
from dbdurable.types import AsyncTx, Options, SyncTx

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")

__all__ = [
    "AsyncCall",
    "AsyncFunction",
    "AsyncStep",
    "AsyncTransaction",
    "AsyncWorkflow",
    "Call",
    "Function",
    "Step",
    "Transaction",
    "Workflow",
]


class _Face:
    """What both faces share: the definition, the options they carry, and their life as a function object."""

    __slots__ = ("__dict__", "__weakref__")
    definition: Definition

    def __init__(self, runtime: Runtime, definition: Definition, options: Options, tx: Any, self_: Any) -> None:
        self.runtime = runtime
        self.definition = definition
        self.carried = options
        self.tx = tx
        self.self_ = self_
        functools.update_wrapper(cast(Any, self), definition.fn)

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return self.definition.name

    @property
    def fn(self) -> Any:
        """The plain function, for unit tests; a transaction's takes the connection first."""
        fn = self.definition.fn
        return fn if self.self_ is None else functools.partial(fn, self.self_)

    @property
    def __signature__(self) -> inspect.Signature:
        return self.definition.signature

    @property
    def __globals__(self) -> dict[str, Any]:
        return cast(dict[str, Any], inspect.unwrap(self.definition.fn).__globals__)

    def __repr__(self) -> str:
        return f"<{self.definition.kind} {self.definition.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.carried or self.tx is not None or self.self_ is not None:
            raise TypeError(f"{self.definition.name} with options, or of an object, cannot be pickled")
        fn = self.definition.fn
        return find_function, (fn.__module__, fn.__qualname__, isinstance(self, AsyncFunction))

    def with_options(self, face: type[Any], tx: Any, options: Options) -> Any:
        """A copy that carries options; those named now win."""
        unknown = set(options) - set(Options.__annotations__)
        if unknown:
            raise BadArgument(
                f"{self.name}.options() has no option {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(Options.__annotations__)} and tx"
            )
        merged = cast(Options, {**self.carried, **options})
        return face(self.runtime, self.definition, merged, tx if tx is not None else self.tx, self.self_)

    def bound(self, face: type[Any], instance: Any) -> Any:
        """The method of an object: under the object's own name once it is registered."""
        known = self.runtime.registry.instance_definition(instance, self.definition)
        return face(self.runtime, known or self.definition, self.carried, self.tx, instance)

    # -- calls, whatever the colour --------------------------------------------------------------------

    def invocation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invocation:
        """The call with self in front, as the function takes it."""
        if self.self_ is not None:
            args = (self.self_, *args)
        return Invocation(self.runtime, self.definition, args, kwargs, self.carried)

    def flow(self, call: Invocation) -> Flow[Any]:
        """The protocol of a call that is not part of a step: takes its path now."""
        frame = current.get()
        refuse_start_options(self.carried, self.name, self.definition.kind)
        self._refuse_tx("call")
        if self.definition.kind == "workflow":
            executor = self.runtime.require_executor(self.definition)
            args = call.args[1:] if self.self_ is not None else call.args
            self._require_registered()
            start = build_start(self.runtime, self.definition, args, call.kwargs, self.carried)
            if not isinstance(frame, WorkflowFrame):
                return Direct(executor, self.definition, start).flow()
            return call_child(
                place_of(frame, self.name, "child", ValueCodec.for_annotation(str, "the id of a child")),
                place_of(frame, self.name, "join", self.definition.result),
                replace(start, parent_id=frame.id),
                functools.partial(run_child, executor, self.definition, frame),
            )
        return flow_of(durable_call(call, require_workflow(self.definition, frame)))

    def start_of(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, own_id: bool = True) -> Start:
        """The start that `.start(...)` means."""
        self._require_registered()
        if self.definition.kind == "transaction":
            refuse_connection(self.definition, args)
        return build_start(
            self.runtime,
            self.definition,
            args,
            kwargs,
            self.carried,
            own_id=own_id,
            registered=not isinstance(self.definition, RemoteDefinition),
        )

    def start_flow(self, this: Start) -> tuple[Flow[UUID], bool]:
        """How to start where the call is made, and whether it is a record of the workflow around it."""
        frame = current.get()
        if isinstance(frame, WorkflowFrame):
            place = place_of(frame, self.name, "start", ValueCodec.for_annotation(str, "the id of a child"))
            return start_child(place, replace(this, parent_id=frame.id)), True
        return start(this), False

    def handle_of(self, face: type[Any], id: UUID | str | None, key: str | None) -> Any:
        """A handle to one that exists; no I/O."""
        if (id is None) == (key is None):
            raise BadArgument(f"{self.name}.handle() takes an id or key=, one of them")
        found = None if id is None else workflow_id(id)
        name = None if key is None else check_key(key)
        return face(self.runtime, found, self.name, self.definition.result, key=name)

    def ambient_tx(self) -> Any:
        """The transaction in which a start takes part: tx=, or that of the transaction around the call."""
        frame = current.get()
        if self.tx is None and isinstance(frame, StepFrame) and frame.kind == "transaction":
            return frame.handle
        return self.tx

    def started(self, face: type[Any], id: UUID, tx: Any) -> Any:
        """The handle of a start; the local executor looks at once."""
        executor = self.runtime.executor
        if executor is not None and tx is None:
            executor.hint()
        return face(self.runtime, id, self.name, self.definition.result)

    def _refuse_tx(self, what: str) -> None:
        if self.tx is not None:
            raise BadArgument(
                f"{self.name}: tx= goes with start, `{self.name}.options(tx=...).start(...)`; a {what} runs now"
            )

    def _require_registered(self) -> None:
        definition = self.definition
        if definition.method and definition.instance is None:
            cls = definition.fn.__qualname__.rpartition("<locals>.")[2].partition(".")[0]
            raise NotRunning(
                f"{definition.name} is a method, and no executor could find its object: write "
                f'`orders = durable.register({cls}(...), name="orders")` once, and call it on that'
            )


class Function(_Face, Generic[P, R_co]):
    """A registered function as `def` code calls it. Pickles by name; `inspect.signature` shows what callers pass.

    Raises on a call:
        NotInWorkflow, NotRunning, WrongColour: See the table in `_executor.calls`.
        BadArgument: An argument that cannot be used; nothing was written.
    """

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The name under which it is registered."""

    @property
    def aio(self) -> AsyncFunction[P, R_co]:
        """The same function as `async def` code calls it."""
        return AsyncFunction(self.runtime, self.definition, self.carried, self.tx, self.self_)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Runs it durably and waits for what it returns."""
        call = self.invocation(args, kwargs)
        frame = current.get()
        plain = plain_call(call, frame)
        if plain is not None and not self.definition.is_async:
            return cast(R_co, plain())
        check_colour(call, frame)
        return cast(R_co, self.runtime.drive(self.flow(call), self.definition.is_async))

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """Starts it in the background and returns its handle; with a key: once."""
        check_blocking(f"{self.name}.start(...)", f"await {self._aio_name}.start(...)")
        tx = self.ambient_tx()
        this = self.start_of(args, kwargs, own_id=tx is None)
        if tx is None:
            flow, _ = self.start_flow(this)
            id = self.runtime.drive(flow)
        else:
            database = self.runtime.database_for_tx()
            id = run_in(tx, database.text(START), this.params, database.schema)[0][0]
        return cast("Handle[R_co]", self.started(Handle, id, tx))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The call as a value: arguments and options, not called yet."""
        return Call(cast("Function[..., R_co]", self), args, kwargs)

    def handle(self, id: UUID | str | None = None, *, key: str | None = None) -> Handle[R_co]:
        """A handle to a workflow that exists, by id or key; no I/O."""
        return cast("Handle[R_co]", self.handle_of(Handle, id, key))

    def options(self, *, tx: SyncTx | None = None, **options: Unpack[Options]) -> Function[P, R_co]:
        """A copy that carries options; `tx=` starts in the caller's transaction."""
        return cast("Function[P, R_co]", self.with_options(Function, tx, options))

    @property
    def _aio_name(self) -> str:
        return self.name if self.definition.is_async else f"{self.name}.aio"


class AsyncFunction(_Face, Generic[P, R_co]):
    """A registered function as `async def` code calls it. Calls take their place when they are made."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The name under which it is registered."""

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
            """Runs it durably and waits for what it returns."""

        async def start(self, *args: P.args, **kwargs: P.kwargs) -> AsyncHandle[R_co]:
            """Starts it in the background and returns its handle; with a key: once."""

    else:

        def __call__(self, *args, **kwargs):
            """Runs it durably and waits for what it returns."""
            call = self.invocation(args, kwargs)
            frame = current.get()
            plain = plain_call(call, frame)
            if plain is not None:
                return _acall_plain(plain)
            flow = self.flow(call)
            return _adrive(self.runtime, flow, self.definition.is_async, frame, self.name)

        def start(self, *args, **kwargs):
            """Starts it in the background and returns its handle; with a key: once."""
            tx = self.ambient_tx()
            if tx is not None:
                return self._astart_in(tx, args, kwargs)
            frame = current.get()
            if isinstance(frame, WorkflowFrame):
                flow, _ = self.start_flow(self.start_of(args, kwargs))
                return self._astart(flow)
            return self._astart(None, args, kwargs)

    @property
    def sync(self) -> Function[P, R_co]:
        """The same function as `def` code calls it."""
        return Function(self.runtime, self.definition, self.carried, self.tx, self.self_)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> AsyncCall[R_co]:
        """The call as a value: arguments and options, not called yet."""
        return AsyncCall(cast("AsyncFunction[..., R_co]", self), args, kwargs)

    def handle(self, id: UUID | str | None = None, *, key: str | None = None) -> AsyncHandle[R_co]:
        """A handle to a workflow that exists, by id or key; no I/O."""
        return cast("AsyncHandle[R_co]", self.handle_of(AsyncHandle, id, key))

    def options(self, *, tx: AsyncTx | None = None, **options: Unpack[Options]) -> AsyncFunction[P, R_co]:
        """A copy that carries options; `tx=` starts in the caller's transaction."""
        return cast("AsyncFunction[P, R_co]", self.with_options(AsyncFunction, tx, options))

    async def _astart(
        self, flow: Flow[UUID] | None, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if flow is None:
            await self.runtime.database.async_pool()  # connects off the loop, before the id is made
            flow = start(self.start_of(args, kwargs or {}))
        return self.started(AsyncHandle, await self.runtime.adrive(flow), None)

    async def _astart_in(self, tx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        this = self.start_of(args, kwargs, own_id=False)
        database = await asyncio.to_thread(self.runtime.database_for_tx)
        rows = await arun_in(tx, database.text(START), this.params, database.schema)
        return self.started(AsyncHandle, rows[0][0], tx)


def _mark_coroutine_function(thing: Any) -> None:
    """Frameworks ask before they call: FastAPI would drop an unmarked background task without a word."""
    thing._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)  # what Python 3.11 looks at
    if hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(thing)


for _thing in (AsyncFunction, AsyncFunction.__call__, AsyncFunction.start):
    _mark_coroutine_function(_thing)


async def _acall_plain(plain: Callable[[], Any]) -> Any:
    value = plain()
    return await value if inspect.isawaitable(value) else value


def _adrive(runtime: Runtime, flow: Flow[Any], own_async: bool, frame: Any, name: str) -> Coroutine[Any, Any, Any]:
    """The coroutine of a call; one that is never awaited is named when the workflow's body ends."""
    token = object()
    if isinstance(frame, WorkflowFrame):
        frame.unawaited[id(token)] = name

    async def run() -> Any:
        if isinstance(frame, WorkflowFrame):
            frame.unawaited.pop(id(token), None)
        return await runtime.adrive(flow, own_async)

    coroutine: Any = run()
    coroutine.__qualname__ = name  # what Python's own warning calls it
    return cast("Coroutine[Any, Any, Any]", coroutine)


def find_function(module: str, qualname: str, is_async: bool) -> Any:
    """A registered function by its place: how functions and handles are unpickled."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if isinstance(found, AsyncFunction) is not is_async:
        found = found.aio if is_async else found.sync
    return found


class Call(Generic[R_co]):
    """A call as a value: arguments and options, not called yet."""

    def __init__(self, function: Function[..., R_co], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs

    def __call__(self) -> R_co:
        """Calls it."""
        return self.function(*self.args, **self.kwargs)

    def start(self) -> Handle[R_co]:
        """Starts it in the background."""
        return self.function.start(*self.args, **self.kwargs)


class AsyncCall(Generic[R_co]):
    """A call as a value, for `async def` code."""

    def __init__(self, function: AsyncFunction[..., R_co], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs

    async def __call__(self) -> R_co:
        """Calls it."""
        return await self.function(*self.args, **self.kwargs)

    async def start(self) -> AsyncHandle[R_co]:
        """Starts it in the background."""
        return await self.function.start(*self.args, **self.kwargs)


class _Sync(Function[P, R_co]):
    """A decorated function that may stand in a class."""

    @overload
    def __get__(self, obj: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: _Sync[Concatenate[S, Q], R_co], obj: S, owner: type, /) -> Function[Q, R_co]: ...
    def __get__(self, obj: Any, owner: type, /) -> Any:
        return self if obj is None else self.bound(Function, obj)


class _Async(AsyncFunction[P, R_co]):
    """A decorated coroutine function that may stand in a class."""

    @overload
    def __get__(self, obj: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: _Async[Concatenate[S, Q], R_co], obj: S, owner: type, /) -> AsyncFunction[Q, R_co]: ...
    def __get__(self, obj: Any, owner: type, /) -> Any:
        return self if obj is None else self.bound(AsyncFunction, obj)


class Workflow(_Sync[P, R_co]):
    """A workflow written with `def`. `fn` is the plain function."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[P, R_co]:
            """The plain function."""


class Step(_Sync[P, R_co]):
    """A step written with `def`. `fn` is the plain function."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[P, R_co]:
            """The plain function."""


class Transaction(_Sync[P, R_co]):
    """A transaction written with `def`. `fn` takes the connection: `reserve.fn(connection, 42)`."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[Concatenate[Any, P], R_co]:
            """The plain function; takes the connection first."""


class AsyncWorkflow(_Async[P, R_co]):
    """A workflow written with `async def`."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[P, Coroutine[Any, Any, R_co]]:
            """The plain function."""


class AsyncStep(_Async[P, R_co]):
    """A step written with `async def`."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[P, Coroutine[Any, Any, R_co]]:
            """The plain function."""


class AsyncTransaction(_Async[P, R_co]):
    """A transaction written with `async def`."""

    if TYPE_CHECKING:

        @property
        def fn(self) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R_co]]:
            """The plain function; takes the connection first."""
