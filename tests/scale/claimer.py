"""The claims of an executor without the executor: its statements, one look at a time, and the pages they touch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import psycopg

from dbdurable import Durable
from dbdurable._executor.claims import Claims
from dbdurable._executor.runtime import boottime
from dbdurable._executor.timers import Timers
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query, flight
from dbdurable._protocol.lease import Lease
from dbdurable._sql.claim import CLAIM_PLAN
from tests.support.plans import Node, explained

Connection = psycopg.Connection[Any]

TABLES = ("workflow", "ready", "lease", "step", "wait", "queue", "limit_key")


class Claimer:
    """Looks at the queues as an executor with free slots does, and only writes down what it claimed."""

    def __init__(self, url: str, queues: list[str], names: list[str], free: int = 64) -> None:
        self._durable = Durable(url, migrate=False)
        runtime = self._durable._runtime
        self._free = free
        self.claimed: list[Any] = []
        self._batches = 1
        executor = SimpleNamespace(
            definitions={name: SimpleNamespace(name=name, is_async=False) for name in names},
            queues=queues,
            lease=Lease(uuid4(), 3600, boottime),
            runtime=runtime,
            attempts=self,
        )
        self._connection = runtime.database.own_connection()
        self._driver = SyncDriver(runtime.database, pool=self._connection)
        self.claims = Claims(cast(Any, executor), self._driver)

    def look(self) -> int:
        """One look; how many it claimed."""
        queries = self.claims.ask()
        _, *answers = self._driver.run(flight(Query(CLAIM_PLAN, ()), *queries))
        return self.claims.take(answers).count

    def ring(self, timers: Timers) -> int:
        """Rings one batch of what is due; how many."""
        _, answer = self._driver.run(flight(Query(CLAIM_PLAN, ()), *timers.ask(also_others=True)))
        timers.take(answer)
        return int(answer[0][0])

    @property
    def was_full(self) -> bool:
        """Whether the last look walked its lines from their beginnings."""
        return any(asked.full for asked in self.claims._asked)

    def look_ahead_only(self) -> None:
        """From now on no look goes back to the beginning by itself."""
        self.claims._full_at = float("inf")

    def look_from_the_beginning(self) -> None:
        """The next look does."""
        self.claims._full_at = 0.0

    def blocks(self, connection: Connection, work: Callable[[], Any]) -> int:
        """Pages of our tables and their indexes that `work` touched."""
        before = self._counted(connection)
        work()
        return (self._counted(connection) - before).total()

    def plans(self, connection: Connection, mode: str) -> dict[str, list[Node]]:
        """What each statement of the next look is planned as, and what it does; none of it stays done."""
        found = {}
        with connection.transaction(force_rollback=True):
            connection.execute(CLAIM_PLAN.render("dbdurable").encode())
            connection.execute(f"set local plan_cache_mode = {mode}".encode())
            for query in self.claims.ask():
                found[query.statement.name] = explained(connection, query.statement, query.params)
        return found

    def _counted(self, connection: Connection) -> Counter[str]:
        """What was touched until now: a session may keep some of its counts to itself for one more statement."""
        found, last = counted(connection), None
        while found != last:
            for session in self._connection.getconn(), connection:  # whoever filled the tables has counts, too
                session.execute("select pg_stat_force_next_flush()")
            found, last = counted(connection), found
        return found

    def close(self) -> None:
        self._connection.close()
        self._durable.close()

    # -- what claims ask of the attempts -----------------------------------------------------------------------

    def next_batches(self, many: int) -> int:
        first, self._batches = self._batches, self._batches + many
        return first

    def free(self, is_async: bool) -> int:
        return 0 if is_async else self._free

    def running_of(self, queue: str) -> int:
        return 0

    def launch(self, definition: Any, frame: Any, batch: int, input: str) -> None:
        self.claimed.append(frame.id)


def counted(connection: Connection) -> Counter[str]:
    """By table: pages of it and its indexes that were touched since the beginning, in memory or not."""
    rows = connection.execute(
        "select relname, heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0)::bigint "
        "from pg_statio_all_tables where schemaname = 'dbdurable' and relname = any(%s)",
        [list(TABLES)],
    ).fetchall()
    return Counter({name: int(blocks) for name, blocks in rows})


def backlog(connection: Connection, many: int, name: str = "work", partitions: int = 1, queue: str = "default") -> None:
    """So many queued workflows with their tickets; nothing analyses or vacuums the tables afterwards."""
    for table in ("workflow", "ready", "lease"):
        connection.execute(f"alter table dbdurable.{table} set (autovacuum_enabled = off)".encode())
    connection.execute(
        """
        with w as (
            insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                            status, epoch, attempt)
            select dbdurable.uuid7(), %(name)s, %(queue)s,
                   case when %(parts)s > 1 then (n %% %(parts)s)::text else '' end, 0, 20, now(), '{"n": 1}',
                   'queued', 0, 1 from generate_series(1, %(many)s) n
            returning id, name, queue, partition)
        insert into dbdurable.ready (queue, partition, rank, workflow_id, name)
        select queue, partition, 1, id, name from w
        """,
        {"name": name, "queue": queue, "parts": partitions, "many": many},
    )
