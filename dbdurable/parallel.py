"""Branches: several calls at once, each on a line of its own in the journal, whatever finishes first."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeAlias, TypeVar, overload

from dbdurable._core.codec import UNTYPED
from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._core.tally import Tally
from dbdurable._core.whole import whole_number
from dbdurable._executor import task_branches, thread_branches
from dbdurable._executor.calls import place_of, require_own_thread
from dbdurable._executor.runtime import check_blocking, runtime_of
from dbdurable._executor.where import body_frame
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.wait import sleep
from dbdurable.definitions import AsyncCall, AsyncFunction, Call
from dbdurable.errors import BadArgument, WaitTimeout, WrongColour
from dbdurable.types import Batch, Completion, Duration

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")

Branch: TypeAlias = Callable[[], T]
AsyncBranch: TypeAlias = Awaitable[T] | Callable[[], Awaitable[T]]

WIDTH_MAX = 1000
"""Most branches of a `def` body at a time: each has a thread."""

__all__ = ["afan_out", "agather", "arace", "fan_out", "gather", "race"]


@overload
def gather(a: Branch[A], b: Branch[B], /) -> tuple[A, B]: ...
@overload
def gather(a: Branch[A], b: Branch[B], c: Branch[C], /) -> tuple[A, B, C]: ...
@overload
def gather(a: Branch[A], b: Branch[B], c: Branch[C], d: Branch[D], /) -> tuple[A, B, C, D]: ...
@overload
def gather(*calls: Branch[T]) -> tuple[T, ...]: ...
def gather(*calls: Callable[[], Any]) -> tuple[Any, ...]:
    """Makes the calls side by side, each on a thread, and returns what they return, in their order.

    A call is `step.bind(x)`, or a function without arguments, which may make several calls itself. When one
    fails, the others come to their end first; then the first failure by position is raised.

    Raises:
        NotInWorkflow: It was called outside of a workflow's body.
        BadArgument: Something is no call, or there are more than 1,000: `fan_out` takes any number.

    Example:
        >>> stock, price = gather(look_up_stock.bind(item), look_up_price.bind(item))     # doctest: +SKIP
    """
    frame = _sync_body("gather")
    return tuple(thread_branches.gather(frame, _calls("gather", calls)))


def race(*calls: Branch[T], timeout: Duration | None = None) -> tuple[int, T]:
    """Makes the calls side by side and answers with the first that ends: its position, and its value.

    Which one is first is what the journal says, live and on replay. If the first one failed, its error is
    raised. The others are not needed any more: each is left at its next durable call, where its `finally`
    blocks run; a step that is under way runs on, as a thread cannot be stopped, and a transaction that is
    under way does not commit.

    Raises:
        WaitTimeout: None of them ended within `timeout`.
        NotInWorkflow: It was called outside of a workflow's body.

    Example:
        >>> index, answer = race(ask.bind("a.example"), ask.bind("b.example"), timeout=10)     # doctest: +SKIP
    """
    frame = _sync_body("race")
    branches = _calls("race", calls)
    if not branches:
        raise BadArgument("race() takes at least one call")
    if timeout is not None:
        branches.append(partial(_wait, frame, duration_s(timeout, "timeout=")))
    index, value = thread_branches.race(frame, branches)
    return _won(index, value, calls, timeout)


@overload
def fan_out(fn: Callable[[T], R], items: Iterable[T], /, *, max_concurrency: int = 16) -> list[R]: ...
@overload
def fan_out(
    fn: Callable[[T], R], items: Iterable[T], /, *, max_concurrency: int = 16, completion: Completion
) -> Batch[R]: ...
def fan_out(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    /,
    *,
    max_concurrency: int = 16,
    completion: Completion | None = None,
) -> Any:
    """Calls `fn` for every item, `max_concurrency` at a time, and returns the results in the order of the items.

    `fn` is a step, a transaction, a workflow, or a function that calls some. When an item fails, no other
    begins; those under way end, and the first failure by position is raised. With `completion=` some may
    fail, or not all are needed: then the answer is a `Batch`, which has both.

    Raises:
        NotInWorkflow: It was called outside of a workflow's body.
        BadArgument: An argument cannot be used; nothing was begun.

    Example:
        >>> sizes = fan_out(make_thumbnail, images, max_concurrency=8)     # doctest: +SKIP
        >>> batch = fan_out(send_mail, people, completion=Completion(tolerated_failure_percent=5))     # doctest: +SKIP
    """
    frame = _sync_body("fan_out")
    if isinstance(fn, AsyncFunction):
        raise WrongColour(f"fan_out in `def` code takes a `def` function: write `fan_out({fn.name}.sync, items)`")
    todo, tally = _items(fn, items, completion)
    thread_branches.fan_out(frame, fn, todo, tally, _width(max_concurrency, WIDTH_MAX))
    return tally.values() if completion is None else tally.batch()


# ---- the same for `async def` code: dbdurable.aio ------------------------------------------------------------


@overload
async def agather(a: AsyncBranch[A], b: AsyncBranch[B], /) -> tuple[A, B]: ...
@overload
async def agather(a: AsyncBranch[A], b: AsyncBranch[B], c: AsyncBranch[C], /) -> tuple[A, B, C]: ...
@overload
async def agather(
    a: AsyncBranch[A], b: AsyncBranch[B], c: AsyncBranch[C], d: AsyncBranch[D], /
) -> tuple[A, B, C, D]: ...
@overload
async def agather(*calls: AsyncBranch[T]) -> tuple[T, ...]: ...
async def agather(*calls: AsyncBranch[Any]) -> tuple[Any, ...]:
    """The same for `async def` code; `dbdurable.aio.gather`.

    A call is `step.bind(x)`, an `async def` function without arguments, or something to await. Unlike
    `asyncio.gather` it waits for all when one fails.
    """
    frame = _async_body("gather")
    return tuple(await task_branches.gather(frame, _acalls("gather", calls)))


async def arace(*calls: AsyncBranch[T], timeout: Duration | None = None) -> tuple[int, T]:
    """The same for `async def` code; `dbdurable.aio.race`. The others are cancelled, and have ended when it returns."""
    frame = _async_body("race")
    branches = _acalls("race", calls)
    if not branches:
        raise BadArgument("race() takes at least one call")
    if timeout is not None:
        branches.append(partial(_await, frame, duration_s(timeout, "timeout=")))
    index, value = await task_branches.race(frame, branches)
    return _won(index, value, calls, timeout)


@overload
async def afan_out(fn: Callable[[T], Awaitable[R]], items: Iterable[T], /, *, max_concurrency: int = 16) -> list[R]: ...
@overload
async def afan_out(
    fn: Callable[[T], Awaitable[R]], items: Iterable[T], /, *, max_concurrency: int = 16, completion: Completion
) -> Batch[R]: ...
async def afan_out(
    fn: Callable[[Any], Awaitable[Any]],
    items: Iterable[Any],
    /,
    *,
    max_concurrency: int = 16,
    completion: Completion | None = None,
) -> Any:
    """The same for `async def` code; `dbdurable.aio.fan_out`."""
    frame = _async_body("fan_out")
    todo, tally = _items(fn, items, completion)
    await task_branches.fan_out(frame, fn, todo, tally, _width(max_concurrency, 10 * WIDTH_MAX))
    return tally.values() if completion is None else tally.batch()


# ---- what both share -----------------------------------------------------------------------------------------


def _body(call: str, instead: str) -> WorkflowFrame:
    return body_frame(
        f"{call}(...)",
        inside=f": there it would record nothing. Call it from the workflow, or use {instead}",
        outside=f": nothing would be recorded. Decorate the caller with @durable.workflow, or use {instead}",
    )


def _sync_body(call: str) -> WorkflowFrame:
    frame = _body(call, "a concurrent.futures.ThreadPoolExecutor")
    check_blocking(f"{call}(...)", f"await aio.{call}(...)")
    require_own_thread(frame, f"{call}(...)")
    return frame


def _async_body(call: str) -> WorkflowFrame:
    frame = _body(f"aio.{call}", "asyncio's own")
    if not frame.is_async:
        raise WrongColour(f"aio.{call}(...) needs an `async def` workflow: in {frame.name} write `{call}(...)`")
    return frame


def _calls(what: str, calls: tuple[Callable[[], Any], ...]) -> list[Callable[[], Any]]:
    if len(calls) > WIDTH_MAX:
        raise BadArgument(f"{what}() of {len(calls)} calls would take as many threads: write `fan_out(fn, items)`")
    for position, call in enumerate(calls):
        where = f"{what}(): argument {position + 1}"
        if isinstance(call, AsyncCall | AsyncFunction) or inspect.iscoroutinefunction(call):
            raise BadArgument(f"{where} is asynchronous, and this is `def` code: write `{_name(call)}.sync.bind(...)`")
        if inspect.isawaitable(call):
            call.close() if isinstance(call, Coroutine) else None  # or Python says that it was never awaited
            raise BadArgument(f"{where} is asynchronous, and this is `def` code: write `await aio.{what}(...)` there")
        _check_callable(where, call)
    return list(calls)


def _acalls(what: str, calls: tuple[AsyncBranch[Any], ...]) -> list[AsyncBranch[Any]]:
    for position, call in enumerate(calls):
        if inspect.isawaitable(call):
            continue
        where = f"aio.{what}(): argument {position + 1}"
        if isinstance(call, Call):
            _close(calls)
            raise BadArgument(f"{where} is a call of `def` code: write `{_name(call)}.aio.bind(...)`")
        try:
            _check_callable(where, call)
        except BadArgument:
            _close(calls)
            raise
    return list(calls)


def _close(calls: tuple[Any, ...]) -> None:
    """Calls that were made and are refused with the others: never awaited, and nobody's mistake."""
    for call in calls:
        if isinstance(call, Coroutine):
            call.close()


