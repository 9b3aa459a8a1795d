"""What tests of an application's workflows need: a fresh database, an executor, mocks, failures, crashes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg

from dbdurable._core.clock import Passed
from dbdurable._executor.definition import Definition
from dbdurable._io.migrate import migrate
from dbdurable.definitions import AsyncFunction, Function
from dbdurable.errors import BadArgument

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor
    from dbdurable.durable import Durable
    from dbdurable.testing.databases import Databases

R = TypeVar("R")

__all__ = ["Harness"]


class Harness:
    """One test's database and what it does to an application; everything is undone when the test ends.

    pytest's fixture `durable_harness` makes it.

    Example:
        >>> def test_checkout(durable_harness):     # doctest: +SKIP
        ...     durable_harness.mock(charge, returns="r-1")
        ...     with durable_harness.run(durable):
        ...         assert checkout(42) == "r-1"
    """

    url: str
    """The test's database, with the library's tables: make your own there before `run`."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._undo: list[tuple[Definition, Any]] = []
        self._executors: list[Executor] = []
        self._passed = Passed()

    def __enter__(self) -> Self:
        self._name = self._databases.migrated()
        self.url = self._databases.url(self._name)
        return self

    def __exit__(self, *exc: object) -> None:
        for definition, fn in reversed(self._undo):
            object.__setattr__(definition, "fn", fn)
        self._databases.drop(self._name)

    @contextmanager
    def run(self, durable: Durable, *, threads: int = 4) -> Iterator[Executor]:
        """An open executor of the application on the test's database; its own configuration comes back at the end.

        Work that is left in the queues at the end is left there: `executor.wait_idle()` waits for it.

        Raises:
            BadConfiguration: An executor of the application is open already.
        """
        with _configured(durable, self.url):
            executor = durable.executor(threads=threads)
            executor.runtime.passed = self._passed
            executor._begin()  # not open(): in an `async def` test it may block the test's loop for this moment
            self._executors.append(executor)
            try:
                yield executor
            finally:
                self._executors.remove(executor)
                executor._end(None)
                executor.runtime.passed = Passed()

    def advance(self, *, days: float = 0, hours: float = 0, seconds: float = 0) -> None:
        """Lets so much time pass for everything that waits: timers that come due have fired when it returns.

        It goes from one due time to the next, and at each of them waits until nothing more happens by itself. So
        what began to wait on the way is due in its turn: `advance(days=90)` sees a workflow through three sleeps
        of 30 days. Sleeps, timeouts, deadlines, delayed starts, `expires=`, `dbdurable.now()` and steps that are to be
        tried again more than a second later know of it; the times in the journal, shorter pauses between attempts and
        rate limits go by the real clock.

        Raises:
            NotRunning: No executor of `run` is open.
            BadArgument: Negative, NaN or more than a hundred years.
            WaitTimeout: Something runs for longer than half a minute by the real clock; the message names it.

        Example:
            >>> def test_reminder(durable_harness):     # doctest: +SKIP
            ...     with durable_harness.run(durable):
            ...         handle = approval.start()
            ...         durable_harness.advance(days=3)
            ...         assert handle.status() == "waiting"
        """
        from dbdurable.testing.clock import advance, amount_s

        advance(self._executors, self._passed, amount_s(days, hours, seconds))

    def mock(self, step: Function[..., R] | AsyncFunction[..., R], *, returns: R) -> None:
        """From now on the step, transaction or workflow does nothing and returns this; it is recorded as always."""
        is_async = _definition(step).is_async

        def mocked(*args: Any, **kwargs: Any) -> Any:
            return _awaitable(returns) if is_async else returns

        self._replace(step, mocked)

    def fail(self, step: Function[..., Any] | AsyncFunction[..., Any], error: Exception, *, times: int = 1) -> None:
        """The next `times` calls raise `error` instead; each attempt of a retried step is a call."""
        fn, numbers = _definition(step).fn, itertools.count(1)

        def failing(*args: Any, **kwargs: Any) -> Any:
            if next(numbers) <= times:
                raise error
            return fn(*args, **kwargs)

        self._replace(step, failing)

    def crash_everywhere(self, call: Callable[[], object], *, compare: Sequence[str]) -> None:
        """Runs the call once for each point at which a process can die, kills it there, and compares what is left.

        A first run lists the points: before and after every statement, commit and step. Then, for each of them,
        a process on a copy of the test's database is killed there; a second process takes over, and calls again
        under the same key. The outcome, the journal and the tables in `compare` must be those of the first run.
        A name in `compare` is a table; a `select` leaves out what may differ, such as a serial number.

        `call` is a workflow's `bind(...)`, or a function that calls workflows, `def` or `async def`. A bound workflow
        without a key gets one, so that the second process comes back to what the first one began. A function is
        called as it is, once by each process: give what it starts keys, and write nothing else in it that must not
        happen twice, or what it does twice will be found. What it returns is compared by its `repr`.

        Runs for seconds to minutes, on Unix.

        Raises:
            AssertionError: Something differs; the message names the point and the difference.
            BadArgument: `call` is a step, or a function that names no workflow (then nobody knows which application
                it is about), or an executor is open, or somebody is connected to `url`.

        Example:
            >>> def shopping() -> str:                      # doctest: +SKIP
            ...     handle = checkout.options(key="order-42").start(42)
            ...     return ship.options(key="order-42")(handle.result())
            >>> durable_harness.crash_everywhere(shopping, compare=["stock"])   # doctest: +SKIP
        """
        from dbdurable.testing.everywhere import crash_everywhere

        if self._executors:
            raise BadArgument(
                "crash_everywhere() opens executors of its own: call it before or after `harness.run(...)`"
            )
        crash_everywhere(self._databases, self._name, call, compare)

    def _replace(self, step: Any, fn: Callable[..., Any]) -> None:
        definition = _definition(step)
        self._undo.append((definition, definition.fn))
        object.__setattr__(definition, "fn", functools.wraps(definition.fn)(_coloured(fn, definition.is_async)))


def _definition(step: Any) -> Definition:
    definition = getattr(step, "definition", None)
    if not isinstance(definition, Definition):
        raise BadArgument(f"mock() and fail() take a decorated function, not {step!r:.100}")
    return definition


def _coloured(fn: Callable[..., Any], is_async: bool) -> Callable[..., Any]:
    if not is_async:
        return fn

    async def coloured(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return coloured


async def _awaitable(value: R) -> R:
    return value


@contextmanager
def _configured(durable: Durable, url: str) -> Iterator[None]:
    """The application on that database, its tables included, for a while."""
    runtime = durable._runtime
    before = replace(runtime.configuration)
    runtime.configure({"url": url})
    try:
        schema = runtime.settings.schema_name
        if schema != "dbdurable":
            with psycopg.connect(url, autocommit=True) as connection:
                migrate(connection, schema)
        yield
    finally:
        runtime.database.close()
        runtime.configure(vars(before))
