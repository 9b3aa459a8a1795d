"""Two hundred executors, each a process of its own, lose the server together and come back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.failover.conftest import Restartable, restartable
from tests.failover.many import serve
from tests.support.wait import wait_until

EXECUTORS, JOBS = 200, 2_000
EACH = 4
"""Connections of an executor: heartbeat, claims, listener, and one for what runs."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.failover.many"])


class Crowd:
    """Processes with an executor each."""

    def __init__(self, url: str, log: Path) -> None:
        self._pipes, self.processes = [], []
        for _ in range(EXECUTORS):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=serve, args=(url, str(log), theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def identities(self) -> set[UUID]:
        """What each has to say next."""
        return {pipe.recv() for pipe in self._pipes if pipe.poll(120)}

    def end(self) -> set[UUID]:
        """All close in good order; who they were at the end."""
        for pipe in self._pipes:
            pipe.send("end")
        last = self.identities()
        for process in self.processes:
            process.join(60)
        return last

    def memory_mb(self) -> float:
        """Of all together, each shared page once."""
        return sum(_pss_kb(process.pid) for process in self.processes) / 1024

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join(10)


def _pss_kb(pid: int | None) -> int:
    (line,) = [each for each in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if each.startswith("Pss:")]
    return int(line.split()[1])


@pytest.fixture
def crowded() -> Iterator[Restartable]:
    with restartable(max_connections=EACH * EXECUTORS + 20) as server:
        yield server


def registered(look: psycopg.Connection[Any]) -> set[UUID]:
    """Who lives, and beats over a session that is there."""
    found = look.execute(
        """
        select e.id from dbdurable.executor e join pg_stat_activity a
               on a.pid = e.session_pid and a.backend_start = e.session_start
         where e.expires_at > clock_timestamp()
        """
    )
    return {id for (id,) in found}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_executors_come_back_at_once(crowded: Restartable, tmp_path: Path) -> None:
    """Under work, and to more work: nobody gives up, nobody loses its life, every job is done once."""
    crowd = Crowd(crowded.url, tmp_path / "executors.log")
    try:
        before = crowd.identities()
        assert len(before) == EXECUTORS
        with psycopg.connect(crowded.url, autocommit=True) as look:
            wait_until(lambda: registered(look) == before, 120, "all to beat")
            start(look, 0, JOBS // 2)
            wait_until(lambda: done(look) >= JOBS // 20, 60, "some jobs")
            done_before = done(look)
        refused_before = crowded.refused()
        crowded.stop("immediate")
        crowded.start()
        with psycopg.connect(crowded.url, autocommit=True) as look:
            start(look, JOBS // 2, JOBS)
            wait_until(lambda: registered(look) == before, 120, "all to beat again")
            wait_until(lambda: done(look) == JOBS, 300, "all jobs")
            written = look.execute("select count(*), count(distinct number) from effect").fetchone()
            ((workers,),) = look.execute("select count(distinct executor_id) from dbdurable.workflow")
            ((sessions,),) = look.execute("select count(*) from pg_stat_activity where application_name = 'dbdurable'")
        alive, memory_mb = sum(process.is_alive() for process in crowd.processes), crowd.memory_mb()
        last = crowd.end()
    finally:
        crowd.kill()
    print(
        f"{alive} executors, {memory_mb:,.0f} MB and {sessions} sessions of them at the end; refused: {refused_before} "
        f"before, {crowded.refused()} when they came back; {done_before} jobs before, all {JOBS} by {workers} of them"
    )
    assert done_before < JOBS // 2, "void: nothing was under way"
    assert written == (JOBS, JOBS)
    assert alive == EXECUTORS
    assert last == before, "somebody lost its life, and need not have"


def start(look: psycopg.Connection[Any], first: int, end: int) -> None:
    """Jobs that nobody is told of."""
    look.execute(
        "select dbdurable.start('count', json_build_object('number', n)) from generate_series(%s::int, %s::int) n",
        [first, end - 1],
    )


def done(look: psycopg.Connection[Any]) -> int:
    row = look.execute("select count(*) from dbdurable.workflow where status = 'succeeded'").fetchone()
    return int(row[0]) if row else 0
