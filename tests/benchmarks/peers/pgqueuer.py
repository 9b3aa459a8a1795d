"""PgQueuer: a queue of jobs, on asyncpg, as its documentation begins."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.contest import Run
from tests.benchmarks.lanes import on_tasks
from tests.benchmarks.workers import Shift

PACKAGE = "pgqueuer"
DONE = "select count(*) from pgqueuer_log where status = 'successful'"
JOB = "nothing"
BULK = 1000
POOL = 8


async def _connect(url: str) -> tuple[Any, Any]:
    connection = await importlib.import_module("asyncpg").connect(url)
    queries = importlib.import_module("pgqueuer.queries").Queries.from_asyncpg_connection(connection)
    return connection, queries


def setup(url: str) -> None:
    """Its tables."""

    async def install() -> None:
        connection, queries = await _connect(url)
        await queries.install()
        await connection.close()

    asyncio.run(install())


def _enqueue(put: Callable[[Any, int], Coroutine[Any, Any, None]]) -> Callable[[str], Any]:
    @contextmanager
    def enqueue(url: str) -> Iterator[Run]:
        with asyncio.Runner() as runner:
            connection, queries = runner.run(_connect(url))
            try:
                yield lambda total: runner.run(put(queries, total))
            finally:
                runner.run(connection.close())

    return enqueue


async def _each(queries: Any, total: int) -> None:
    for n in range(total):
        await queries.enqueue(JOB, str(n).encode())


async def _many(queries: Any, total: int) -> None:
    for first in range(0, total, BULK):
        numbers = range(first, min(first + BULK, total))
        await queries.enqueue([JOB] * len(numbers), [str(n).encode() for n in numbers], [0] * len(numbers))


one_by_one = _enqueue(_each)
"""Each enqueue is a call of its own, on one connection: it does not take two calls at a time."""

in_bulk = _enqueue(_many)
"""A thousand jobs a call."""


@contextmanager
def one_by_one_pool(url: str) -> Iterator[Run]:
    """Each enqueue is a call of its own, on 64 tasks and a pool of eight connections."""
    with asyncio.Runner() as runner:
        pool = runner.run(_pool(url))
        queries = importlib.import_module("pgqueuer.queries").Queries.from_asyncpg_pool(pool)
        try:
            yield on_tasks(runner, [lambda n: queries.enqueue(JOB, str(n).encode())] * 64)
        finally:
            runner.run(pool.close())


async def _pool(url: str) -> Any:
    return await importlib.import_module("asyncpg").create_pool(url, min_size=POOL, max_size=POOL)


def work(url: str, shift: Shift, **options: Any) -> None:
    """A worker process as it is by default: claims of ten."""

    async def run() -> None:
        library: Any = importlib.import_module("pgqueuer")
        connection = await importlib.import_module("asyncpg").connect(url)
        app = library.PgQueuer.from_asyncpg_connection(connection)

        @app.entrypoint(JOB)  # type: ignore[untyped-decorator]
        async def nothing(job: Any) -> None:
            shift.tick()

        await app.qm.run(**options)

    logging.getLogger("pgqueuer").setLevel(logging.ERROR)
    shift.ready()
    shift.end_with_input()
    asyncio.run(run())


def work_tuned(url: str, shift: Shift) -> None:
    """Claims of a hundred."""
    work(url, shift, batch_size=100)
