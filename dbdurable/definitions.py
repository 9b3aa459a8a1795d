"""What decorators return: objects that behave as the functions they were made from, in both colours.

A function is called as its `def` says. `f.aio` is the face that `async def` code uses, `f.sync` the one
that `def` code uses; both are the same registered function. What a call does where it is made is the table
in `_executor.calls`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, cast, overload
from uuid import UUID

from dbdurable._executor.calls import (
    check_colour,
    plain_call,
)
from dbdurable._executor.exchange import message_of
from dbdurable._executor.face import Face
from dbdurable._executor.runtime import check_blocking
from dbdurable._executor.talk import awaited, awaited_by
from dbdurable._executor.undo import arun_compensated, run_compensated
from dbdurable._io.borrow import arun_in, run_in
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame, current
from dbdurable._protocol.start import Start, start
from dbdurable._sql.start import START, START_AND_SEND
from dbdurable.handle import AsyncHandle, Handle
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


class Function(Face, Generic[P, R_co]):
    """A registered function as `def` code calls it. Pickles by name; `inspect.signature` shows what callers pass.

    Raises on a call:
        NotInWorkflow, NotRunning, WrongColour: See the table in `_executor.calls`.
        BadArgument: An argument that cannot be used; nothing was written.
    """

    is_async = False

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
        if self.definition.compensate is not None:
            return cast(R_co, run_compensated(call, self.placed(call)))
        return cast(R_co, self.runtime.drive(*self.flow(call)))

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """Starts it in the background and returns its handle; with a key: once."""
        check_blocking(f"{self.name}.start(...)", f"await {self._aio_name}.start(...)")
        tx = self.ambient_tx()
        this = self.start_of(args, kwargs, own_id=tx is None)
        if tx is None:
            id = self.runtime.drive(*self.start_flow(this))
        else:
            database = self.runtime.database_for_tx()
            id = run_in(tx, database.text(START), this.params, database.schema)[0][0]
        return cast("Handle[R_co]", self.started(Handle, this, id, tx))

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


class AsyncFunction(Face, Generic[P, R_co]):
    """A registered function as `async def` code calls it. Calls take their place when they are made."""

    is_async = True

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
            if self.definition.compensate is not None:
                placed = self.placed(call)
                return awaited_by(lambda: arun_compensated(call, placed), frame, self.name)
            return awaited(self.runtime, self.flow(call), frame, self.name)

        def start(self, *args, **kwargs):
            """Starts it in the background and returns its handle; with a key: once."""
            tx = self.ambient_tx()
            if tx is not None:
                return self._astart_in(tx, args, kwargs)
            frame = current.get()
            if isinstance(frame, WorkflowFrame):
                this = self.start_of(args, kwargs)
                return self._astart(this, *self.start_flow(this))
            return self._astart_outside(args, kwargs)

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

    async def _astart(self, this: Start, flow: Flow[UUID], own_async: None, place: DurableCall | None) -> Any:
        return self.started(AsyncHandle, this, await self.runtime.adrive(flow, own_async, place), None)

    async def _astart_outside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await self.runtime.database.async_pool()  # connects off the loop, before the id is made
        this = self.start_of(args, kwargs)
        return await self._astart(this, start(this), None, None)

    async def _astart_in(self, tx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        this = self.start_of(args, kwargs, own_id=False)
        database = await asyncio.to_thread(self.runtime.database_for_tx)
        rows = await arun_in(tx, database.text(START), this.params, database.schema)
        return self.started(AsyncHandle, this, rows[0][0], tx)


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

    def send(self, topic: str, value: object, /) -> Handle[R_co]:
        """Starts it unless its key is there, and sends it a message: one commit. Give it a key, or it always starts.

        Raises:
            WorkflowFinished: The one that holds the key has ended. Nothing was started or sent.

        Example:
            >>> cart.options(key="cart-1").bind("ann").send("add", "sku-7")     # doctest: +SKIP
        """
        function, message = self.function, message_of(topic, value)
        check_blocking("call.send()", "await call.send() of an AsyncCall, f.aio.bind(...)")
        tx = function.ambient_tx()
        this = function.start_of(self.args, self.kwargs, own_id=tx is None)
        if tx is None:
            id = function.runtime.drive(function.start_and_send_flow(this, message))
        else:
            database = function.runtime.database_for_tx()
            id = run_in(tx, database.text(START_AND_SEND), (*this.params, *message), database.schema)[0][0]
        return cast("Handle[R_co]", function.started(Handle, this, id, tx))


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

    async def send(self, topic: str, value: object, /) -> AsyncHandle[R_co]:
        """Starts it unless its key is there, and sends it a message: one commit; see `Call.send`."""
        function, message = self.function, message_of(topic, value)
        tx = function.ambient_tx()
        if tx is None:
            if not isinstance(current.get(), WorkflowFrame):
                await function.runtime.database.async_pool()  # connects off the loop, before the id is made
            this = function.start_of(self.args, self.kwargs)
            id = await function.runtime.adrive(function.start_and_send_flow(this, message))
        else:
            this = function.start_of(self.args, self.kwargs, own_id=False)
            database = await asyncio.to_thread(function.runtime.database_for_tx)
            params = (*this.params, *message)
            id = (await arun_in(tx, database.text(START_AND_SEND), params, database.schema))[0][0]
        return cast("AsyncHandle[R_co]", function.started(AsyncHandle, this, id, tx))


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
