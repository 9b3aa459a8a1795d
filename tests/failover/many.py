"""One of very many executors: a process that does one job at a time, until it is told to end."""

from __future__ import annotations

import logging
import os
from multiprocessing.connection import Connection as Pipe

from psycopg import Connection

from dbdurable import Durable

durable = Durable(migrate=False)


@durable.transaction
def count(tx: Connection, number: int) -> int:
    """A job whose only effect is a row."""
    tx.execute("insert into effect values ('job', %s)", [number])
    return number


def serve(url: str, log: str, pipe: Pipe) -> None:
    """Says which executor it is, and at its end which one it is by then."""
    os.environ["DBDURABLE_ENV_FILE"] = os.devnull
    logging.basicConfig(level=logging.WARNING, filename=log, format="%(process)d %(levelname)s %(message)s")
    durable.configure(url=url)
    with durable.executor(threads=1, tasks=0) as executor:
        pipe.send(executor.lease.executor_id)
        pipe.recv()
        pipe.send(executor.lease.executor_id)
    durable.close()
