"""One run: a server of its own, workers, clients and a nemesis; then peace, until all is done."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from dbdurable._embedded import EmbeddedServer
from dbdurable._embedded.keeper import read_postmaster
from dbdurable._io.migrate import migrate
from dbdurable._sql.upkeep import RECOVER
from tests.chaos import flows
from tests.chaos.clients import Client, Journal
from tests.chaos.nemesis import Nemesis
from tests.chaos.worker import work
from tests.support.databases import scratch_directory
from tests.support.processes import is_alive
from tests.support.wait import wait_until

SCHEMA = Path(__file__).with_name("schema.sql")
WORKERS, CLIENTS = 4, 2
STRIKE_EVERY_S = 0.8
DONE_WITHIN_S = 90.0
BACKLOG_MAX = 400
"""Clients rest while so many workflows are unfinished: a test of faults, not of load."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.worker", "tests.chaos.flows"])


@dataclass(frozen=True)
class Plan:
    """What one run is."""

    seed: int
    seconds: float
    workers: int = WORKERS
    faults: bool = True
    mutant: str | None = None
    done_within_s: float = DONE_WITHIN_S


@dataclass
class Report:
    """What happened in a run, apart from what the oracle says."""

    injected: dict[str, int] = field(default_factory=dict)
    hit: int = 0
    reborn: int = 0
    refused: int = 0
    acknowledged: int = 0
    left: int = 0
    """Workflows that were not finished when time was up."""
    drained_s: float = 0.0


class Worker:
    """A worker process as the arena sees it."""

    def __init__(self, number: int, url: str, directory: Path, mutant: str | None) -> None:
        self.number, self._open = number, False
        self._pipe, theirs = _context.Pipe()
        args = (url, str(directory / "outside"), str(directory / "workers.log"), mutant, theirs)
        self.process: ForkServerProcess = _context.Process(target=work, args=args, daemon=True)
        self.process.start()
        theirs.close()

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.process.pid})"

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def open(self) -> bool:
        """Whether it has said that its executor is open."""
        if not self._open and self._pipe.poll():
            self._open = self._pipe.recv() == "open"
        return self._open

    def cut(self, seed: int) -> int:
        """Breaks some of its connections; how many."""
        self._pipe.send(("cut", seed))
        if not self._pipe.poll(5):
            return 0
        _, many = self._pipe.recv()
        return int(many)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(10)

    def close(self) -> None:
        """Asks it to end by itself."""
        with contextlib.suppress(OSError):
            self._pipe.send("close")


