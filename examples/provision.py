"""Set up a server: address, machine, name. Whatever fails, or is cancelled, nothing is left behind."""

import time

import psycopg
from psycopg import Connection

from dbdurable import Durable, current_step, recv, saga
from dbdurable.errors import WorkflowCancelled

durable = Durable()


def cloud(statement: str, *values: object) -> None:
    """The "cloud" is a table here, written on a connection of its own: no rollback undoes it."""
    with psycopg.connect(durable.url, autocommit=True) as api:
        api.execute(statement, values)


@durable.step
def destroy(_: str | None, kind: str, name: str) -> None:
    """Undoes `create`, which may have been cut off: by the key of the call, and there may be nothing."""
    cloud("delete from example_cloud where key = %s", current_step().undoes)
    print(f"  destroyed {kind} {name}")


@durable.step(compensate=destroy)
def create(kind: str, name: str) -> str:
    """At least once, under one key."""
    if (kind, name) == ("machine", "huge"):
        raise LookupError(f"no {kind} for {name}")
    key = current_step().idempotency_key
    cloud("insert into example_cloud values (%s, %s, %s) on conflict do nothing", key, kind, name)
    print(f"  created {kind} {name}")
    return name


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


SETUP = """drop table if exists example_cloud, example_inventory;
           create table example_cloud (key uuid primary key, kind text, name text);
           create table example_inventory (id serial, name text, state text)"""


def main() -> None:
    with durable.executor(), Connection.connect(durable.url, autocommit=True) as connection:
        connection.execute(SETUP)
        for name in ("web-1", "huge", "unwanted"):
            handle = provision.start(name)
            while handle.status() in ("queued", "running"):
                time.sleep(0.05)
            try:
                handle.send("booted", True) if name == "web-1" else handle.cancel("nobody wants it")
                print(handle.result())
            except (LookupError, WorkflowCancelled) as error:
                print(f"{name}: {type(error).__name__}")
        print(connection.execute("select name, state from example_inventory order by id").fetchall())
        print(connection.execute("select kind, name from example_cloud order by kind").fetchall())


if __name__ == "__main__":
    main()
