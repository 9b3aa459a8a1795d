"""The demo's application: each city orders a day's drinking water from its country's depot.

It is written as a user would write it. None of its tables has a unique constraint that could hide a
second effect: if a reservation or a booking happened twice, its row would be there twice.
"""

from __future__ import annotations

import threading
import time
from functools import cache
from pathlib import Path
from typing import Final
from uuid import UUID

from psycopg import Connection
from psycopg_pool import ConnectionPool

from dbdurable import Durable, current_step

__all__ = ["APPLICATION", "DURABLE", "THREADS", "durable", "load_cities", "supply"]

DURABLE: Final = "dbdurable_demo"
"""The schema of dbdurable's tables."""

APPLICATION: Final = "dbdurable_demo_app"
"""The schema of the application's own tables."""

THREADS: Final = 8
"""How many workflows each worker runs at once."""

CARRIER_LATENCY_S: Final = 0.02
LITRES_A_DAY: Final = 15  # a person: the Sphere Handbook's minimum

TABLES: Final = f"""
create table dbdurable_demo_app.city (
    id integer not null, name text not null, country text not null, population bigint not null,
    latitude double precision not null, longitude double precision not null, litres_needed bigint not null
        generated always as (population * {LITRES_A_DAY}) stored
);
create unique index on dbdurable_demo_app.city (id);
create table dbdurable_demo_app.depot (
    country text primary key, litres_at_first bigint not null, litres bigint not null check (litres >= 0)
) with (fillfactor = 20);
create table dbdurable_demo_app.reservation (city_id integer not null, litres bigint not null);
create table dbdurable_demo_app.ledger (city_id integer not null, litres bigint not null, shipment uuid not null);
create table dbdurable_demo_app.carrier_call (
    key uuid not null, city_id integer not null, at timestamptz not null default clock_timestamp()
);
create table dbdurable_demo_app.carrier_shipment (key uuid primary key, city_id integer not null);
"""

durable = Durable(schema=DURABLE)


@durable.transaction
def reserve(tx: Connection, city_id: int) -> int:
    """Takes the litres that a city needs from the depot of its country."""
    row = tx.execute(
        """
        with need as (
            select id, country, litres_needed from dbdurable_demo_app.city where id = %s),
        taken as (
            update dbdurable_demo_app.depot d set litres = d.litres - n.litres_needed
              from need n where d.country = n.country)
        insert into dbdurable_demo_app.reservation (city_id, litres)
        select id, litres_needed from need returning litres
        """,
        [city_id],
    ).fetchone()
    assert row is not None
    return int(row[0])


@durable.step(retry=3)
def dispatch(city_id: int) -> UUID:
    """Orders the transport from the carrier: somebody else's system, whose books commit on their own."""
    return call_carrier(current_step().idempotency_key, city_id)


@durable.transaction
def book(tx: Connection, city_id: int, litres: int, shipment: UUID) -> None:
    """Enters the delivery into the ledger."""
    tx.execute("insert into dbdurable_demo_app.ledger values (%s, %s, %s)", [city_id, litres, shipment])


@durable.workflow
def supply(city_id: int) -> int:
    """One city's order, from the depot to the ledger; returns its litres."""
    litres = reserve(city_id)
    shipment = dispatch(city_id)
    book(city_id, litres, shipment)
    return litres


def call_carrier(key: UUID, city_id: int) -> UUID:
    """Stands for an HTTP call: each call is noted, and a key that was seen before ships nothing again."""
    with _opening:
        pool = _carrier_connections()
    with pool.connection() as connection:
        connection.execute(
            """
            with call as (
                insert into dbdurable_demo_app.carrier_call (key, city_id) values (%(key)s, %(city)s))
            insert into dbdurable_demo_app.carrier_shipment (key, city_id) values (%(key)s, %(city)s)
            on conflict do nothing
            """,
            {"key": key, "city": city_id},
        )
    time.sleep(CARRIER_LATENCY_S)  # the answer is on its way; a process killed now has to call again
    return key


_opening = threading.Lock()  # `cache` alone lets two threads open two pools


@cache
def _carrier_connections() -> ConnectionPool[Connection]:
    return ConnectionPool(
        durable.url, kwargs={"autocommit": True}, min_size=1, max_size=THREADS, open=True, name="carrier"
    )


def cities_file() -> Path:
    """The table of cities: inside the package in a wheel, in examples/ in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "data" / "cities.csv"
    return packaged if packaged.is_file() else here.parents[1] / "examples" / "data" / "cities.csv"


def load_cities(connection: Connection, rows: int) -> None:
    """Makes the application's tables and fills them with the `rows` largest cities."""
    connection.execute(TABLES)
    columns = "id, name, country, population, latitude, longitude"
    copy = f"copy dbdurable_demo_app.city ({columns}) from stdin (format csv)"
    with cities_file().open(encoding="utf-8") as file, connection.cursor().copy(copy) as into:
        next(file)
        for _, line in zip(range(rows), file, strict=False):
            into.write(line)
    connection.execute(
        """
        insert into dbdurable_demo_app.depot
        select country, 2 * sum(litres_needed), 2 * sum(litres_needed) from dbdurable_demo_app.city group by country
        """
    )
    connection.execute("analyze dbdurable_demo_app.city")


@cache
def cities_shipped() -> int:
    """How many rows the table has."""
    return cities_file().read_bytes().count(b"\n") - 1
