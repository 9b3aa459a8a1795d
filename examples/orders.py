"""Orders: start in your own transaction, charge with an idempotency key, retry what fails.

The payment service fails the first time, after it took the money. It is asked again under the same key.
"""

from psycopg import Connection

from dbdurable import Durable, Retry, current_step

durable = Durable()
calls: list[str] = []


def payment_service(key: str, cents: int) -> str:
    """Stands for a service elsewhere: it charges each key once. Its first answer gets lost."""
    calls.append(key)
    if len(calls) == 1:
        raise ConnectionError("the connection broke before the answer came")
    return f"receipt for {cents} cents"


@durable.transaction
def reserve(tx: Connection, order_id: int) -> int:
    """Takes the article from the stock; commits together with its own record."""
    cursor = tx.execute(
        "update example_stock s set pieces = s.pieces - 1 from example_order o"
        " where o.id = %s and s.article = o.article returning s.cents",
        [order_id],
    )
    return int(cursor.fetchall()[0][0])


@durable.step(retry=Retry(5, initial=0.1, on=ConnectionError))
def charge(cents: int) -> str:
    """At least once, and every time under the same key."""
    return payment_service(str(current_step().idempotency_key), cents)


@durable.transaction
def ship(tx: Connection, order_id: int, receipt: str) -> None:
    """Enters the outcome."""
    tx.execute("update example_order set receipt = %s where id = %s", [receipt, order_id])


@durable.workflow(queue="orders")
def fulfil(order_id: int) -> str:
    """One order."""
    receipt = charge(reserve(order_id))
    ship(order_id, receipt)
    return receipt


def main() -> None:
    with durable.executor(), Connection.connect(durable.url) as connection:
        connection.execute("drop table if exists example_stock, example_order")
        connection.execute("create table example_stock (article text, pieces int, cents int)")
        connection.execute("create table example_order (id serial, article text, receipt text)")
        connection.execute("insert into example_stock values ('kettle', 10, 3900)")
        connection.commit()

        cursor = connection.execute("insert into example_order (article) values ('kettle') returning id")
        (order_id,) = cursor.fetchall()[0]
        handle = fulfil.options(tx=connection).start(order_id)
        connection.commit()  # the order and its workflow exist from here on: both, or none

        print(handle.result(timeout=30))
        print(f"{len(calls)} calls to the payment service, {len(set(calls))} key")
        cursor = connection.execute("select pieces from example_stock")
        print(cursor.fetchall()[0][0], "kettles left")


if __name__ == "__main__":
    main()
