"""A call, killed at each of its points and taken over by another process: it must end as if nothing had happened."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from dbdurable._core.show import shown
from dbdurable._executor.executor import Executor
from dbdurable._executor.runtime import Runtime
from dbdurable._sql.testing import EVERY_JOURNAL, EXPIRE_ALL
from dbdurable.definitions import AsyncCall, Call
from dbdurable.errors import BadArgument
from dbdurable.testing.crash import Faults, Point, kill
from dbdurable.testing.named import applications, is_coroutine_function

if TYPE_CHECKING:
    from dbdurable.testing.databases import Databases

KEY = "crash_everywhere"
PATIENCE_S = 60.0
TRIES = 5


@dataclass
class Said:
    """What one process said before its end, and how it ended."""

    outcome: str = "nothing"
    points: list[Point] = field(default_factory=list)
    exitcode: int | None = None


def crash_everywhere(databases: Databases, base: str, call: Any, compare: Sequence[str]) -> None:
    """See `Harness.crash_everywhere`."""
    if isinstance(compare, str):
        raise BadArgument(f"compare= takes a list of tables: compare=[{compare!r:.100}]")
    Trial(databases, base, *_prepared(call), compare).everywhere()


def _prepared(call: Any) -> tuple[Runtime, Callable[[], Any]]:
    """The application that the call is about, and the call; a bound workflow has a key from now on."""
    if isinstance(call, Call | AsyncCall):
        if call.function.definition.kind != "workflow":
            raise BadArgument(
                f"{call.function.name} is a {call.function.definition.kind}: crash_everywhere() takes a workflow, "
                "checkout.bind(42), or a function that calls some"
            )
        function: Any = call.function
        keyed = function.options(key=function.carried.get("key", KEY))
        return function.runtime, type(call)(keyed, call.args, call.kwargs)
    if not callable(call):
        raise BadArgument(f"crash_everywhere() takes something to call, not {shown(call)}")
    found = applications(call)
    if len(found) != 1:
        raise BadArgument(
            f"crash_everywhere() opens an executor of the application whose workflows {shown(call)} calls, and sees "
            f"{len(found) or 'none'} by the names in it: pass a workflow, checkout.bind(42), or a function that names "
            "workflows of one application"
        )
    return found[0], call


class Trial:
    """One call, tried at one point after the other, each on a database of its own."""

    def __init__(
        self, databases: Databases, base: str, runtime: Runtime, call: Callable[[], Any], compare: Sequence[str]
    ) -> None:
        self._databases, self._base, self._compare = databases, base, compare
        self._runtime, self._call = runtime, call
        self._schema = runtime.settings.schema_name

    def everywhere(self) -> None:
        """The golden run, then every point of it."""
        points, golden = self._golden()
        for point in points:
            if not any(self._crash(point, golden) for _ in range(TRIES)):
                raise AssertionError(
                    f"crash at {point}: the point was not reached in {TRIES} runs; they are not the same each time"
                )

    def _crash(self, point: Point, golden: dict[str, Counter[str]]) -> bool:
        """Whether a process was killed there: what is started runs beside its caller, now a bit earlier, now later."""
        name = self._copy()
        try:
            killed = self._process(name, point)
            if killed.exitcode != -signal.SIGKILL:
                return False
            self._sql(name, EXPIRE_ALL.render(self._schema))
            self._check(point, golden, self._traces(name, self._process(name, None)))
            return True
        finally:
            self._databases.drop(name)

    def _golden(self) -> tuple[list[Point], dict[str, Counter[str]]]:
        name = self._copy()
        try:
            said = self._process(name, None)
            if said.exitcode != 0:
                raise AssertionError(f"the run without a crash did not end: {said.outcome}")
            # Services reach their points at any time; what they do for this call, the others have to survive.
            return [p for p in said.points if p.role in ("caller", "workflow")], self._traces(name, said)
        finally:
            self._databases.drop(name)

    def _check(self, point: Point, golden: dict[str, Counter[str]], found: dict[str, Counter[str]]) -> None:
        for what, wanted in golden.items():
            if found[what] != wanted:
                more, less = found[what] - wanted, wanted - found[what]
                raise AssertionError(
                    f"after a crash at {point}, {what} differs: too many {dict(more)}, missing {dict(less)}"
                )

    def _copy(self) -> str:
        try:
            return self._databases.copy(self._base)
        except psycopg.errors.ObjectInUse:
            raise BadArgument(
                "crash_everywhere() copies the test's database: close every connection to harness.url before"
            ) from None

    def _sql(self, name: str, text: Any) -> list[Any]:
        with psycopg.connect(self._databases.url(name), autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    def _traces(self, name: str, said: Said) -> dict[str, Counter[str]]:
        """The outcome, the journal and the rows of each table: as texts, how many of each."""
        journal = EVERY_JOURNAL.render(self._schema)
        found = {"the outcome": Counter([said.outcome]), "the journal": Counter(map(repr, self._sql(name, journal)))}
        for each in self._compare:
            is_query = each.lstrip()[:6].lower() in ("select", "table ")
            query = each if is_query else sql.SQL("select * from {}").format(sql.Identifier(*each.split(".")))
            found[each] = Counter(map(repr, self._sql(name, query)))
        return found

    # -- processes -------------------------------------------------------------------------------------

    def _process(self, name: str, point: Point | None) -> Said:
        """Runs the call in a process of its own, to its end or to the point."""
        context = multiprocessing.get_context("fork")  # the test's functions cannot be pickled
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=self._act, args=(name, point, there), daemon=True)
        process.start()
        there.close()
        said = Said()
        try:
            if here.poll(PATIENCE_S):
                said.outcome, said.points = here.recv()
        except EOFError:
            pass  # killed
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"the process does not end: {said.outcome}")
        said.exitcode = process.exitcode
        return said

    def _act(self, name: str, point: Point | None, pipe: Any) -> None:
        """The process's whole life."""
        os.environ["DBDURABLE_POLL_INTERVAL_S_MAX"] = "0.05"
        self._runtime.configure({"url": self._databases.url(name)})
        faults = Faults(point, kill)
        self._runtime.database.seam = faults
        executor = Executor(self._runtime, None, threads=1, tasks=16)
        is_async = isinstance(self._call, AsyncCall) or is_coroutine_function(self._call)
        outcome = asyncio.run(self._awaited(executor)) if is_async else self._called(executor)
        pipe.send((outcome, faults.points))

    def _called(self, executor: Executor) -> str:
        with executor:
            try:
                outcome = f"returned {self._call()!r}"
            except Exception as error:
                outcome = f"raised {type(error).__name__}: {error}"
            executor.wait_idle(PATIENCE_S)
        return outcome

    async def _awaited(self, executor: Executor) -> str:
        async with executor:
            try:
                outcome = f"returned {await self._call()!r}"
            except Exception as error:
                outcome = f"raised {type(error).__name__}: {error}"
            await executor.await_idle(PATIENCE_S)
        return outcome
