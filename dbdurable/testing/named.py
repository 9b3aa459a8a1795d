"""Which applications a plain function is about: those whose functions, or whose `Durable`, it names."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from dbdurable._executor.face import Face
from dbdurable._executor.runtime import Runtime
from dbdurable.definitions import AsyncCall, Call
from dbdurable.durable import Durable

__all__ = ["applications", "is_coroutine_function"]


def applications(call: Callable[..., Any]) -> list[Runtime]:
    """Each once: found in the function's globals, closure and arguments, and in the functions that it calls."""
    found: dict[int, Runtime] = {}
    seen: set[int] = set()
    left: list[Any] = [call]
    while left:
        here = left.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, Durable):
            found[id(here._runtime)] = here._runtime
        elif isinstance(here, Face):
            found[id(here.runtime)] = here.runtime
        elif isinstance(here, Call | AsyncCall):
            found[id(here.function.runtime)] = here.function.runtime
        else:
            left += _named_by(here)
    return list(found.values())


def is_coroutine_function(call: Any) -> bool:
    """Whether calling it gives something to await."""
    while isinstance(call, functools.partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def _named_by(here: Any) -> Iterator[Any]:
    if isinstance(here, functools.partial):
        yield from (here.func, *here.args, *here.keywords.values())
    elif isinstance(here, MethodType):
        yield from (here.__func__, here.__self__)
    elif isinstance(here, FunctionType):
        if not _is_ours(here):
            return
        if hasattr(here, "__wrapped__"):
            yield here.__wrapped__
        yield from _globals_of(here.__code__, here.__globals__)
        for cell in here.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
    elif not isinstance(here, type | ModuleType) and _is_ours(type(here)):
        yield from getattr(here, "__dict__", {}).values()  # an object with workflows in it
        yield getattr(type(here), "__call__", None)  # noqa: B004  (the function, whatever it may do)


def _is_ours(made: type | FunctionType) -> bool:
    """Whether it is the application's, as far as can be told: neither Python's nor the library's."""
    return (made.__module__ or "").partition(".")[0] not in (*sys.stdlib_module_names, "dbdurable")


def _globals_of(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    for name in code.co_names:
        if name in names:
            named = names[name]
            if isinstance(named, ModuleType):  # shop.checkout
                yield from (vars(named)[inner] for inner in code.co_names if inner in vars(named))
            else:
                yield named
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a lambda or a function inside of it
            yield from _globals_of(constant, names)
