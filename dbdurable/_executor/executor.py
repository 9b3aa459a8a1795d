"""An executor: this process claims workflows and runs them, until it is closed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from dbdurable import __about__
from dbdurable._core.names import check_name
from dbdurable._core.retry import duration_s
from dbdurable._core.whole import whole_number
from dbdurable._executor.attempts import Attempts
from dbdurable._executor.branches import number_tasks
from dbdurable._executor.control import Control
from dbdurable._executor.examine import examine
from dbdurable._executor.heartbeat import Heartbeat
from dbdurable._executor.listen import Listener
from dbdurable._executor.runtime import boottime, check_blocking, run_in_thread
from dbdurable._io.drive import SyncDriver
from dbdurable._io.threads import DaemonThreads
from dbdurable._protocol.lease import Lease
from dbdurable._protocol.start import resend
from dbdurable._sql import executor as sql
from dbdurable.errors import BadConfiguration, NonDeterministic, WaitTimeout
from dbdurable.types import Duration, Queue

if TYPE_CHECKING:
    from dbdurable._executor.definition import Definition
    from dbdurable._executor.runtime import Runtime

logger = logging.getLogger("dbdurable")

CLOSE_TIMEOUT_S = 30.0
IDLE_LOOK_S = 0.05
SLOTS_MAX = 10_000
BRANCH_THREADS_MAX = 10_000
"""Made on demand: a body holds its own thread while it waits for its branches, so these must not run out."""


class Executor:
    """Claims and runs workflows; made by `Durable.executor()`, used as `with` or `async with`.

    With `async with`, `async def` bodies run on the caller's loop, where the application's clients and
    pools live; with `with`, on a loop of the executor's own. `def` bodies run on threads. Leaving the
    block stops claiming, lets running workflows end (or hands them back at their next step) and does not
    wait for what is queued: that is `wait_idle()`.

    Raises:
        DatabaseUnavailable: The database cannot be reached, or is read-only.
        SchemaMismatch: Its tables are older or newer than this package.
        BadConfiguration: Nothing is registered, or another executor of this Durable is open.
        NonDeterministic: A body calls what a replay would not repeat, and DBDURABLE_DETERMINISM is `raise`.
    """

    def __init__(self, runtime: Runtime, queues: Collection[str | Queue] | None, threads: int, tasks: int) -> None:
        self.runtime = runtime
        self.threads = whole_number(threads, "threads=", 0, SLOTS_MAX, error=BadConfiguration)
        self.tasks = whole_number(tasks, "tasks=", 0, SLOTS_MAX, error=BadConfiguration)
        if isinstance(queues, str):
            raise BadConfiguration(f"queues= takes a list of names or queues: queues=[{queues!r:.100}]")
        self._queues = None if queues is None else sorted({check_name(getattr(q, "name", q), "queue") for q in queues})
        self.stopping = threading.Event()
        self._lent_loop: asyncio.AbstractEventLoop | None = None
        self._guest: asyncio.Task[None] | None = None
        self._open = False

    # -- lifecycle -------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Registers this process and begins to claim."""
        check_blocking("executor.open()", "async with durable.executor():")
        return self._begin()

    async def aopen(self) -> Self:
        """The same on a running loop, which then runs the `async def` bodies."""
        self._lent_loop = asyncio.get_running_loop()
        await run_in_thread(None, self._begin)
        self._guest = asyncio.create_task(self._until_the_loop_ends(), name="dbdurable-guest")
        return self

    async def _until_the_loop_ends(self) -> None:
        """A lent loop that ends cancels its tasks: then nothing may be claimed any more that it would have to run."""
        try:
            await asyncio.Event().wait()
        finally:
            self.control.retire()

    def close(self, timeout: Duration | None = None) -> None:
        """Stops claiming; running workflows get `timeout` (30 s) to end, then are handed back at their next step."""
        check_blocking("executor.close()", "await executor.aclose()")
        self._end(timeout)

    async def aclose(self, timeout: Duration | None = None) -> None:
        """The same on a running loop."""
        await run_in_thread(None, lambda: self._end(timeout))
        if self._guest is not None:
            self._guest.cancel()
        await self.runtime.database.aclose()

    def wait_idle(self, timeout: Duration | None = None) -> None:
        """Waits until nothing that it could run is queued or running: for scripts and tests.

        Raises:
            WaitTimeout: Something is left after `timeout`.
        """
        check_blocking("executor.wait_idle()", "await executor.await_idle()")
        limit_s = None if timeout is None else duration_s(timeout, "timeout=")
        end = None if limit_s is None else boottime() + limit_s
        while not self._is_idle():
            if end is not None and boottime() > end:
                raise WaitTimeout(f"workflows are still queued or running after {limit_s:g} s")
            self.stopping.wait(IDLE_LOOK_S)

    async def await_idle(self, timeout: Duration | None = None) -> None:
        """The same on a running loop."""
        await run_in_thread(None, lambda: self.wait_idle(timeout))

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await self.aopen()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # -- what the rest of the house asks ---------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs `async def` bodies."""
        return self._loop

    def hint(self) -> None:
        """Something may be claimable now."""
        self.control.hint()

    def offer(self, name: str, queue: str | None) -> bool:
        """A workflow has been queued: looks at once if it could run here. False: others have to be told of it.

        Nobody is told while all slots are taken: the last claim was full, and there would be no end of telling.
        """
        known = self.definitions.get(name)
        if known is None or (queue or known.queue or "default") not in self.queues:
            return False
        self.hint()  # without a free slot the look costs nothing, and makes the next one that is freed look again
        return True

    def hint_cancel(self) -> None:
        """Something that runs here may have been cancelled."""
        self.heartbeat.hint()

    # -- inside ----------------------------------------------------------------------------------------

    def _begin(self) -> Self:
        runtime = self.runtime
        if self._open or runtime.executor is not None:
            raise BadConfiguration("an executor of this Durable is open already; one process needs only one")
        runtime.include()
        self._version = runtime.registry.version
        definitions = runtime.registry.runnable()
        if not definitions:
            raise BadConfiguration(
                "no workflow, step or transaction is registered: import the modules that define them, or name "
                'them with Durable(include=["shop.flows"])'
            )
        for definition in definitions:
            _ = definition.arguments, definition.result  # annotations that cannot be stored fail here
        examine(definitions, runtime.settings.determinism)
        self._take(definitions)
        database = runtime.database
        database.connections_max = max(database.connections_max, self.threads + 8)
        database.prepare()
        self.stopping.clear()
        self.step_threads = DaemonThreads(max(1, self.tasks), "dbdurable-step")
        self.branch_threads = DaemonThreads(BRANCH_THREADS_MAX, "dbdurable-branch")
        self.body_threads = DaemonThreads(max(1, self.threads), "dbdurable-workflow")
        # For ends of attempts that cannot go on with others, each in its turn.
        self.end_threads = DaemonThreads(max(1, 2 * self.threads), "dbdurable-end")
        self.attempts = Attempts(self)
        self.lease = self.register()
        self._start_loop()
        self._open = True
        runtime.executor = self
        self.heartbeat = Heartbeat(self)
        self.control = Control(self)
        self.listener = Listener(self)
        self.heartbeat.start()
        self.control.start()
        self.listener.start()
        return self

    def _take(self, definitions: list[Definition]) -> None:
        self.definitions = {definition.name: definition for definition in definitions}
        declared = self.runtime.registry.queues
        self.queues = self._queues or sorted({"default", *declared, *(d.queue for d in definitions if d.queue)})

    def learn(self, driver: SyncDriver) -> None:
        """Takes up what was decorated since: a notebook's next cell, a module that was imported late."""
        registry = self.runtime.registry
        if registry.version == self._version:
            return
        version, usable = registry.version, []
        for definition in registry.runnable():
            try:
                _ = definition.arguments, definition.result
                if definition not in self.definitions.values():
                    examine([definition], self.runtime.settings.determinism)
            except (BadConfiguration, NonDeterministic) as error:
                logger.error("%s %s cannot run here: %s", definition.kind, definition.name, error)
            else:
                usable.append(definition)
        self._take(usable)
        self._define(driver)
        driver.run(resend(sql.KNOWS, self.lease.executor_id, sorted(self.definitions), self.queues))
        self._version = version

    def _define(self, driver: SyncDriver) -> None:
        known = list(self.definitions.values())
        driver.run(
            resend(
                sql.DEFINE,
                [d.name for d in known],
                [d.queue or "default" for d in known],
                [d.max_attempts for d in known],
                [d.timeout_s if d.kind == "workflow" else None for d in known],
            )
        )
        declared = self.runtime.registry.queues
        settings = [json.dumps(declared[queue], sort_keys=True) if queue in declared else None for queue in self.queues]
        driver.run(resend(sql.DECLARE_QUEUE, self.queues, settings))
        driver.run(resend(sql.UNBLOCK, sorted(self.definitions), self.runtime.settings.code_version))

    def register(self) -> Lease:
        """A new identity: a row in `executor`, and what a start by name needs to know."""
        runtime = self.runtime
        driver = SyncDriver(runtime.database)
        self._define(driver)
        lease = Lease(uuid4(), runtime.settings.lease_ttl_s, boottime)
        driver.run(
            resend(
                sql.REGISTER,
                lease.executor_id,
                lease.ttl_s,
                sorted(self.definitions),
                self.queues,
                socket.gethostname(),
                os.getpid(),
                __about__.__version__,
            )
        )
        return lease

    def _start_loop(self) -> None:
        self._loop_thread: threading.Thread | None = None
        if self._lent_loop is not None:
            self._loop = self._lent_loop
        else:
            self._loop = asyncio.new_event_loop()
            self._loop_thread = threading.Thread(target=self._loop.run_forever, name="dbdurable-loop", daemon=True)
            self._loop_thread.start()
        self._stop_numbering = number_tasks(self._loop)
        self._lifespan = AsyncExitStack()
        if self.runtime.configuration.lifespan is not None and self._loop_thread is not None:
            asyncio.run_coroutine_threadsafe(self._enter_lifespan(), self._loop).result()

    async def _enter_lifespan(self) -> None:
        assert self.runtime.configuration.lifespan is not None
        manager = self.runtime.configuration.lifespan()
        if isinstance(manager, AbstractAsyncContextManager):
            await self._lifespan.enter_async_context(manager)
        else:
            self._lifespan.enter_context(manager)

    def _end(self, timeout: Duration | None) -> None:
        if not self._open or self.runtime.executor is not self:
            return  # a forked child leaves the block, too: the executor is its parent's
        limit_s = None if timeout is None else duration_s(timeout, "timeout=")
        self.listener.stop()
        self.control.stop()
        if not self.attempts.wait_empty(CLOSE_TIMEOUT_S if limit_s is None else limit_s):
            self.lease.closing = True
            self.stopping.set()
            self.attempts.wait_empty(5.0)
        left = self.attempts.names()
        if left:
            logger.warning("closed while still in user code: %s; another process takes over", ", ".join(left))
        self.stopping.set()
        self.heartbeat.stop()
        self.lease.lose()
        self._open = False
        self.runtime.executor = None
        if self.lease.closing:
            self.runtime.notifier.requeued(*self.queues)
        self.body_threads.shutdown()
        self.end_threads.shutdown()
        self.step_threads.shutdown()
        self.branch_threads.shutdown()
        self._stop_numbering()
        if self._loop_thread is not None:
            asyncio.run_coroutine_threadsafe(self._end_loop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop_thread.join()
            self._loop.close()

    async def _end_loop(self) -> None:
        await self._lifespan.aclose()
        await self.runtime.database.aclose()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    def _is_idle(self) -> bool:
        rows = SyncDriver(self.runtime.database).run(
            resend(sql.IDLE, self.queues, [d.name for d in self.runtime.registry.runnable()])
        )
        return bool(rows[0][0])