def _name(call: Any) -> str:
    named = getattr(call, "function", call)
    return str(getattr(named, "__name__", "f"))


def _check_callable(where: str, call: Any) -> None:
    if inspect.isgenerator(call):
        raise BadArgument(f"{where} is a generator: pass its calls one by one, `gather(*calls)`")
    if not callable(call):
        raise BadArgument(
            f"{where} is no call but {shown(call)}, what one returned, it seems: write `step.bind(x)` instead of "
            "`step(x)`, or pass a function without arguments"
        )
    if isinstance(call, Call | AsyncCall):
        return
    try:
        inspect.signature(call).bind()
    except TypeError as error:
        raise BadArgument(f"{where}, {_name(call)}, is called without arguments ({error}): bind them first") from None
    except ValueError:
        pass  # a builtin that does not tell


def _items(fn: Any, items: Iterable[Any], completion: Completion | None) -> tuple[list[Any], Tally[Any]]:
    if not callable(fn):
        raise BadArgument(f"fan_out() takes a function first, not {shown(fn)}: `fan_out(fn, items)`")
    if isinstance(fn, Call | AsyncCall):
        raise BadArgument(f"fan_out() passes each item itself: write `fan_out({_name(fn)}, items)` without bind")
    if completion is not None and not isinstance(completion, Completion):
        raise BadArgument(f"fan_out(completion=...) takes a Completion, not {shown(completion)}")
    try:
        todo = list(items)
    except TypeError:
        raise BadArgument(f"fan_out() takes items to go through second, not {shown(items)}") from None
    return todo, Tally(len(todo), completion)


def _width(value: int, most: int) -> int:
    return whole_number(value, "fan_out(max_concurrency=...)", 1, most)


def _won(index: int, value: Any, calls: tuple[Any, ...], timeout: Duration | None) -> tuple[int, Any]:
    if index == len(calls):
        assert timeout is not None
        timeout_s = duration_s(timeout, "timeout=")
        raise WaitTimeout(f"none of the {len(calls)} calls of race() ended within {timeout_s:g} s")
    return index, value


def _wait(frame: WorkflowFrame, timeout_s: float) -> None:
    this = place_of(frame, "timeout", "sleep", UNTYPED, timeout_s)
    runtime_of(frame).drive(sleep(this, timeout_s), None, this)


async def _await(frame: WorkflowFrame, timeout_s: float) -> None:
    this = place_of(frame, "timeout", "sleep", UNTYPED, timeout_s)
    await runtime_of(frame).adrive(sleep(this, timeout_s), None, this)
