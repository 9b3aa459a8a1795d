"""The loads of `dbdurable bench`, each repeated for its share of the time."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, Self
from uuid import uuid4

import psycopg
from psycopg import Connection, sql

from dbdurable import __about__
from dbdurable.durable import Durable

__all__ = ["Bench", "Figure", "Load"]

STEPS, JOBS = 10, 200


@dataclass(frozen=True)
class Figure:
    """One result."""

    name: str
    what: str
    value: float
    unit: str
    note: str = ""

    @property
    def shown(self) -> str:
        """For people."""
        number = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return f"{number} {self.unit}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"value": round(self.value, 4), "unit": self.unit, "what": self.what}


@dataclass(frozen=True)
class Load:
    """`run` gets the time that it has, and says the value."""

    name: str
    what: str
    unit: str
    run: Callable[[float], float]
    note: str = ""


class Bench:
    """An application of its own in a schema of its own; leaving drops both."""

    def __init__(self, url: str | None, threads: int, tasks: int) -> None:
        self._schema = f"dbdurable_bench_{uuid4().hex[:8]}"
        self._durable = Durable(url, schema=self._schema)
        self._threads, self._tasks = threads, tasks
        self._stack = ExitStack()
        many = f"{threads} at once"
        self.all = [
            Load("round_trip", "round trip", "ms", self._round_trip, "select 1"),
            Load("commit", "commit of one row", "ms", self._commit, "round trip included"),
            Load("transaction", "transactional steps, one at a time", "/s", self._transactions(1), "1 commit each"),
            Load("transactions", f"transactional steps, {many}", "/s", self._transactions(threads)),
            Load("steps", f"outside steps, {many}", "/s", self._steps),
            Load("steps_async", f"outside steps, async, {tasks} at once", "/s", self._steps_async, "shared commits"),
            Load("enqueue", "starts, one by one", "/s", self._enqueue, "1 commit each"),
            Load("jobs", "jobs of a queue, start to end", "/s", self._jobs, "started in bulk, no-op workflows"),
            Load("latency", "idle queue, start to result, median", "ms", self._latency),
        ]

    def __enter__(self) -> Self:
        self._define()
        try:
            runtime = self._durable._runtime
            self._stack.callback(self._drop)
            runtime.database.prepare()
            self._connection = self._stack.enter_context(psycopg.connect(self._durable.url, autocommit=True))
            self._connection.execute(sql.SQL("create table {}.app (n int)").format(sql.Identifier(self._schema)))
            self._executor = self._stack.enter_context(self._durable.executor(threads=self._threads, tasks=self._tasks))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _drop(self) -> None:
        database = self._durable._runtime.database
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(self._schema)))
        self._durable.close()

    def measure(self, load: Load, seconds: float) -> Figure:
        """One load for about that long."""
        return Figure(load.name, load.what, load.run(seconds), load.unit, load.note)

    def about(self) -> dict[str, str]:
        """What was measured: machine, versions, and the settings that matter most."""
        row = self._connection.execute(
            "select current_setting('server_version'), current_setting('synchronous_commit'), current_setting('fsync')"
        ).fetchone()
        assert row is not None
        return {
            "PostgreSQL": row[0],
            "synchronous_commit": row[1],
            "fsync": row[2],
            "dbdurable": __about__.__version__,
            "Python": platform.python_version(),
            "processors here": str(os.cpu_count()),
            "system": sys.platform,
        }

    def _define(self) -> None:
        durable = self._durable
        insert = sql.SQL("insert into {}.app (n) values (%s)").format(sql.Identifier(self._schema))

        @durable.transaction(name="write")
        def write(tx: Connection[Any], n: int) -> int:
            tx.execute(insert, [n])
            return n

        @durable.step(name="call")
        def call(n: int) -> int:
            return n

        @durable.step(name="acall")
        async def acall(n: int) -> int:
            return n

        @durable.workflow(name="writes")
        def writes(n: int) -> int:
            return sum(write(n) for _ in range(STEPS))

        @durable.workflow(name="calls")
        def calls(n: int) -> int:
            return sum(call(n) for _ in range(STEPS))

        @durable.workflow(name="acalls")
        async def acalls(n: int) -> int:
            total = 0
            for _ in range(STEPS):
                total += await acall(n)
            return total

        @durable.workflow(name="nothing")
        def nothing(n: int) -> int:
            return n

        self._writes, self._calls, self._acalls, self._nothing = writes, calls, acalls, nothing

    # -- the loads -------------------------------------------------------------------------------------

    def _round_trip(self, seconds: float) -> float:
        return self._median_ms(lambda: self._connection.execute("select 1"), min(seconds, 2.0))

    def _commit(self, seconds: float) -> float:
        insert = sql.SQL("insert into {}.app (n) values (1)").format(sql.Identifier(self._schema))
        return self._median_ms(lambda: self._connection.execute(insert), min(seconds, 2.0))

    def _transactions(self, lanes: int) -> Callable[[float], float]:
        return lambda seconds: STEPS * self._on_threads(lanes, seconds, lambda: self._writes(1))

    def _steps(self, seconds: float) -> float:
        return STEPS * self._on_threads(self._threads, seconds, lambda: self._calls(1))

    def _steps_async(self, seconds: float) -> float:
        async def work() -> int:
            end, done = time.monotonic() + seconds, 0

            async def lane() -> None:
                nonlocal done
                while time.monotonic() < end:
                    await self._acalls(1)
                    done += 1

            await asyncio.gather(*(lane() for _ in range(self._tasks)))
            return done

        begun = time.monotonic()
        done = asyncio.run_coroutine_threadsafe(work(), self._executor.loop).result()
        return STEPS * done / (time.monotonic() - begun)

    def _enqueue(self, seconds: float) -> float:
        start = self._nothing.options(delay=86_400).start
        return self._on_threads(1, seconds, lambda: start(1))

    def _jobs(self, seconds: float) -> float:
        begun, done = time.monotonic(), 0
        while not done or time.monotonic() - begun < seconds:
            self._durable.client.start_many(self._nothing.bind(1) for _ in range(JOBS))
            self._executor.wait_idle()
            done += JOBS
        return done / (time.monotonic() - begun)

    def _latency(self, seconds: float) -> float:
        return self._median_ms(lambda: self._nothing.start(1).result(), seconds)

    def _median_ms(self, one: Callable[[], object], seconds: float) -> float:
        one()
        took: list[float] = []
        end = time.monotonic() + seconds
        while not took or time.monotonic() < end:
            begun = time.perf_counter()
            one()
            took.append(time.perf_counter() - begun)
        return 1000 * median(took)

    def _on_threads(self, lanes: int, seconds: float, one: Callable[[], object]) -> float:
        """How many a second."""
        one()
        counts, errors, begun = [0] * lanes, list[BaseException](), time.monotonic()

        def work(lane: int) -> None:
            try:
                while time.monotonic() - begun < seconds and not errors:
                    one()
                    counts[lane] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return sum(counts) / (time.monotonic() - begun)
