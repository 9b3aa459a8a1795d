"""The decorators: from a function to a registered definition, and the object that behaves as that function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, Self, TypeVar, final, overload

from dbdurable._core.names import check_name, default_name
from dbdurable._core.retry import as_retry, duration_s
from dbdurable._core.whole import whole_number
from dbdurable._executor.definition import Definition, caller_locals, takes_self
from dbdurable._executor.runtime import Runtime
from dbdurable._executor.undo import check_compensation
from dbdurable._io.source import ISOLATION_LEVELS, row_factory_of
from dbdurable.definitions import (
    AsyncFunction,
    AsyncStep,
    AsyncTransaction,
    AsyncWorkflow,
    Function,
    Step,
    Transaction,
    Workflow,
)
from dbdurable.errors import BadArgument, BadConfiguration
from dbdurable.types import AsyncTx, Duration, Queue, Retry, SyncTx

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
X = TypeVar("X", bound=SyncTx)
AX = TypeVar("AX", bound=AsyncTx)

__all__ = ["Compensated", "Decorator", "StepDecorator", "TransactionDecorator", "WorkflowDecorator"]


@final
class _OnlyAny:
    """`-> Any` matches this overload first; else pyright takes the function for a coroutine function."""


class WorkflowDecorator(Protocol):
    """`@durable.workflow` and `@durable.workflow(...)`."""

    @overload
    def __call__(self, fn: Callable[P, _OnlyAny], /) -> Workflow[P, Any]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Workflow[P, R]: ...
    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | Queue | None = None,
        timeout: Duration | None = None,
        max_attempts: int = 20,
    ) -> Self: ...


class StepDecorator(Protocol):
    """`@durable.step` and `@durable.step(...)`."""

    @overload
    def __call__(self, fn: Callable[P, _OnlyAny], /) -> Step[P, Any]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def __call__(
        self, /, *, name: str | None = None, retry: Retry | int | None = None, timeout: Duration | None = None
    ) -> Self: ...
    @overload
    def __call__(
        self,
        /,
        *,
        compensate: Callable[Concatenate[R, P], object],
        name: str | None = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
    ) -> Compensated[P, R]: ...


class Compensated(Protocol[P, R]):
    """`@durable.step(compensate=undo)`: `undo(result, *arguments)` runs when the body fails or is cancelled."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...


class TransactionDecorator(Protocol):
    """`@durable.transaction` and `@durable.transaction(...)`."""

    @overload
    def __call__(self, fn: Callable[Concatenate[AX, P], Coroutine[Any, Any, R]], /) -> AsyncTransaction[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[S, AX, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTransaction[Concatenate[S, P], R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[X, P], R], /) -> Transaction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[S, X, P], R], /) -> Transaction[Concatenate[S, P], R]: ...
    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        isolation: Literal["read committed", "repeatable read", "serializable"] | None = None,
        row_factory: Any = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
    ) -> Self: ...


_FACES: dict[tuple[str, bool], type[Function[Any, Any]] | type[AsyncFunction[Any, Any]]] = {
    ("workflow", False): Workflow,
    ("workflow", True): AsyncWorkflow,
    ("step", False): Step,
    ("step", True): AsyncStep,
    ("transaction", False): Transaction,
    ("transaction", True): AsyncTransaction,
}

ATTEMPTS_MAX = 10_000

_ALLOWED = {
    "workflow": {"name", "queue", "timeout", "max_attempts"},
    "step": {"name", "retry", "timeout", "compensate"},
    "transaction": {"name", "retry", "timeout", "isolation", "row_factory"},
}