class Arena:
    """The server, its database and the processes of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.directory = scratch_directory() / f"dbdurable-chaos-{uuid4().hex[:8]}"
        self.directory.mkdir(mode=0o755)
        (self.directory / "outside").touch()
        self.server = EmbeddedServer(
            self.directory / "pg", durable=False, linger_s=3.0, settings={"max_connections": 200}
        ).start()
        self._connection: psycopg.Connection[Any] | None = None
        self.workers: list[Worker] = []
        self._numbers = iter(range(1, 1_000_000))
        self.journal = Journal(self.directory / "journal")
        migrate(self.connection, "dbdurable")
        self.connection.execute(SCHEMA.read_bytes())
        # What clients start by name and queue is known before the first worker is there.
        flows.durable.configure(url=self.url, migrate=False)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The conductor's own session; a new one after each restart of the server."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.url, autocommit=True, application_name="chaos")
        return self._connection

    def all(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), params).fetchall()

    def one(self, query: str, *params: Any) -> Any:
        ((value,),) = self.all(query, *params)
        return value

    @staticmethod
    def now() -> float:
        return time.monotonic()

    # -- processes -------------------------------------------------------------------------------------------

    def add_worker(self) -> Worker:
        worker = Worker(next(self._numbers), self.url, self.directory, self.plan.mutant)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.add_worker()

    def restart_server(self) -> None:
        """SIGQUIT: sessions end at once, no checkpoint; then up again from its log."""
        found = read_postmaster(self.server.data)
        assert found is not None
        with contextlib.suppress(psycopg.Error):
            self.connection.close()
        os.kill(found.pid, signal.SIGQUIT)
        wait_until(lambda: not is_alive(found.pid), 30, "the server to end")
        self.server.start()

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, advance: Callable[[str, float], None] = lambda what, share: None) -> Report:
        """Chaos for so many seconds, then peace until everything is finished, or time is up."""
        plan, report = self.plan, Report()
        for _ in range(plan.workers):
            self.add_worker()
        wait_until(lambda: all(worker.open for worker in self.workers), 60, "the workers")
        nemesis = Nemesis(self, plan.seed)
        clients = [Client(number, plan.seed, self.url, self.journal) for number in range(CLIENTS)]
        begun, pace = self.now(), threading.Event()
        strike_at = begun + STRIKE_EVERY_S
        while (now := self.now()) < begun + plan.seconds:
            with contextlib.suppress(psycopg.OperationalError):
                self._sample()
                unfinished = self._unfinished()
                for client in clients:
                    client.rest(unfinished > BACKLOG_MAX)
                if plan.faults and now >= strike_at:
                    strike_at = now + STRIKE_EVERY_S
                    nemesis.strike(now)
            advance(_said(nemesis), (now - begun) / plan.seconds)
            pace.wait(0.05)
        nemesis.heal(self.now())
        for client in clients:
            client.stop()
        self._drain(report, advance)
        report.injected, report.hit, report.reborn = dict(nemesis.injected), nemesis.hit, nemesis.reborn
        report.refused = sum(client.refused for client in clients)
        report.acknowledged = self.journal.acknowledged
        self._load()
        return report

    def _unfinished(self) -> int:
        return int(
            self.one("select count(*) from dbdurable.workflow where status not in ('succeeded', 'failed', 'cancelled')")
        )

    def _sample(self) -> None:
        """Who holds what of the limits, against what is counted: one snapshot."""
        self.connection.execute(
            """
            insert into chaos.sample (queue, partition, used, holders)
            select k.queue, k.partition, k.used,
                   (select count(*) from dbdurable.workflow w where w.queue = k.queue and k.partition = any(w.slots)
                       and w.status not in ('succeeded', 'failed', 'cancelled'))
              from dbdurable.limit_key k
            """
        )

    def _drain(self, report: Report, advance: Callable[[str, float], None]) -> None:
        """Until all is finished and every dead process was cleared away; then the workers leave in good order."""
        begun = self.now()

        def still() -> int:
            return self._unfinished() + int(
                self.one(
                    "select count(*) from dbdurable.lease l left join dbdurable.executor e on e.id = l.executor_id "
                    "where e.id is null or e.expires_at < clock_timestamp()"
                )
            )

        with contextlib.suppress(AssertionError):
            wait_until(lambda: not still(), self.plan.done_within_s)
        report.left, report.drained_s = self._unfinished(), self.now() - begun
        advance(f"{report.left} left", 1.0)
        for worker in self.workers:
            worker.close()
        for worker in self.workers:
            worker.process.join(20)
        # A claim whose answer was lost leaves a lease row until its executor is gone: the next replica clears it.
        recover = RECOVER.render("dbdurable")
        wait_until(lambda: self.connection.execute(recover.encode()).fetchone() == (0, 0, 0), 10, "nothing to recover")

    def _load(self) -> None:
        """What happened outside of the database comes into it, for the oracle."""
        lines = (self.directory / "outside").read_text().splitlines()
        with self.connection.cursor() as cursor:
            with cursor.copy("copy chaos.outside from stdin") as copy:
                for line in lines:
                    copy.write_row(json.loads(line))
            with cursor.copy("copy chaos.asked from stdin") as copy:
                for row in self.journal.rows():
                    copy.write_row(row)

    def close(self, keep: bool = False) -> None:
        """Nothing of the run stays, except its directory where it is wanted."""
        for worker in self.workers:
            if worker.alive:
                worker.kill()
        flows.durable.close()
        self.journal.close()
        self.connection.close()
        self.server.stop()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def arena(plan: Plan) -> Iterator[Arena]:
    """An arena that leaves nothing behind."""
    opened = Arena(plan)
    try:
        yield opened
    finally:
        opened.close()


def _said(nemesis: Nemesis) -> str:
    return " ".join(f"{kind} {many}" for kind, many in sorted(nemesis.injected.items()))
