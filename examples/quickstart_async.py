"""Book a seat and send a mail: whatever crashes, both happen, and the booking happens exactly once.

Run it twice: the second time, nothing happens again.
"""

import asyncio

from psycopg import AsyncConnection

from dbdurable import Durable, current_step

durable = Durable()  # the database of DBDURABLE_DATABASE_URL, else an embedded PostgreSQL


@durable.transaction
async def take_seat(tx: AsyncConnection, name: str) -> int:
    """Exactly once: the row and the record that this step is done are one commit."""
    cursor = await tx.execute("insert into example_seat (name) values (%s) returning number", [name])
    return int((await cursor.fetchall())[0][0])


@durable.step(retry=3)
async def send_mail(name: str, seat: int) -> str:
    """At least once: a mail server knows nothing of our commits, so it gets the same key every time."""
    print(f"mail to {name}: your seat is {seat}")
    return f"mail-{current_step().idempotency_key}"


@durable.workflow
async def book(name: str) -> int:
    """Plain calls, plain Python. After a crash it goes on behind the last step that was recorded."""
    seat = await take_seat(name)
    await send_mail(name, seat)
    return seat


async def main() -> None:
    async with await AsyncConnection.connect(durable.url, autocommit=True) as connection:
        await connection.execute(
            "create table if not exists example_seat (number int generated always as identity, name text)"
        )
    async with durable.executor():  # this process now runs workflows
        handle = await book.options(key="ann's booking").start("Ann")  # once per key, in the background
        print("Ann has seat", await handle.result(timeout=30))
        for step in await handle.steps():
            print(step.kind, step.name)


if __name__ == "__main__":
    asyncio.run(main())
