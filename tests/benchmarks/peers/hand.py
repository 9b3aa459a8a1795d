"""By hand: what a careful engineer writes in psycopg, and the least that there is.

The record is what any usable one needs: time-ordered uuid ids, names, status, JSON input and output, times.
The start rides the first step's transaction, as dbdurable's does: a crash before it means that nothing happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, Connection

from tests.benchmarks.contest import STEPS, Opened, Run
from tests.benchmarks.lanes import on_tasks, on_threads

APP_SETUP = "create table app (n int not null);"
SETUP = (
    APP_SETUP
    + """
create table hand_workflow (
    id uuid primary key, name text not null, status text not null, input json not null, output json,
    created_at timestamptz not null default clock_timestamp(), finished_at timestamptz);
create table hand_step (
    workflow_id uuid not null, seq int not null, name text not null, output json not null,
    started_at timestamptz not null, finished_at timestamptz not null default clock_timestamp(),
    primary key (workflow_id, seq))
"""
)
FINISHED = "(select count(*) from hand_workflow where status = 'succeeded' and finished_at is not null)"
TEN_DONE = f"select (select count(*) from app), (select count(*) from hand_step), {FINISHED}"
OUTSIDE_DONE = f"select (select count(*) from hand_step), {FINISHED}"
START_DONE = f"select {FINISHED}"

START = "insert into hand_workflow (id, name, status, input) values (%s, %s, 'running', %s)"
APP = "insert into app (n) values (%s)"
STEP = "insert into hand_step (workflow_id, seq, name, output, started_at) values (%s, %s, %s, %s, now())"
FINISH = """
update hand_workflow set status = 'succeeded', output = %s, finished_at = clock_timestamp()
where id = %s and status = 'running'
"""


def uuid7() -> UUID:
    """Time-ordered, so that the index grows at its right end."""
    random = int.from_bytes(os.urandom(10), "big")
    high = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | (random >> 64 & 0xFFF) << 64
    return UUID(int=high | 2 << 62 | random & (1 << 62) - 1)


def hand(connection: Connection[Any], n: int) -> None:
    """Ten transactional steps: four round trips a step; prepared where that helps."""
    id = uuid7()
    for seq in range(STEPS):
        connection.execute("begin")
        if seq == 0:
            connection.execute(START, [id, "ten", json.dumps({"n": n})], prepare=True)
        connection.execute(APP, [n], prepare=True)
        connection.execute(STEP, [id, seq, "put", json.dumps(n)], prepare=True)
        connection.execute("commit")
    connection.execute(FINISH, [json.dumps(n), id], prepare=True)


def flight(connection: Connection[Any], n: int) -> None:
    """The least there is: the application's statement is known beforehand, so a step is one round trip."""
    id = uuid7()
    for seq in range(STEPS):
        with connection.pipeline():
            connection.execute("begin")
            if seq == 0:
                connection.execute(START, [id, "ten", json.dumps({"n": n})], prepare=True)
            connection.execute(APP, [n], prepare=True)
            connection.execute(STEP, [id, seq, "put", json.dumps(n)], prepare=True)
            connection.execute("commit")
    connection.execute(FINISH, [json.dumps(n), id], prepare=True)


async def hand_async(connection: AsyncConnection[Any], n: int) -> None:
    """`hand` in the other colour."""
    id = uuid7()
    for seq in range(STEPS):
        await connection.execute("begin")
        if seq == 0:
            await connection.execute(START, [id, "ten", json.dumps({"n": n})], prepare=True)
        await connection.execute(APP, [n], prepare=True)
        await connection.execute(STEP, [id, seq, "put", json.dumps(n)], prepare=True)
        await connection.execute("commit")
    await connection.execute(FINISH, [json.dumps(n), id], prepare=True)


async def flight_async(connection: AsyncConnection[Any], n: int) -> None:
    """`flight` in the other colour."""
    id = uuid7()
    for seq in range(STEPS):
        async with connection.pipeline():
            await connection.execute("begin")
            if seq == 0:
                await connection.execute(START, [id, "ten", json.dumps({"n": n})], prepare=True)
            await connection.execute(APP, [n], prepare=True)
            await connection.execute(STEP, [id, seq, "put", json.dumps(n)], prepare=True)
            await connection.execute("commit")
    await connection.execute(FINISH, [json.dumps(n), id], prepare=True)


def outside(connection: Connection[Any], n: int) -> None:
    """Ten outside steps: each record is a commit of its own, for nothing else is there to share one with."""
    id = uuid7()
    connection.execute(START, [id, "ten", json.dumps({"n": n})], prepare=True)
    for seq in range(STEPS):
        connection.execute(STEP, [id, seq, "call", json.dumps(n)], prepare=True)
    connection.execute(FINISH, [json.dumps(n), id], prepare=True)


async def outside_async(connection: AsyncConnection[Any], n: int) -> None:
    """`outside` in the other colour."""
    id = uuid7()
    await connection.execute(START, [id, "ten", json.dumps({"n": n})], prepare=True)
    for seq in range(STEPS):
        await connection.execute(STEP, [id, seq, "call", json.dumps(n)], prepare=True)
    await connection.execute(FINISH, [json.dumps(n), id], prepare=True)


def nothing(connection: Connection[Any], n: int) -> None:
    """A workflow without steps: it is there, then it is finished."""
    id = uuid7()
    connection.execute(START, [id, "nothing", json.dumps({"n": n})], prepare=True)
    connection.execute(FINISH, [json.dumps(n), id], prepare=True)


async def nothing_async(connection: AsyncConnection[Any], n: int) -> None:
    """`nothing` in the other colour."""
    id = uuid7()
    await connection.execute(START, [id, "nothing", json.dumps({"n": n})], prepare=True)
    await connection.execute(FINISH, [json.dumps(n), id], prepare=True)


def with_connections(workflow: Callable[[Connection[Any], int], None]) -> Opened:
    """One open connection a lane."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with ExitStack() as stack:
            own = [stack.enter_context(psycopg.connect(url, autocommit=True)) for _ in range(lanes)]
            yield on_threads([partial(workflow, connection) for connection in own])

    return opened


def with_async_connections(workflow: Callable[[AsyncConnection[Any], int], Coroutine[Any, Any, None]]) -> Opened:
    """The same, asynchronous."""

    @contextmanager
    def opened(url: str, lanes: int) -> Iterator[Run]:
        with asyncio.Runner() as runner:
            own = [runner.run(AsyncConnection.connect(url, autocommit=True)) for _ in range(lanes)]
            try:
                yield on_tasks(runner, [partial(workflow, connection) for connection in own])
            finally:
                for connection in own:
                    runner.run(connection.close())

    return opened
