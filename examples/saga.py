"""Book a flight, a hotel and a car; when the car is sold out, give back the hotel and the flight.

The undoing is ordinary code in an `except` block. It is as durable as the rest: a crash in the middle of
it, and another process goes on undoing.
"""

from psycopg import Connection

from dbdurable import Durable

durable = Durable()


class SoldOut(Exception):
    """There is none left."""


@durable.transaction
def reserve(tx: Connection, trip: int, what: str) -> None:
    """Takes one; the exception takes back what this transaction wrote, and is recorded."""
    tx.execute("insert into example_trip (trip, what, action) values (%s, %s, 'reserved')", [trip, what])
    taken = tx.execute("update example_offer set left_over = left_over - 1 where what = %s returning left_over", [what])
    if taken.fetchall()[0][0] < 0:
        raise SoldOut(what)


@durable.transaction
def give_back(tx: Connection, trip: int, what: str) -> None:
    """Undoes one reservation."""
    tx.execute("update example_offer set left_over = left_over + 1 where what = %s", [what])
    tx.execute("insert into example_trip (trip, what, action) values (%s, %s, 'given back')", [trip, what])


@durable.workflow
def book_trip(trip: int) -> str:
    """All three or none."""
    reserved: list[str] = []
    try:
        for what in ("flight", "hotel", "car"):
            reserve(trip, what)
            reserved.append(what)
    except SoldOut as sold_out:
        for what in reversed(reserved):
            give_back(trip, what)
        return f"no trip: {sold_out} sold out"
    return "booked"


def main() -> None:
    with durable.executor(), Connection.connect(durable.url, autocommit=True) as connection:
        connection.execute("drop table if exists example_offer, example_trip")
        connection.execute("create table example_offer (what text, left_over int)")
        connection.execute("create table example_trip (id serial, trip int, what text, action text)")
        connection.execute("insert into example_offer values ('flight', 5), ('hotel', 5), ('car', 1)")
        for trip in (1, 2):
            print(f"trip {trip}: {book_trip(trip)}")  # runs here, durably, and waits
        for trip, what, action in connection.execute("select trip, what, action from example_trip order by id"):
            print(" ", trip, what, action)
        for what, left in connection.execute("select what, left_over from example_offer order by what"):
            print(" ", left, what, "left")


if __name__ == "__main__":
    main()
