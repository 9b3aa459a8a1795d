"""The connections that transactions are handed: inside a step they refuse to end its transaction.

A step's writes and its record commit together or not at all, so COMMIT is the library's. Nested
`connection.transaction()` blocks are savepoints and stay allowed.
"""

from __future__ import annotations

import select
from collections.abc import Generator
from datetime import datetime
from typing import Any, NoReturn

import psycopg
from psycopg.abc import RV, PQGen

from dbdurable._io.opening import Opening, opened
from dbdurable._io.seam import Seam
from dbdurable.errors import NotInTransaction


def refuse(call: str, step: str, savepoint: str = "connection.transaction()") -> NoReturn:
    """Raises for a call that would end the transaction of a step; `savepoint` is what to use instead."""
    raise NotInTransaction(
        f"{call}() inside transaction {step}: its writes have to commit together with its record, so the "
        "library commits when the function returns. Remove the call; to undo a part, use "
        f"`with {savepoint}:`; to undo everything, raise."
    )


class Session:
    """What is known of the session behind a connection; mixed into psycopg's two classes."""

    step: str | None = None
    seam: Seam | None = None
    opening: Opening | None = None
    """The transaction that the next statement opens."""
    begins: Opening = ()
    """What opens transactions on this session: BEGIN, and what it takes to know them again."""
    mark: int | None = None
    """The executor whose mark the session carries (`Lease.mark`), as far as is known."""
    torn: bool = False
    """Whether a statement has committed what a step had open."""
    opener: object = None
    """The exchange that sends it along with its own; in front of all others it gets one by itself."""
    backend: tuple[int, datetime] | None = None
    """The server's process and its start; None behind a pooler, where the next statement may meet another one."""
    prepared: set[str] | None = None
    """The statements that it has been taught; None: it gets their text each time."""
    expires_at: float = 0.0
    idle_since: float = 0.0
    watch: select.poll | None = None
    """Tells whether the server has said something while nobody asked."""
    _pool: Any = None

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        # psycopg sends DEALLOCATE ALL after a ROLLBACK, DROP or ALTER: our own statements go with it.
        if name is None and self.prepared:
            self.prepared.clear()
        return super()._deallocate(name)  # type: ignore[misc, no-any-return]  # psycopg's, behind us


class StepConnection(Session, psycopg.Connection[Any]):
    """A psycopg connection that knows whether a step's transaction is open on it."""

    def commit(self) -> None:
        """Commits, outside of steps."""
        if self.step is not None:
            refuse("commit", self.step)
        super().commit()

    def rollback(self) -> None:
        """Rolls back, outside of steps."""
        if self.step is not None:
            refuse("rollback", self.step)
        super().rollback()

    def close(self) -> None:
        """Closes, outside of steps."""
        if self.step is not None:
            refuse("close", self.step)
        super().close()

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Cancels what runs. The request may reach the server late: nobody else is to meet it on this session."""
        self.expires_at = 0.0
        super().cancel_safe(timeout=timeout)

    def wait(self, gen: Generator[Any, Any, RV], *args: Any, **kwargs: Any) -> RV:
        """Every exchange of a sync connection passes here: where a seam numbers the user's statements."""
        if self.opening is not None and gen is not self.opener:
            super().wait(opened(self))
        if self.seam is None or self.step is None:
            return super().wait(gen, *args, **kwargs)
        self.seam.reached(f"before a statement of {self.step}", self)
        answer = super().wait(gen, *args, **kwargs)
        self.seam.reached(f"after a statement of {self.step}", self)
        return answer


class AsyncStepConnection(Session, psycopg.AsyncConnection[Any]):
    """The same for `async def`."""

    async def commit(self) -> None:
        """Commits, outside of steps."""
        if self.step is not None:
            refuse("commit", self.step)
        await super().commit()

    async def rollback(self) -> None:
        """Rolls back, outside of steps."""
        if self.step is not None:
            refuse("rollback", self.step)
        await super().rollback()

    async def close(self) -> None:
        """Closes, outside of steps."""
        if self.step is not None:
            refuse("close", self.step)
        await super().close()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Cancels what runs; this session is not lent again."""
        self.expires_at = 0.0
        await super().cancel_safe(timeout=timeout)

    async def wait(self, gen: Generator[Any, Any, RV], *args: Any, **kwargs: Any) -> RV:
        """Every exchange of an async connection passes here."""
        if self.opening is not None and gen is not self.opener:
            await super().wait(opened(self))
        if self.seam is None or self.step is None:
            return await super().wait(gen, *args, **kwargs)
        self.seam.reached(f"before a statement of {self.step}", self)
        answer = await super().wait(gen, *args, **kwargs)
        self.seam.reached(f"after a statement of {self.step}", self)
        return answer
