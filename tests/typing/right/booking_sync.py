# pyright: strict
"""`def` code: a hotel's bookings in a script that executes too; keys, the caller's transaction, single steps."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import DictRow, TupleRow

from dbdurable import (
    AsyncFunction,
    AsyncHandle,
    Call,
    Durable,
    Executor,
    Function,
    Handle,
    NonRetryable,
    Queue,
    Retry,
    RetryAfter,
    Status,
    Step,
    StepInfo,
    Transaction,
    Workflow,
    WorkflowInfo,
    current_step,
    current_workflow,
    run_step,
)

durable = Durable()
urgent = durable.queue("urgent")
assert_type(urgent, Queue)


@durable.transaction
def hold_room(tx: Connection, room: int, nights: int = 1) -> Decimal:
    row = tx.execute("select price from room where id = %s for update", [room]).fetchone()
    assert row is not None
    return Decimal(row[0]) * nights


@durable.transaction(isolation="serializable", retry=Retry(3, initial=0.1), timeout=5, name="rooms.audit")
def audit(tx: Connection[DictRow], room: int, *, note: str = "") -> dict[str, Any]:
    return tx.execute("select * from room where id = %s", [room]).fetchone() or {}


@durable.transaction
def count_rooms(tx: Connection[TupleRow]) -> int:
    return len(tx.execute("select 1 from room").fetchall())


def is_busy(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


@durable.step(retry=Retry(max_attempts=5, on=is_busy, non_retryable=(ValueError,)), timeout=timedelta(seconds=9))
def pay(guest: str, amount: Decimal) -> str:
    if amount > 10_000:
        raise NonRetryable("too much")
    if not amount:
        raise RetryAfter(timedelta(minutes=1))
    here = current_step()
    assert_type(here.idempotency_key, UUID)
    assert_type(here.attempt, int)
    return f"{guest}/{here.idempotency_key}"


@durable.step(retry=3)
def mail(guest: str, *lines: str, copy: bool = False) -> None:
    print(guest, lines, copy)


@durable.step
def weather() -> Any:
    return {"rain": True}


@durable.workflow(queue=urgent, timeout=timedelta(days=2), max_attempts=5)
def book(guest: str, room: int, nights: int = 1) -> str:
    price = hold_room(room, nights=nights)
    assert_type(price, Decimal)
    receipt = pay(guest, price)
    assert_type(receipt, str)
    mail(guest, "thanks", receipt, copy=True)
    assert_type(weather(), Any)
    assert_type(run_step("download", lambda: [1, 2, 3], retry=3, timeout=10), list[int])
    assert_type(current_workflow().key, str | None)
    assert_type(current_workflow().deadline, datetime | None)
    later = audit.start(room, note=receipt)
    assert_type(later, Handle[dict[str, Any]])
    return receipt


assert_type(hold_room.name, str)
book_is_one: Workflow[..., str] = book
pay_is_one: Step[[str, Decimal], str] = pay
hold_is_one: Transaction[..., Decimal] = hold_room
face: Function[..., str] = book
other: AsyncFunction[..., str] = book.aio


def run() -> None:
    with durable.executor(threads=4, tasks=8, queues=["default", urgent]) as here:
        assert_type(here, Executor)
        assert_type(book("Ann", 7), str)
        handle = book.options(key="ann-7", attributes={"vip": True}).start("Ann", room=7)
        assert_type(handle, Handle[str])
        assert_type(handle.result(timeout=30), str)
        assert_type(handle.result(timedelta(seconds=3)), str)
        assert_type(handle.status(), Status)
        assert_type(handle.info(), WorkflowInfo)
        assert_type([step.path for step in handle.steps()], list[tuple[int, ...]])
        first: StepInfo = handle.steps()[0]
        assert_type(first.error, str | None)
        assert_type(handle.aio, AsyncHandle[str])
        handle.cancel("the guest called")
        handle.pause()
        handle.resume()
        here.wait_idle(timeout=5)


def start_only(url: str) -> None:
    durable.configure(url, schema="hotel", migrate=False)
    with psycopg.connect(url) as conn:
        conn.execute("insert into guest values ('Bob')")
        assert_type(book.options(tx=conn).start("Bob", 8), Handle[str])
    alone = pay.options(queue="payments", delay=timedelta(minutes=5), priority=-1).start("Bob", Decimal(3))
    assert_type(alone.result(), str)
    hold_room.options(at=datetime(2030, 1, 1, tzinfo=UTC), expires=60, partition="bob").start(8)
    assert_type(book.handle(key="ann-7"), Handle[str])
    assert_type(book.handle("0198c0de-0000-7000-8000-000000000000").id, UUID)


def as_functions(conn: Connection) -> None:
    assert_type(pay.fn("Ann", Decimal(1)), str)
    assert_type(hold_room.fn(conn, 7), Decimal)
    assert_type(book.fn("Ann", 7), str)
    call = book.bind("Ann", 7)
    assert_type(call, Call[str])
    assert_type(call(), str)
    assert_type(call.start(), Handle[str])
