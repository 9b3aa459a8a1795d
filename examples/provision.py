"""Set up a server: address, machine, name. Whatever fails, or is cancelled, nothing is left behind.

The "cloud" is a table here, written by connections of its own: as with a real one, no rollback undoes it.
"""

import time

import psycopg
from psycopg import Connection

from dbdurable import Durable, current_step, recv, saga
from dbdurable.errors import WorkflowCancelled

durable = Durable()


class NoCapacity(Exception):
    """The cloud has no such machine."""


def cloud(statement: str, *values: object) -> None:
    """One call of the cloud's API."""
    with psycopg.connect(durable.url, autocommit=True) as api:
        api.execute(statement, values)


@durable.step
def destroy(_: str | None, kind: str, name: str) -> None:
    """Undoes `create`, which may have been cut off: by the key of the call, and there may be nothing."""
    cloud("delete from example_cloud where key = %s", current_step().undoes)
    print(f"  destroyed {kind} {name}")


@durable.step(compensate=destroy)
def create(kind: str, name: str) -> str:
    """At least once, under one key: the cloud makes it once."""
    if (kind, name) == ("machine", "huge"):
        raise NoCapacity(f"no {kind} for {name}")
    key = current_step().idempotency_key
    cloud("insert into example_cloud values (%s, %s, %s) on conflict do nothing", key, kind, name)
    print(f"  created {kind} {name}")
    return f"{kind}-of-{name}"


@durable.transaction
def enter(tx: Connection, name: str, state: str) -> None:
    """Our own inventory: exactly once."""
    tx.execute("insert into example_inventory (name, state) values (%s, %s)", [name, state])


@durable.workflow
def provision(name: str) -> str:
    """A server, or nothing at all."""
    with saga() as s:
        create("address", name)
        enter(name, "reserved")
        s.undo(enter, name, "given back")
        create("machine", name)
        recv("booted", bool)  # the machine says so itself; however long it takes, no thread is held
        create("record", name)
    return f"{name} is up"


def main() -> None:
    with durable.executor(), Connection.connect(durable.url, autocommit=True) as connection:
        connection.execute("drop table if exists example_cloud, example_inventory")
        connection.execute("create table example_cloud (key uuid primary key, kind text, name text)")
        connection.execute("create table example_inventory (id serial, name text, state text)")
        for name in ("web-1", "huge", "unwanted"):
            handle = provision.start(name)
            if name == "web-1":
                handle.send("booted", True)
            while name == "unwanted" and handle.status() != "waiting":
                time.sleep(0.05)
            if name == "unwanted":
                handle.cancel("nobody wants it")
            try:
                print(handle.result())
            except (NoCapacity, WorkflowCancelled) as error:
                print(f"{name}: {type(error).__name__}")
        print(connection.execute("select name, state from example_inventory order by id").fetchall())
        print(connection.execute("select kind, name from example_cloud order by kind").fetchall())


if __name__ == "__main__":
    main()
