"""What the library knows of a decorated function: prepared once, at decoration."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dbdurable._core.arguments import ArgumentsCodec, UnresolvedHints, resolve_hints
from dbdurable._core.codec import ValueCodec
from dbdurable.errors import BadArgument
from dbdurable.types import Retry


@dataclass(frozen=True, eq=False)
class Definition:
    """One registered function. `fn` is the user's own, unchanged."""

    name: str
    kind: str
    """'workflow', 'step' or 'transaction'."""
    fn: Callable[..., Any]
    is_async: bool
    method: bool
    retry: Retry
    timeout_s: float | None = None
    queue: str | None = None
    max_attempts: int = 20
    isolation: str | None = None
    row_factory: Any = None
    localns: Mapping[str, Any] | None = None
    compensate: Any = None
    """What undoes it: called with its result and its arguments."""
    instance: Any = None
    """The object of a registered method."""

    @property
    def skip(self) -> int:
        """How many leading parameters the caller does not pass: self, the connection."""
        return int(self.method) + int(self.kind == "transaction")

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations, resolved; raises BadConfiguration where one cannot be."""
        try:
            return resolve_hints(self.fn, self.localns)
        except UnresolvedHints as unresolved:
            raise unresolved.as_bad_configuration() from None

    @functools.cached_property
    def arguments(self) -> ArgumentsCodec:
        """How arguments are bound, stored and read back."""
        return ArgumentsCodec.for_function(self.fn, skip=self.skip, where=f"{self.kind} {self.name}", hints=self.hints)

    @functools.cached_property
    def result(self) -> ValueCodec:
        """How what it returns is stored and read back."""
        return ValueCodec.for_annotation(self.hints.get("return", Any), f"the return value of {self.kind} {self.name}")

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """What a caller passes: without self and the connection."""
        signature = inspect.signature(self.fn)
        parameters = list(signature.parameters.values())[self.skip :]
        return signature.replace(parameters=parameters)

    @property
    def place(self) -> str:
        """Where it is written: 'module.py:12'."""
        code = inspect.unwrap(self.fn).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    @functools.cached_property
    def handle_annotation(self) -> Any:
        """The annotation of a transaction's first parameter."""
        parameters = list(inspect.signature(self.fn).parameters)
        return self.hints.get(parameters[int(self.method)]) if len(parameters) > int(self.method) else None

    def bound_to(self, instance: Any, name: str) -> Definition:
        """The same function as a method of a registered object, under a name of its own."""
        return replace(self, name=name, instance=instance)


@dataclass(frozen=True, eq=False)
class RemoteDefinition(Definition):
    """A workflow known by name only: its code is in another service."""

    returns: Any = Any

    @functools.cached_property
    def arguments(self) -> ArgumentsCodec:
        """Arguments go by name, or all by position: as JSON."""
        return RemoteArguments(self.name)  # type: ignore[return-value]

    @functools.cached_property
    def result(self) -> ValueCodec:
        """Read back as the type that the client named."""
        return ValueCodec.for_annotation(self.returns, f"the result of workflow {self.name}")


class RemoteArguments:
    """Arguments of a workflow whose signature is not known here."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._codec = ValueCodec.for_annotation(Any, f"the arguments of workflow {name}")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """By name, or by position; a mixture cannot be stored."""
        if args and kwargs:
            raise BadArgument(
                f"workflow {self._name} is known by name only: pass its arguments all by name (better), or all "
                "by position"
            )
        return list(args) if args else kwargs

    def encode(self, bound: Any) -> str:
        """As JSON."""
        return self._codec.encode(bound, f"the arguments of workflow {self._name}")


def takes_self(fn: Callable[..., Any]) -> bool:
    """Whether a function is written as a method: its first parameter is `self` and it stands in a class."""
    first = next(iter(inspect.signature(fn).parameters), None)
    return first == "self" and "." in fn.__qualname__.rpartition("<locals>.")[2]


def caller_locals(depth: int) -> Mapping[str, Any] | None:
    """The local names where a decorator is applied: annotations may name classes defined there."""
    frame = sys._getframe(depth)
    return dict(frame.f_locals) if frame.f_locals is not frame.f_globals else None


__all__ = ["Definition", "RemoteDefinition", "caller_locals", "takes_self"]
