"""`Durable`: the decorators, the registry and the configuration of one application."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypedDict, TypeVar, Unpack, cast

from dbdurable._core.names import check_name, check_schema
from dbdurable._core.queues import queue_settings
from dbdurable._executor.executor import Executor
from dbdurable._executor.runtime import Configuration, Runtime
from dbdurable._io.source import Source
from dbdurable.client import Client
from dbdurable.decorators import Decorator, StepDecorator, TransactionDecorator, WorkflowDecorator
from dbdurable.errors import BadConfiguration
from dbdurable.types import Queue, Rate

T = TypeVar("T")

__all__ = ["Config", "Durable"]


class Config(TypedDict, total=False):
    """What `Durable(...)` and `configure(...)` take besides the URL."""

    schema: str
    migrate: bool
    include: Sequence[str]
    sources: Sequence[Source]
    lifespan: Callable[[], AbstractContextManager[object] | AbstractAsyncContextManager[object]]
    around: Callable[[], AbstractContextManager[object]]


class Durable:
    """One application: its workflows, steps and transactions, and its database.

    Making it opens and reads nothing. The database is `url`, else DBDURABLE_DATABASE_URL, else DATABASE_URL,
    else an embedded PostgreSQL (with the extra `embedded`; one WARNING line says where).

    `schema` names the schema of the tables (one schema is one application); `migrate=False` leaves making
    them to `dbdurable migrate`; `include` names modules to import when an executor opens; `sources` fill the
    first parameter of transactions (`dbdurable.ext.sqlalchemy`); `lifespan` surrounds an executor with an
    event loop of its own; `around` surrounds each workflow's body.

    Example:
        >>> durable = Durable()
        >>> @durable.step
        ... def greet(name: str) -> str:
        ...     return f"Hello, {name}"
        >>> greet.fn("Ann")
        'Hello, Ann'
    """

    def __init__(self, url: str | None = None, **config: Unpack[Config]) -> None:
        self._runtime = Runtime(Configuration(url=url))
        if config:
            self._configure(dict(config))
        self.workflow = cast(WorkflowDecorator, Decorator(self._runtime, "workflow", {}))
        self.step = cast(StepDecorator, Decorator(self._runtime, "step", {}))
        self.transaction = cast(TransactionDecorator, Decorator(self._runtime, "transaction", {}))

    def configure(self, url: str | None = None, **config: Unpack[Config]) -> None:
        """The same, later: for application factories and tests.

        Raises:
            BadConfiguration: An executor is open, or there is no such option.
        """
        changes: dict[str, Any] = dict(config)
        if url is not None:
            changes["url"] = url
        self._configure(changes)

    def _configure(self, changes: dict[str, Any]) -> None:
        if changes.get("schema") is not None:
            check_schema(changes["schema"])
        _check_config(changes)
        self._runtime.configure(changes)

    @property
    def url(self) -> str:
        """Where the database is, as psycopg takes it; starts the embedded server when nothing else is set."""
        return self._runtime.database.url

    @property
    def client(self) -> Client:
        """A client of this application's database: handles by id, lists, starts by name."""
        return Client.of(self._runtime)

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        worker_concurrency: int | None = None,
        per_partition: int | None = None,
        rate: Rate | None = None,
        rate_per_partition: Rate | None = None,
        max_depth: int | None = None,
    ) -> Queue:
        """Declares a queue and its limits; it goes wherever a queue's name goes.

        `concurrency`: how many of its workflows run at once, everywhere; `worker_concurrency`: in one process;
        `per_partition`: of one `partition=` (1: one after the other, in the order they were started);
        `rate`, `rate_per_partition`: how many may begin; `max_depth`: how many may be ready before a start raises
        QueueFull. A workflow that waits (sleep, recv) takes nothing of them. Executors write them down when they
        open, if the code says something else than last time: what is changed at run time (`client.set_queue`,
        `dbdurable queues set`, SQL) stays until then.

        Raises:
            BadArgument: A limit that cannot be used.
            BadConfiguration: The queue was declared before with other limits.

        Example:
            >>> mails = Durable().queue("mails", concurrency=20, per_partition=1)
        """
        limits = {
            "concurrency": concurrency,
            "worker_concurrency": worker_concurrency,
            "per_partition": per_partition,
            "rate": rate,
            "rate_per_partition": rate_per_partition,
            "max_depth": max_depth,
        }
        queue = Queue(check_name(name, "queue"))
        given = queue_settings({limit: value for limit, value in limits.items() if value is not None})
        self._runtime.registry.add_queue(queue.name, given)
        return queue

    def register(self, instance: T, /, *, name: str | None = None) -> T:
        """Registers an object whose methods are workflows, so that every executor finds it by `name`.

        Its methods are then named `name.method`; without a name, by its class.

        Raises:
            BadConfiguration: It has no decorated methods.
        """
        self._runtime.registry.add_instance(instance, name)
        return instance

    def executor(
        self, *, queues: Collection[str | Queue] | None = None, threads: int = 16, tasks: int = 64
    ) -> Executor:
        """This process claims and runs workflows, while the executor is open: `with durable.executor():`.

        `queues`: only these (all queues that its functions name, when left out); `threads`: how many `def`
        workflows at once; `tasks`: how many `async def` workflows at once.
        """
        return Executor(self._runtime, queues, threads, tasks)

    def close(self) -> None:
        """Closes its connections; it may be used again."""
        if self._runtime.executor is not None:
            self._runtime.executor.close()
        self._runtime.close()


def _check_config(changes: dict[str, Any]) -> None:
    include, sources = changes.get("include", ()), changes.get("sources", ())
    if isinstance(include, str):
        raise BadConfiguration(f'include= takes a list of modules: include=["{include:.100}"]')
    if not isinstance(include, Sequence) or not all(isinstance(module, str) for module in include):
        raise BadConfiguration(f"include= takes a list of modules' names, not {include!r:.100}")
    if not isinstance(sources, Sequence) or not all(hasattr(source, "accepts") for source in sources):
        raise BadConfiguration(f"sources= takes a list of sources, not {sources!r:.100}")
    for name in ("lifespan", "around"):
        if changes.get(name) is not None and not callable(changes[name]):
            raise BadConfiguration(f"{name}= takes a function that makes a context manager, not {changes[name]!r:.100}")
    if not isinstance(changes.get("migrate", True), bool):
        raise BadConfiguration(f"migrate= takes True or False, not {changes['migrate']!r:.100}")
