"""The application under chaos: sync and async workflows that leave a trace of everything they do.

`chaos.effect` holds what transactions wrote: without a unique constraint, so that a second time is seen. What
steps do outside is a line in a file that no database can undo or lose: the step's idempotency key with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from datetime import timedelta
from pathlib import Path

from psycopg import AsyncConnection, Connection

from dbdurable import Durable, Rate, Retry, current_step, sleep

OUTSIDE = "CHAOS_OUTSIDE"
"""Names the file of outside effects, for the processes that run the workflows."""

NARROW, LINE_MAX, RATE = 3, 1, Rate(12, per=1, burst=3)

durable = Durable()
narrow_queue = durable.queue("narrow", concurrency=NARROW)
line_queue = durable.queue("lines", per_partition=LINE_MAX)
rated_queue = durable.queue("rated", rate=RATE)

CALL_S_MAX = 0.08
TAKES = threading.Event()
PERSISTENT = Retry(None, initial=0.01, max_interval=0.2, on=OSError)


class Refused(Exception):
    """What a step raises on purpose."""


def place() -> tuple[str, str]:
    """The workflow and the path of the step that the caller is in."""
    here = current_step()
    return str(here.workflow_id), ".".join(map(str, here.path))


INSERT = "insert into chaos.effect (workflow_id, path, what, value) values (%s, %s, %s, %s)"


PARKS_S = 0.1
"""Longer than workers here keep a wait in memory."""


def note_outside(what: str) -> None:
    """Takes its time, as other services do; then one line, appended at once: killed later, it has been done."""
    TAKES.wait(random.uniform(0, CALL_S_MAX))
    workflow, path = place()
    line = json.dumps([workflow, path, what, str(current_step().idempotency_key), os.getpid()])
    descriptor = os.open(Path(os.environ[OUTSIDE]), os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def thought_s() -> float:
    """Now and then a transaction stays open for a while, so that a fault meets one."""
    return random.uniform(0, CALL_S_MAX) if random.random() < 0.3 else 0


# -- what workflows are made of --------------------------------------------------------------------------------


@durable.transaction
def write(tx: Connection, what: str, value: int) -> int:
    tx.execute(INSERT, [*place(), what, value])
    TAKES.wait(thought_s())
    return value


@durable.transaction
async def awrite(tx: AsyncConnection, what: str, value: int) -> int:
    await tx.execute(INSERT, [*place(), what, value])
    await asyncio.sleep(thought_s())
    return value


@durable.transaction
def refuse(tx: Connection, what: str) -> None:
    tx.execute(INSERT, [*place(), what, 1000])
    raise Refused("no")


@durable.step(retry=PERSISTENT)
def call(what: str, *, twice: bool = False) -> str:
    note_outside(what)
    if twice and current_step().attempt < 2:
        raise ConnectionError("not yet")
    return what


@durable.step(retry=PERSISTENT)
async def acall(what: str) -> str:
    await asyncio.to_thread(note_outside, what)
    return what


# -- the workflows: each returns the sum of what its transactions wrote ------------------------------------------


@durable.workflow
def order(size: int) -> int:
    total = write("begin", size)
    call("charge", twice=True)
    total += sum(write(f"line {number}", number) for number in range(size))
    try:
        refuse("refused")
    except Refused:
        call("mail")
    return total


@durable.workflow
async def trip(size: int) -> int:
    async def leg(number: int) -> int:
        booked = await awrite(f"leg {number}", number)
        await acall(f"ticket {number}")
        return booked + await awrite(f"seat {number}", 1)

    begun = await awrite("begin", size)
    return begun + sum(await asyncio.gather(*(leg(number) for number in range(size))))


@durable.workflow
def child(value: int) -> int:
    return write("child", value)


@durable.transaction
def write_and_start(tx: Connection, value: int) -> int:
    tx.execute(INSERT, [*place(), "with a child", value])
    child.options(tx=tx).start(value)
    return value


@durable.workflow
def family(size: int) -> int:
    """Three children: one that it calls, one in the background, one that commits with a transaction.

    It parks for certain, before it has any: a wait for a child is over too soon at times.
    """
    sleep(PARKS_S)
    total = child(size)
    child.start(size)
    return total + write_and_start(size)


@durable.workflow(queue=narrow_queue)
def narrow(size: int) -> int:
    total = write("in", size)
    call("inside")
    return total + write("out", 1)


@durable.workflow(queue=line_queue)
async def line(partition: str, number: int) -> int:
    total = await awrite("in", number)
    await acall("inside")
    return total


@durable.workflow(queue=rated_queue)
def rated(size: int) -> int:
    return write("rated", size)


@durable.workflow
def failing(size: int) -> None:
    write("begin", size)
    refuse("refused")


DELAY = timedelta(seconds=0.7)

EFFECTS = {
    "order": "array['begin'] || array(select 'line ' || n from generate_series(0, size - 1) n)",
    "trip": "array['begin'] || array(select x || n from generate_series(0, size - 1) n, "
    "unnest(array['leg ', 'seat ']) x)",
    "child": "array['child']",
    "family": "array['with a child']",
    "narrow": "array['in', 'out']",
    "line": "array['in']",
    "rated": "array['rated']",
    "failing": "array['begin']",
    "write": "array['alone']",
}
"""What the transactions of a workflow must have written, as SQL over its `size`."""

CALLS = {
    "order": "array['charge', 'mail']",
    "trip": "array(select 'ticket ' || n from generate_series(0, size - 1) n)",
    "narrow": "array['inside']",
    "line": "array['inside']",
}
"""What its steps must have done outside."""
