"""Orders: start in your own transaction, charge with an idempotency key, retry what fails.

The payment service fails the first time, after it took the money. It is asked again under the same key.
"""

import asyncio

from psycopg import AsyncConnection

from dbdurable import Durable, Retry, current_step

durable = Durable()
calls: list[str] = []


async def payment_service(key: str, cents: int) -> str:
    """Stands for a service elsewhere: it charges each key once. Its first answer gets lost."""
    calls.append(key)
    if len(calls) == 1:
        raise ConnectionError("the connection broke before the answer came")
    return f"receipt for {cents} cents"


@durable.transaction
async def reserve(tx: AsyncConnection, order_id: int) -> int:
    """Takes the article from the stock; commits together with its own record."""
    cursor = await tx.execute(
        "update example_stock s set pieces = s.pieces - 1 from example_order o"
        " where o.id = %s and s.article = o.article returning s.cents",
        [order_id],
    )
    return int((await cursor.fetchall())[0][0])


@durable.step(retry=Retry(5, initial=0.1, on=ConnectionError))
async def charge(cents: int) -> str:
    """At least once, and every time under the same key."""
    return await payment_service(str(current_step().idempotency_key), cents)


@durable.transaction
async def ship(tx: AsyncConnection, order_id: int, receipt: str) -> None:
    """Enters the outcome."""
    await tx.execute("update example_order set receipt = %s where id = %s", [receipt, order_id])


@durable.workflow(queue="orders")
async def fulfil(order_id: int) -> str:
    """One order."""
    receipt = await charge(await reserve(order_id))
    await ship(order_id, receipt)
    return receipt


async def main() -> None:
    async with durable.executor(), await AsyncConnection.connect(durable.url) as connection:
        await connection.execute("drop table if exists example_stock, example_order")
        await connection.execute("create table example_stock (article text, pieces int, cents int)")
        await connection.execute("create table example_order (id serial, article text, receipt text)")
        await connection.execute("insert into example_stock values ('kettle', 10, 3900)")
        await connection.commit()

        cursor = await connection.execute("insert into example_order (article) values ('kettle') returning id")
        (order_id,) = (await cursor.fetchall())[0]
        handle = await fulfil.options(tx=connection).start(order_id)
        await connection.commit()  # the order and its workflow exist from here on: both, or none

        print(await handle.result(timeout=30))
        print(f"{len(calls)} calls to the payment service, {len(set(calls))} key")
        cursor = await connection.execute("select pieces from example_stock")
        print((await cursor.fetchall())[0][0], "kettles left")


if __name__ == "__main__":
    asyncio.run(main())
