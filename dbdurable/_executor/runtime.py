"""What one `Durable` is made of: configuration, registry, database, and the executor that is open, if any."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from dbdurable._core.clock import Passed
from dbdurable._core.control import Lost
from dbdurable._executor.definition import Definition
from dbdurable._executor.registry import Registry, in_notebook
from dbdurable._executor.waiters import Waiters
from dbdurable._io.connect import Whereabouts
from dbdurable._io.database import Database
from dbdurable._io.drive import SyncDriver
from dbdurable._io.drive_async import AsyncDriver
from dbdurable._io.rest import run_elsewhere
from dbdurable._io.source import PsycopgSource, Source
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Effect, Flow
from dbdurable._protocol.frame import WorkflowFrame, current
from dbdurable.errors import BadConfiguration, Cancelled, NotRunning, WrongColour
from dbdurable.settings import Settings, load_settings

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor
    from dbdurable._executor.notify import Notifier

R = TypeVar("R")

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


@dataclass
class Configuration:
    """What `Durable(...)` and `configure(...)` say; None where they say nothing."""

    url: str | None = None
    schema: str | None = None
    migrate: bool | None = None
    include: Sequence[str] = ()
    sources: Sequence[Source] = ()
    lifespan: Callable[[], AbstractContextManager[object] | AbstractAsyncContextManager[object]] | None = None
    around: Callable[[], AbstractContextManager[object]] | None = None


@dataclass
class Runtime:
    """One application. Reads settings and opens connections at first use, never before."""

    configuration: Configuration = field(default_factory=Configuration)
    registry: Registry = field(default_factory=Registry)

    def __post_init__(self) -> None:
        self._settings: Settings | None = None
        self._database: Database | None = None
        self._executor: Executor | None = None
        self._executor_pid = 0
        self._sources: dict[Definition, Source] = {}
        self._lock = threading.Lock()
        self.waiters = Waiters()
        self.passed = Passed()
        self._notifier: Notifier | None = None

    # -- configuration ---------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings, read once at first use."""
        if self._settings is None:
            said = self.configuration
            overrides: dict[str, Any] = {}
            if said.schema is not None:
                overrides["schema"] = said.schema
            if said.migrate is not None:
                overrides["migrate"] = said.migrate
            self._settings = load_settings(said.url, **overrides)
        return self._settings

    @property
    def in_use(self) -> bool:
        """Whether an executor is open here; configuration must not change under it."""
        return self.executor is not None

    def configure(self, changes: dict[str, Any]) -> None:
        """Replaces parts of the configuration. Raises BadConfiguration while in use, or for an unknown part."""
        if self.in_use:
            raise BadConfiguration("configure() while an executor is open: close it first")
        for name, value in changes.items():
            if not hasattr(self.configuration, name):
                raise BadConfiguration(f"configure() has no option {name!r}")
            setattr(self.configuration, name, value)
        self._sources.clear()
        if self._database is not None:
            self.close()
            self._database = None
        self._settings = None

    def include(self) -> None:
        """Imports the modules that register the application's functions."""
        for module in self.configuration.include:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                    raise  # one that the module itself wants
                raise BadConfiguration(f"include=[{module!r}]: {error}; is its directory on sys.path?") from None

    # -- database --------------------------------------------------------------------------------------

    @property
    def database(self) -> Database:
        """The way to the database; connects at its own first use."""
        if self._database is None:
            with self._lock:
                if self._database is None:
                    settings = self.settings
                    self._database = Database(
                        Whereabouts(settings),
                        settings.schema_name,
                        auto_migrate=settings.migrate,
                        prepare=settings.prepare,
                    )
        return self._database

    def database_for_tx(self) -> Database:
        """The database for a start in the caller's transaction: its tables are made at first use, too.

        Unless no URL is set: a program that only ever passes `tx=` must not start an embedded server by it.
        """
        database = self.database
        if self.has_url:
            database.prepare()
        return database

    @property
    def has_url(self) -> bool:
        """Whether the settings name a database; else its first use starts the embedded server."""
        return self.settings.url is not None

    @property
    def notifier(self) -> Notifier:
        """Tells executors of work that is there."""
        if self._notifier is None:
            from dbdurable._executor.notify import Notifier

            with self._lock:
                if self._notifier is None:
                    self._notifier = Notifier(self)
        return self._notifier

    def source_for(self, definition: Definition) -> Source:
        """The source that fills a transaction's first parameter."""
        found = self._sources.get(definition)
        if found is not None:
            return found
        annotation = definition.handle_annotation
        for source in (*self.configuration.sources, _PSYCOPG):
            if source.accepts(annotation):
                self._sources[definition] = source
                return source
        raise BadConfiguration(
            f"transaction {definition.name}: no source makes a {getattr(annotation, '__name__', annotation)}; "
            "add one, for example `Durable(sources=[SQLAlchemy(sessionmaker)])` from dbdurable.ext.sqlalchemy"
        )

    def close(self) -> None:
        """Closes its connections; the next use opens others."""
        if self._notifier is not None:
            self._notifier.close()
        self.database.close()

    # -- executor --------------------------------------------------------------------------------------

    @property
    def executor(self) -> Executor | None:
        """The executor that is open in this process."""
        return self._executor if self._executor_pid == os.getpid() else None

    @executor.setter
    def executor(self, executor: Executor | None) -> None:
        self._executor, self._executor_pid = executor, os.getpid()

    def require_executor(self, definition: Definition) -> Executor:
        """The open executor; raises NotRunning with what to write when there is none."""
        found = self.executor
        if found is not None:
            return found
        name = definition.name
        if self._executor is not None:
            raise NotRunning(
                f"{name}() was called in a forked child, and executors do not survive a fork: open "
                f"`with durable.executor():` in the child, or write `{name}.start(...)`"
            )
        raise NotRunning(
            f"{name}() runs here and now, but no executor is open in this process: wrap the call in "
            f"`with durable.executor():`, or write `{name}.start(...)` and let a worker run it. (Started with "
            "`python -m`? Then the module exists twice, with two Durables: import it instead.)"
        )

    # -- colour: a protocol runs wholly in one, and crosses once, here ---------------------------------

    def drive(self, flow: Flow[R], own_async: bool | None = None, this: DurableCall | None = None) -> R:
        """Runs a protocol for a caller in `def` code.

        `own_async`: the colour of user code in it, if any. `this`: the call of a workflow's body whose outcome
        it is; beside parallel branches it is returned in its turn.
        """
        if this is None:
            return self._drive(flow, own_async)
        turns = this.frame.turns
        try:
            if turns is None or not turns.parallel:
                value = self._drive(flow, own_async)
            else:
                own = None if turns.recorded(this) is not None else own_async
                value = turns.run(this, lambda: self._drive(flow, own), self._drive)
        except (Exception, Cancelled):
            this.seen()
            raise
        this.seen()
        return value

    def _drive(self, flow: Flow[R], own_async: bool | None = None) -> R:
        if own_async:
            loop = self._user_loop()
            return _taken(asyncio.run_coroutine_threadsafe(_carried(self._adriver().run(flow)), loop).result())
        return self._driver().run(flow)

    async def adrive(self, flow: Flow[R], own_async: bool | None = None, this: DurableCall | None = None) -> R:
        """Runs a protocol for a caller in `async def` code."""
        frame = current.get()
        watch = frame.watch if isinstance(frame, WorkflowFrame) else None
        if watch is None:
            return await self._adrive_in_turn(flow, own_async, this)
        watch.begin()
        try:
            return await self._adrive_in_turn(flow, own_async, this)
        finally:
            watch.end()

    async def _adrive_in_turn(self, flow: Flow[R], own_async: bool | None, this: DurableCall | None) -> R:
        if this is None:
            return await self._adrive(flow, own_async)
        turns = this.frame.turns
        try:
            if turns is None or not turns.parallel:
                value = await self._adrive(flow, own_async)
            else:
                own = None if turns.recorded(this) is not None else own_async
                value = await turns.run(this, lambda: self._adrive(flow, own), self._adrive)
        except (Exception, Cancelled):
            this.seen()
            raise
        this.seen()
        return value

    async def _adrive(self, flow: Flow[R], own_async: bool | None = None) -> R:
        if own_async is False:
            executor, driver = self.executor, self._driver()
            pool = executor.step_threads if executor is not None else None
            return await run_elsewhere(flow, lambda asked: run_in_thread(pool, lambda: driver.run(flow, asked=asked)))
        if own_async and (loop := self._user_loop()) is not asyncio.get_running_loop():
            return await run_elsewhere(flow, partial(self._run_on, loop, self._adriver(rests=False), flow))
        return await self._adriver().run(flow)

    async def _run_on(
        self, loop: asyncio.AbstractEventLoop, driver: AsyncDriver, flow: Flow[R], asked: Effect | None
    ) -> R:
        future = asyncio.run_coroutine_threadsafe(_carried(driver.run(flow, asked=asked)), loop)
        return _taken(await asyncio.wrap_future(future))

    def _driver(self) -> SyncDriver:
        executor = self.executor
        return SyncDriver(self.database, executor.stopping if executor else None)

    def _adriver(self, rests: bool = True) -> AsyncDriver:
        executor = self.executor
        return AsyncDriver(self.database, executor.stopping if executor else None, rests=rests)

    def _user_loop(self) -> asyncio.AbstractEventLoop:
        executor = self.executor
        if executor is None:
            raise NotRunning("an `async def` body needs an executor's loop: open `with durable.executor():`")
        return executor.loop


async def _carried(work: Coroutine[Any, Any, R]) -> tuple[R | None, asyncio.CancelledError | None]:
    """Futures tell of a cancellation without its class and reason: the library's own are carried as values."""
    try:
        return await work, None
    except (Cancelled, Lost) as stop:
        return None, stop


def _taken(carried: tuple[R | None, asyncio.CancelledError | None]) -> R:
    value, stop = carried
    if stop is not None:
        raise stop
    return cast(R, value)


_PSYCOPG = PsycopgSource()


def runtime_of(frame: WorkflowFrame) -> Runtime:
    """The application that runs the attempt; the protocol does not know what it is."""
    return cast(Runtime, frame.runtime)


def check_blocking(name: str, write: str) -> None:
    """Raises WrongColour for a blocking call on a running event loop, except on a notebook's own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if in_notebook():
        return
    raise WrongColour(f"{name} blocks, and this thread runs an event loop: write `{write}`")


async def run_in_thread(pool: Any, function: Callable[[], R]) -> R:
    """Runs `function` on a thread in a copy of this context."""
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(pool, lambda: context.run(function))


def boottime() -> float:
    """Seconds that also count while the machine sleeps, where the system can tell."""
    return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.monotonic()
