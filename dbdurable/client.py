"""Clients: start and watch workflows without their code, from any service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar, overload
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.names import check_name
from dbdurable._core.show import shown
from dbdurable._executor.definition import RemoteDefinition
from dbdurable._executor.runtime import Configuration, Runtime, check_blocking
from dbdurable._executor.starts import workflow_id
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.start import resend
from dbdurable._sql import workflow as sql
from dbdurable.definitions import AsyncFunction, Function
from dbdurable.errors import BadArgument
from dbdurable.handle import AsyncHandle, Handle, workflow_info
from dbdurable.types import Retry, Status, WorkflowInfo

T = TypeVar("T")

__all__ = ["AsyncClient", "Client"]

LIMIT_MAX = 10_000


class _Client:
    """What both colours share."""

    def __init__(self, url: str | None = None, *, schema: str | None = None) -> None:
        # A client is often a guest: it checks the tables and leaves making them to their owner.
        self.runtime = Runtime(Configuration(url=url, schema=schema, migrate=False))

    @classmethod
    def of(cls, runtime: Runtime) -> Self:
        """A client of an application's own runtime."""
        client = cls.__new__(cls)
        client.runtime = runtime
        return client

    def remote(self, face: type[Any], name: str, returns: Any) -> Any:
        """A workflow by name."""
        check_name(name, "workflow")
        definition = RemoteDefinition(
            name=name, kind="workflow", fn=_no_code, is_async=False, method=False, retry=Retry(1), returns=returns
        )
        _ = definition.result  # a type that cannot be read back fails here
        return face(self.runtime, definition, {}, None, None)

    def handle_of(self, face: type[Any], id: UUID | str) -> Any:
        """A handle by id."""
        return face(self.runtime, workflow_id(id), "workflow", ValueCodec.for_annotation(Any, "the result"))

    def list_flow(self, name: str | None, status: Status | None, limit: int) -> Flow[list[WorkflowInfo]]:
        """The newest workflows."""
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIMIT_MAX:
            raise BadArgument(f"limit= takes a whole number from 1 to {LIMIT_MAX}, not {limit!r}")
        if status is not None and status not in list(Status):
            raise BadArgument(f"status= takes one of {', '.join(Status)}, not {shown(status)}")
        if name is not None:
            check_name(name, "workflow")
        rows = yield from resend(sql.LIST, name, Status(status).value if status else None, limit)
        return [workflow_info(row) for row in rows]


def _no_code(*args: Any, **kwargs: Any) -> Any:
    """Known by name only."""
    raise NotImplementedError


class Client(_Client):
    """Starts and watches workflows without their code. Connects at first use, once per process.

    Example:
        >>> client = Client("postgresql://localhost/shop")              # doctest: +SKIP
        >>> client.workflow("checkout", returns=str).start(order_id=46)  # doctest: +SKIP
    """

    @property
    def aio(self) -> AsyncClient:
        """The same client for `async def` code."""
        return AsyncClient.of(self.runtime)

    @overload
    def workflow(self, name: str, *, returns: type[T]) -> Function[..., T]: ...
    @overload
    def workflow(self, name: str) -> Function[..., Any]: ...
    def workflow(self, name: str, *, returns: Any = Any) -> Any:
        """A workflow by name; then `.options(...).start(...)` as with its code."""
        return self.remote(Function, name, returns)

    def handle(self, id: UUID | str) -> Handle[Any]:
        """A handle to a workflow by its id; no I/O."""
        found: Handle[Any] = self.handle_of(Handle, id)
        return found

    def workflows(
        self, *, name: str | None = None, status: Status | None = None, limit: int = 100
    ) -> Sequence[WorkflowInfo]:
        """The newest workflows, at most `limit` (up to 10,000)."""
        check_blocking("client.workflows()", "await client.aio.workflows()")
        return self.runtime.drive(self.list_flow(name, status, limit))

    def close(self) -> None:
        """Closes its connections."""
        self.runtime.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient(_Client):
    """The same for `async def` code."""

    @property
    def sync(self) -> Client:
        """The same client for `def` code."""
        return Client.of(self.runtime)

    @overload
    def workflow(self, name: str, *, returns: type[T]) -> AsyncFunction[..., T]: ...
    @overload
    def workflow(self, name: str) -> AsyncFunction[..., Any]: ...
    def workflow(self, name: str, *, returns: Any = Any) -> Any:
        """A workflow by name; then `.options(...).start(...)` as with its code."""
        return self.remote(AsyncFunction, name, returns)

    def handle(self, id: UUID | str) -> AsyncHandle[Any]:
        """A handle to a workflow by its id; no I/O."""
        found: AsyncHandle[Any] = self.handle_of(AsyncHandle, id)
        return found

    async def workflows(
        self, *, name: str | None = None, status: Status | None = None, limit: int = 100
    ) -> Sequence[WorkflowInfo]:
        """The newest workflows, at most `limit` (up to 10,000)."""
        return await self.runtime.adrive(self.list_flow(name, status, limit))

    async def aclose(self) -> None:
        """Closes its connections on this loop."""
        await self.runtime.database.aclose()
        self.runtime.database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
