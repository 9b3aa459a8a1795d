"""Book a seat and send a mail: whatever crashes, both happen, and the booking happens exactly once.

Run it twice: the second time, nothing happens again.
"""

from psycopg import Connection

from dbdurable import Durable, current_step

durable = Durable()  # the database of DBDURABLE_DATABASE_URL, else an embedded PostgreSQL


@durable.transaction
def take_seat(tx: Connection, name: str) -> int:
    """Exactly once: the row and the record that this step is done are one commit."""
    cursor = tx.execute("insert into example_seat (name) values (%s) returning number", [name])
    return int(cursor.fetchall()[0][0])


@durable.step(retry=3)
def send_mail(name: str, seat: int) -> str:
    """At least once: a mail server knows nothing of our commits, so it gets the same key every time."""
    print(f"mail to {name}: your seat is {seat}")
    return f"mail-{current_step().idempotency_key}"


@durable.workflow
def book(name: str) -> int:
    """Plain calls, plain Python. After a crash it goes on behind the last step that was recorded."""
    seat = take_seat(name)
    send_mail(name, seat)
    return seat


def main() -> None:
    with Connection.connect(durable.url, autocommit=True) as connection:
        connection.execute(
            "create table if not exists example_seat (number int generated always as identity, name text)"
        )
    with durable.executor():  # this process now runs workflows
        handle = book.options(key="ann's booking").start("Ann")  # once per key, in the background
        print("Ann has seat", handle.result(timeout=30))
        for step in handle.steps():
            print(step.kind, step.name)


if __name__ == "__main__":
    main()
