"""Procrastinate: a queue of tasks."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.contest import Run
from tests.benchmarks.lanes import on_tasks
from tests.benchmarks.workers import Shift

PACKAGE = "procrastinate"
DONE = "select count(*) from procrastinate_jobs where status = 'succeeded'"
BULK = 1000


def app_of(url: str, tick: Callable[[], object] = lambda: None, **pool: Any) -> tuple[Any, Any]:
    """An application and its task."""
    library: Any = importlib.import_module("procrastinate")
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    app = library.App(connector=library.PsycopgConnector(conninfo=url, **pool))

    @app.task(name="nothing")  # type: ignore[untyped-decorator]
    async def nothing(n: int) -> int:
        tick()
        return n

    return app, nothing


def setup(url: str) -> None:
    """Its schema."""

    async def apply() -> None:
        app, _ = app_of(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    asyncio.run(apply())


@contextmanager
def _open(url: str, **pool: Any) -> Iterator[tuple[asyncio.Runner, Any]]:
    with asyncio.Runner() as runner:
        app, nothing = app_of(url, **pool)
        runner.run(app.connector.open_async())
        try:
            yield runner, nothing
        finally:
            runner.run(app.close_async())


@contextmanager
def one_by_one(url: str) -> Iterator[Run]:
    """Each defer is a call of its own, on 64 tasks and the default pool."""
    with _open(url) as (runner, nothing):
        yield on_tasks(runner, [lambda n: nothing.defer_async(n=n)] * 64)


@contextmanager
def in_bulk(url: str) -> Iterator[Run]:
    """A thousand jobs a call."""
    with _open(url) as (runner, nothing):

        async def put(total: int) -> None:
            for first in range(0, total, BULK):
                await nothing.batch_defer_async(*({"n": n} for n in range(first, min(first + BULK, total))))

        yield lambda total: runner.run(put(total))


def work(url: str, shift: Shift, concurrency: int = 1) -> None:
    """A worker process as it is by default: one job at a time."""

    async def run() -> None:
        app, _ = app_of(url, shift.tick)
        async with app.open_async():
            await app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)

    shift.ready()
    shift.end_with_input()
    asyncio.run(run())


def work_tuned(url: str, shift: Shift) -> None:
    """64 jobs at once."""
    work(url, shift, 64)
