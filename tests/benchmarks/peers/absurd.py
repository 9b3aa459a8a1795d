"""Absurd: tasks of a queue, whose steps are checkpoints. Its tables come from `absurdctl`, which carries them."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from tests.benchmarks.contest import STEPS, Opened, Run, Spent
from tests.benchmarks.lanes import on_threads
from tests.benchmarks.workers import Shift
from tests.support.wait import wait_until

PACKAGE = "absurd_sdk"
COMPLETED = "(select count(*) from absurd.t_default where state = 'completed')"
STEPS_DONE = f"select (select count(*) from absurd.c_default where status = 'committed'), {COMPLETED}"
DONE = f"select {COMPLETED}"
THREADS = 16


def setup(url: str) -> None:
    """Its schema, and its default queue."""
    sql: str = importlib.import_module("absurdctl").BUNDLED_SCHEMA_SQL
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())
    client = client_of(url)
    client.create_queue()
    client.close()


def client_of(url: str, tick: Callable[[], object] = lambda: None) -> Any:
    """A client that knows every task of every load."""
    client = importlib.import_module("absurd_sdk").Absurd(url)

    @client.register_task(name="outside")  # type: ignore[untyped-decorator]
    def outside(params: Any, ctx: Any) -> Any:
        for number in range(STEPS):
            ctx.step(f"call-{number}", lambda: params["n"])
        return params["n"]

    @client.register_task(name="nothing")  # type: ignore[untyped-decorator]
    def nothing(params: Any, ctx: Any) -> Any:
        tick()
        return params["n"]

    return client


def spawner(client: Any, task: str) -> Callable[[int], object]:
    """Spawns one."""
    return lambda n: client.spawn(task, {"n": n})


@contextmanager
def through_worker(url: str, lanes: int, task: str) -> Iterator[Run]:
    """There is no direct call: so many are spawned on as many threads, and this process's worker runs them."""
    with ExitStack() as stack:
        worker = client_of(url)
        options = {"concurrency": lanes}
        thread = threading.Thread(target=worker.start_worker, kwargs=options, daemon=True)
        thread.start()
        stack.callback(worker.close)
        stack.callback(thread.join, 30)
        stack.callback(worker.stop_worker)
        clients = [client_of(url) for _ in range(lanes)]
        for client in clients:
            stack.callback(client.close)

        spawn_all, connection = on_threads([spawner(each, task) for each in clients]), clients[0]._conn

        def finished() -> int:
            return int(connection.execute(DONE).fetchone()[0])

        def run(total: int) -> Spent | None:
            before = finished()
            spawn_all(total)
            wait_until(lambda: finished() >= before + total, timeout_s=600, what="the tasks are completed")
            return None

        yield run


def direct(task: str) -> Opened:
    """Spawned and run in this process."""
    return lambda url, lanes: through_worker(url, lanes, task)


@contextmanager
def one_by_one(url: str) -> Iterator[Run]:
    """Each spawn is a call of its own, on 16 threads with a connection each."""
    with ExitStack() as stack:
        clients = [client_of(url) for _ in range(THREADS)]
        for client in clients:
            stack.callback(client.close)
        yield on_threads([spawner(client, "nothing") for client in clients])


def work(url: str, shift: Shift, **options: Any) -> None:
    """A worker process as it is by default: one task at a time, a look every 0.25 s when there is none."""
    client = client_of(url, shift.tick)
    shift.ready()
    shift.end_with_input()
    client.start_worker(**options)


def work_tuned(url: str, shift: Shift) -> None:
    """16 at once, claimed 64 at a time, a look every 0.05 s."""
    work(url, shift, concurrency=THREADS, batch_size=64, poll_interval=0.05)