class Decorator:
    """What `durable.workflow`, `.step` and `.transaction` are: with options, a copy that carries them."""

    def __init__(self, runtime: Runtime, kind: str, options: dict[str, Any]) -> None:
        self._runtime = runtime
        self._kind = kind
        self._options = options

    def __call__(self, fn: Any = None, /, **options: Any) -> Any:
        """Decorates, or takes options. Raises BadConfiguration, or TypeError where it is no function for it."""
        if fn is None:
            unknown = set(options) - _ALLOWED[self._kind]
            if unknown:
                raise BadConfiguration(
                    f"@durable.{self._kind} has no option {', '.join(sorted(unknown))}; "
                    f"it takes {', '.join(sorted(_ALLOWED[self._kind]))}"
                )
            return Decorator(self._runtime, self._kind, {**self._options, **options})
        if options:
            raise BadConfiguration(f"write @durable.{self._kind}({', '.join(options)}=...) above the function")
        return self._decorate(fn)

    def _decorate(self, fn: Any) -> Any:
        _check_function(fn, self._kind)
        options, is_async = self._options, inspect.iscoroutinefunction(inspect.unwrap(fn))
        given = options.get("name")
        name = check_name(given, self._kind, error=BadConfiguration) if given is not None else default_name(fn)
        queue = options.get("queue")
        definition = Definition(
            name=name,
            kind=self._kind,
            fn=fn,
            is_async=is_async,
            method=takes_self(fn),
            retry=as_retry(options.get("retry")),
            timeout_s=None if options.get("timeout") is None else duration_s(options["timeout"], "timeout="),
            queue=None if queue is None else check_name(getattr(queue, "name", queue), "queue"),
            max_attempts=whole_number(
                options.get("max_attempts", 20), "max_attempts=", 1, ATTEMPTS_MAX, error=BadConfiguration
            ),
            isolation=_check_isolation(options.get("isolation")),
            row_factory=options.get("row_factory"),
            compensate=options.get("compensate"),
            localns=caller_locals(3),
        )
        if self._kind == "transaction":
            _check_transaction(definition)
        if definition.compensate is not None:
            _check_compensate(definition)
        self._runtime.registry.add(definition)
        return _FACES[self._kind, is_async](self._runtime, definition, {}, None, None)


def _check_function(fn: Any, kind: str) -> None:
    if isinstance(fn, (staticmethod, classmethod)):
        raise TypeError(f"swap the decorators: @durable.{kind} goes below @{type(fn).__name__}, or use a function")
    if isinstance(fn, (Function, AsyncFunction)):
        raise TypeError(f"{fn.name} is decorated already, as {fn.definition.kind}; decorate it once")
    if not callable(fn) or not hasattr(inspect.unwrap(fn), "__code__"):
        raise TypeError(f"@durable.{kind} decorates functions, not {type(fn).__name__}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"{fn.__qualname__} is a generator: return a list, or make each item a step")


def _check_compensate(definition: Definition) -> None:
    try:
        check_compensation(definition, definition.compensate)
    except BadArgument as error:
        raise BadConfiguration(
            f"step {definition.name}: compensate= takes a function of its result and its arguments: {error}"
        ) from None


def _check_isolation(value: object) -> str | None:
    if value is not None and value not in ISOLATION_LEVELS:
        raise BadConfiguration(f"isolation= takes one of {', '.join(ISOLATION_LEVELS)}, not {value!r}")
    return value


def _check_transaction(definition: Definition) -> None:
    """The first parameter has to be a connection of the function's own colour."""
    parameters = list(inspect.signature(definition.fn).parameters.values())
    index = int(definition.method)
    if len(parameters) <= index or parameters[index].annotation is inspect.Parameter.empty:
        raise TypeError(
            f"transaction {definition.name} needs a first parameter for the connection, with its type: "
            f"`def {definition.fn.__name__}(tx: psycopg.Connection, ...)`"
        )
    try:
        annotation = definition.handle_annotation
    except BadConfiguration:
        return  # not resolvable yet; looked at again at first use
    commit = getattr(annotation, "commit", None) or getattr(getattr(annotation, "__origin__", None), "commit", None)
    if commit is None:
        raise TypeError(
            f"transaction {definition.name}: its first parameter is a {getattr(annotation, '__name__', annotation)}, "
            "which is no connection or session; write `tx: psycopg.Connection` (or AsyncConnection, Session, ...)"
        )
    if inspect.iscoroutinefunction(commit) is not definition.is_async:
        wanted = "an async connection or session" if definition.is_async else "a sync connection or session"
        raise TypeError(
            f"transaction {definition.name} is `{'async ' if definition.is_async else ''}def` and needs {wanted}, "
            f"not {getattr(annotation, '__name__', annotation)}"
        )
    if definition.row_factory is None and hasattr(annotation, "__args__"):
        object.__setattr__(definition, "row_factory", row_factory_of(annotation))
