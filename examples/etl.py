"""Load a file of 5,000 cities in ten chunks; killed in the middle, the next run goes on where it was.

python examples/etl.py --crash-in 4     kills itself with SIGKILL inside chunk 4, before its commit
python examples/etl.py                  goes on with chunk 4
"""

import csv
import itertools
import os
import signal
import sys
from pathlib import Path

from psycopg import Connection

from dbdurable import Durable

durable = Durable()

CITIES = Path(__file__).parent / "data" / "cities.csv"
CHUNK = 500
CRASH_IN = int(sys.argv[2]) if sys.argv[1:2] == ["--crash-in"] else None


@durable.step
def count_chunks() -> int:
    """Looks at the file once; a run that goes on works with the same number."""
    with CITIES.open(encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file)) // CHUNK


@durable.transaction
def load(tx: Connection, chunk: int) -> int:
    """Loads one chunk, all or nothing, and never twice: its record commits with its rows."""
    with CITIES.open(encoding="utf-8") as file:
        rows = list(itertools.islice(csv.DictReader(file), chunk * CHUNK, (chunk + 1) * CHUNK))
    tx.cursor().executemany(
        "insert into example_city (chunk, name, country, population) values (%s, %s, %s, %s)",
        [(chunk, row["name"], row["country"], row["population"]) for row in rows],
    )
    print("loading chunk", chunk, flush=True)
    if chunk == CRASH_IN:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(rows)


@durable.transaction
def largest_countries(tx: Connection) -> list[str]:
    """What the loaded rows say."""
    query = "select country from example_city group by country order by sum(population) desc limit 3"
    return [country for (country,) in tx.execute(query)]


@durable.workflow
def pipeline() -> tuple[int, list[str]]:
    """The whole job."""
    loaded = sum(load(chunk) for chunk in range(count_chunks()))
    return loaded, largest_countries()


def main() -> None:
    with Connection.connect(durable.url, autocommit=True) as connection:
        connection.execute(
            "create table if not exists example_city (chunk int, name text, country text, population bigint)"
        )
        with durable.executor():
            loaded, countries = pipeline.options(key="cities").start().result(timeout=60)
        (rows,) = connection.execute("select count(*) from example_city").fetchall()[0]
        print(f"{loaded} cities loaded, {rows} rows in the table; most people: {', '.join(countries)}")


if __name__ == "__main__":
    main()
