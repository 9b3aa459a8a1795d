"""The workflows that are crashed: one of each kind, all of them leaving the same kind of traces.

`effect` holds what transactions wrote: no unique constraint, so that a second time is seen. `outside` holds
what steps did elsewhere: written at once, on a connection of its own, with the step's idempotency key.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from dbdurable import (
    Durable,
    Retry,
    aio,
    current_step,
    current_workflow,
    promise,
    recv,
    saga,
    send,
    set_event,
    sleep,
)
from dbdurable.errors import PromiseRejected, WaitTimeout
from dbdurable.ext.sqlalchemy import SQLAlchemy

TABLES = """
    create table if not exists effect (run text, what text, value integer);
    create table if not exists outside (run text, what text, key uuid, at timestamptz default clock_timestamp())
"""

engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(durable.url))
durable = Durable(sources=[SQLAlchemy(sessionmaker(engine))])
SOON = Retry(3, initial=0.001)


class Refused(Exception):
    """What a step raises on purpose."""


def outside(run: str, what: str) -> None:
    """Something that no rollback undoes."""
    with psycopg.connect(durable.url, autocommit=True) as elsewhere:
        key = current_step().idempotency_key
        elsewhere.execute("insert into outside values (%s, %s, %s)", [run, what, key])


@durable.transaction
def write(tx: Connection, run: str, what: str, value: int) -> int:
    tx.execute("insert into effect values (%s, %s, %s)", [run, what, value])
    row = tx.execute("select sum(value) from effect where run = %s", [run]).fetchone()
    assert row is not None
    return int(row[0])


@durable.transaction
def write_and_undo_half(tx: Connection, run: str) -> int:
    tx.execute("insert into effect values (%s, 'kept', 10)", [run])
    try:
        with tx.transaction():
            tx.execute("insert into effect values (%s, 'undone', 100)", [run])
            raise Refused
    except Refused:
        pass
    return 10


@durable.transaction
def refuse_after_writing(tx: Connection, run: str) -> int:
    tx.execute("insert into effect values (%s, 'refused', 1000)", [run])
    raise Refused(f"no money in {run}")


@durable.step
def call(run: str, what: str) -> str:
    outside(run, what)
    return f"did {what}"


@durable.step(retry=SOON)
def call_twice(run: str) -> int:
    outside(run, f"attempt {current_step().attempt}")
    if current_step().attempt < 2:
        raise Refused("not yet")
    return current_step().attempt


@durable.step
def call_in_vain(run: str) -> None:
    outside(run, "in vain")
    raise Refused("never")


@durable.workflow
def transactions(run: str) -> int:
    first = write(run, "first", 1)
    kept = write_and_undo_half(run)
    return first + kept + write(run, "last", 2)


@durable.workflow
def steps(run: str) -> list[str]:
    return [call(run, "one"), call(run, "two")]


@durable.workflow
def mixed(run: str) -> str:
    total = write(run, "begin", 1)
    attempts = call_twice(run)
    try:
        refuse_after_writing(run)
    except Refused as refused:
        said = str(refused)
    try:
        call_in_vain(run)
    except Refused:
        total += write(run, "sorry", 5)
    return f"{total} {attempts} {said.replace(run, '*')}"


@durable.workflow
def refused(run: str) -> None:
    write(run, "begin", 1)
    refuse_after_writing(run)


@durable.transaction
async def awrite(tx: AsyncConnection, run: str, what: str, value: int) -> int:
    await tx.execute("insert into effect values (%s, %s, %s)", [run, what, value])
    return value


@durable.step(retry=SOON)
async def acall(run: str, what: str) -> str:
    await asyncio.to_thread(outside, run, what)
    if current_step().attempt < 2:
        raise Refused("not yet")
    return what


@durable.transaction
async def arefuse(tx: AsyncConnection, run: str) -> None:
    await tx.execute("insert into effect values (%s, 'refused', 1000)", [run])
    raise Refused("no")


@durable.workflow
async def awaited(run: str) -> list[Any]:
    first = await awrite(run, "first", 1)
    second = await acall(run, "second")
    try:
        await arefuse(run)
    except Refused:
        third = await write.aio(run, "third", 3)
    return [first, second, third]


@durable.workflow
async def branches(run: str) -> list[Any]:
    async def branch(n: int) -> int:
        value = await awrite(run, f"branch {n}", n)
        return value + await awrite(run, f"branch {n} again", n)

    return list(await asyncio.gather(branch(1), branch(2), acall(run, "third")))


@durable.transaction
def note(tx: Connection, run: str) -> None:
    tx.execute("insert into effect values (%s, 'child', 7)", [run])


@durable.workflow
def child(run: str) -> None:
    note(run)


@durable.transaction
def write_and_start(tx: Connection, run: str) -> str:
    tx.execute("insert into effect values (%s, 'parent', 1)", [run])
    child.options(tx=tx, queue=run, key=f"{run} of a transaction").start(run)
    return "started"


@durable.workflow
def parent(run: str) -> str:
    child.options(queue=run).start(run)
    return write_and_start(run)


@durable.transaction
def add(session: Session, run: str, what: str, value: int) -> int:
    session.execute(text("insert into effect values (:run, :what, :value)"), {"run": run, "what": what, "value": value})
    return value


@durable.transaction
def add_and_refuse(session: Session, run: str) -> None:
    session.execute(text("insert into effect values (:run, 'refused', 1000)"), {"run": run})
    session.flush()
    raise Refused("no")


@durable.workflow
def sessions(run: str) -> list[int]:
    first = add(run, "first", 1)
    with contextlib.suppress(Refused):
        add_and_refuse(run)
    return [first, add(run, "last", 2)]


class Till:
    def __init__(self, name: str) -> None:
        self.name = name

    @durable.workflow
    def sell(self, run: str) -> str:
        total = self.book(run)
        return f"{self.name} {total} {self.tell(run)}"

    @durable.transaction
    def book(self, tx: Connection, run: str) -> int:
        tx.execute("insert into effect values (%s, %s, 1)", [run, self.name])
        return 1

    @durable.step
    def tell(self, run: str) -> str:
        outside(run, self.name)
        return "told"


till = durable.register(Till("north"), name="till")


@durable.workflow
def naps(run: str) -> list[Any]:
    first = write(run, "before", 1)
    sleep(0.15)
    try:
        late = recv("never", int, timeout=0.15)
    except WaitTimeout:
        late = -1
    return [first, late, write(run, "after", 2)]


@durable.workflow
async def anaps(run: str) -> list[Any]:
    async def nap(n: int) -> int:
        await aio.sleep(0.15 * n)
        return await awrite(run, f"branch {n}", n)

    return [
        *await asyncio.gather(nap(1), nap(2), awrite(run, "awake", 3)),
        await aio.recv("no", default=0, timeout=0.1),
    ]


LATER = Retry(3, initial=0.15, factor=1, jitter=0)
"""Long enough to be parked."""


@durable.step(retry=LATER)
def call_thrice(run: str) -> int:
    outside(run, "thrice")
    return _third_time_lucky()


@durable.step(retry=LATER)
async def acall_thrice(run: str) -> int:
    outside(run, "thrice")
    return _third_time_lucky()


@durable.transaction(retry=LATER)
def write_thrice(tx: Connection, run: str, what: str) -> int:
    tx.execute("insert into effect values (%s, %s, 4)", [run, what])
    return _third_time_lucky()


@durable.transaction(retry=LATER)
async def awrite_thrice(tx: AsyncConnection, run: str, what: str) -> int:
    await tx.execute("insert into effect values (%s, %s, 4)", [run, what])
    return _third_time_lucky()


def _third_time_lucky() -> int:
    if current_step().attempt < 3:
        raise Refused("not yet")
    return current_step().attempt


@durable.workflow
def retries(run: str) -> list[int]:
    thrice = [call_thrice(run), write_thrice(run, "alone")]
    with contextlib.suppress(Refused), saga() as undone:
        undone.undo(write_thrice, run, "undone")
        raise Refused("on purpose")
    return [*thrice, write(run, "after", 1)]


@durable.workflow
async def aretries(run: str) -> list[int]:
    return [
        *await asyncio.gather(acall_thrice(run), awrite_thrice(run, "branch"), awrite(run, "at once", 1)),
        await call_thrice.aio(run),
    ]


@durable.transaction
def tell(tx: Connection, run: str, me: str) -> None:
    tx.execute("insert into effect values (%s, 'told', 2)", [run])
    send(me, "number", 2)
    set_event("told", 2)


@durable.step
def call_and_send(run: str, me: str) -> None:
    send(me, "number", 3)
    outside(run, "called and sent")


@durable.workflow
def talks(run: str) -> list[Any]:
    """To itself, so that every run goes the same way."""
    me = str(current_workflow().id)
    send(me, "number", 1)
    tell(run, me)
    call_and_send(run, me)
    numbers = [recv("number", int) for _ in range(3)]
    set_event("total", sum(numbers))
    it, other = promise("it", int), promise("other", int)
    durable.client.resolve(it.token, 5)
    durable.client.reject(other.token, "no")
    handle = durable.client.handle(me)
    found = [handle.get_event("told", int), handle.get_event("total", int), it.result(timeout=60)]
    with contextlib.suppress(PromiseRejected):
        found.append(other.result())
    return [numbers, *found, recv("number", default="none", timeout=0.1)]


@durable.workflow
async def atalks(run: str) -> list[Any]:
    me = str(current_workflow().id)
    await aio.send(me, "number", 1)
    await tell.aio(run, me)
    await call_and_send.aio(run, me)
    numbers = [await aio.recv("number", int) for _ in range(3)]
    await aio.set_event("total", sum(numbers))
    it = await aio.promise("it", int)
    await durable.client.aio.resolve(it.token, 5)
    handle = durable.client.aio.handle(me)
    found = [await handle.get_event("told", int), await it.result(timeout=60)]
    return [numbers, *found, await aio.recv("number", default="none", timeout=0.1)]


@durable.workflow
def pals(run: str, other: str) -> int:
    """Sends to another one and hears from it; whichever comes first is parked meanwhile."""
    send(other, "hello", 1)
    return write(run, "heard", recv("hello", int))


@durable.workflow
async def kid(run: str, number: int) -> int:
    return await awrite(run, f"kid {number}", 1)


@durable.workflow
async def family(run: str, many: int) -> int:
    return sum(await aio.fan_out(lambda number: kid(run, number), range(many)))


@durable.step
def unbook(receipt: str | None, run: str, what: str) -> None:
    outside(run, f"undo {what} {receipt}")


@durable.step(compensate=unbook)
def book(run: str, what: str) -> str:
    outside(run, f"book {what}")
    return f"receipt of {what}"


@durable.workflow
def sagas_(run: str) -> str:
    book(run, "first")
    try:
        with saga() as inner:
            write(run, "inside", 1)
            inner.undo(write, run, "undone", -1)
            inner.undo(outside, run, "a function")
            book(run, "second")
            raise Refused("inside")
    except Refused:
        book(run, "third")
    raise Refused("the rest")


@durable.workflow
async def asagas(run: str) -> None:
    async with aio.saga() as s:
        await awrite(run, "inside", 1)
        s.undo(awrite, run, "undone", -1)
        await book.aio(run, "first")
        await call.aio(run, "between")
        raise Refused("late")
