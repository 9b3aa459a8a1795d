"""A process is frozen at a point, its workflow goes on without it, it wakes: nothing of it commits any more."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pytest

from dbdurable._sql import upkeep as sql
from dbdurable.testing.crash import Point
from tests.crash.actors import TRIES, Actor, Job, Report, acting, run
from tests.crash.conftest import Note
from tests.crash.faults import of_programs, sample
from tests.crash.oracle import blamed_on, check_house, check_same, expire_all, is_mid_flight, traces
from tests.crash.programs import PROGRAMS
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]
# A frozen process finds out by its heartbeat; it then goes on under a new identity.
QUICK = {"DBDURABLE_BEAT_INTERVAL_S": "0.2"}
# Who goes on with these writes what the frozen one has written in an open transaction, under the same key.
TALKS = ("talks", "async talks")


def points_of_work(points: list[Point]) -> list[Point]:
    """From the workflow's first point to its end."""
    of_run = of_programs(points)
    begin = next(n for n, at in enumerate(of_run) if at.name == "before call ")
    end = next(n for n, at in enumerate(of_run) if at.name.startswith("before finish"))
    return of_run[begin : end + 1]


def id_of(connection: Connection, name: str) -> Any:
    row = connection.execute("select id from dbdurable.workflow where input::json ->> 'run' = %s", [name]).fetchone()
    assert row is not None
    return row[0]


_number = itertools.count(1)


@contextlib.contextmanager
def frozen(connection: Connection, job: Job) -> Iterator[tuple[Actor, str]]:
    """A process that stands still at its point, its services wherever they are, and the name of its run."""
    assert job.fault is not None
    for _ in range(TRIES):
        name = f"run-{next(_number)}"
        with acting(replace(job, runs=(name,), environment=QUICK)) as actor:
            if actor.comes_to_its_fault():
                actor.wait_frozen()
                assert not is_mid_flight(connection), "the server waits for the rest of a flight, others for its locks"
                yield actor, name
                return
    raise AssertionError(f"void: {job.fault[0]} not reached in {TRIES} runs")


# -- what happens while it is frozen: each says since when, and from which epoch on, the old one has no say ----


def take_over(connection: Connection, name: str) -> tuple[datetime, int]:
    """What another replica does with a dead one's work, statement by statement."""
    id = id_of(connection, name)
    before = _mark(connection, id)
    if _status(connection, id) in ("waiting", "queued"):
        return before  # it has no owner: nothing of the frozen one's is under way that could commit
    connection.execute(
        "update dbdurable.executor set expires_at = clock_timestamp() - interval '1 s' where id = "
        "(select executor_id from dbdurable.workflow where id = %s)",
        [id],
    )

    def recovered() -> bool:
        # Once may not do: the frozen process's own look at the dead may just be on its way through the server.
        connection.execute(_raw(sql.DECLARE_EXPIRED))
        connection.execute(_raw(sql.RECOVER))
        return _mark(connection, id)[1] > before[1]

    wait_until(recovered, 3, "a new epoch: it grows at every change of owner")
    return _mark(connection, id)


def pause(connection: Connection, name: str) -> tuple[datetime, int]:
    id = id_of(connection, name)
    connection.execute("select dbdurable.pause(%s)", [id])
    return _mark(connection, id)


def cancel(connection: Connection, name: str) -> tuple[datetime, int]:
    id = id_of(connection, name)
    connection.execute("select dbdurable.cancel(%s, 'no more')", [id])
    return _mark(connection, id)


def _raw(statement: sql.Statement) -> Any:
    return statement.render("dbdurable")


def _status(connection: Connection, id: Any) -> str:
    row = connection.execute("select status::text from dbdurable.workflow where id = %s", [id]).fetchone()
    assert row is not None
    return str(row[0])


def _mark(connection: Connection, id: Any) -> tuple[datetime, int]:
    row = connection.execute("select clock_timestamp(), epoch from dbdurable.workflow where id = %s", [id]).fetchone()
    assert row is not None
    return row


# -- the oracle ----------------------------------------------------------------------------------------------


def check_fenced(connection: Connection, name: str, since: datetime, epoch: int) -> None:
    """Promise P2: since then no transaction, and no error, of a former epoch was recorded."""
    late = connection.execute(
        """
        select s.path, s.kind::text, s.name, s.epoch from dbdurable.step s where s.workflow_id = %s
           and s.epoch < %s and s.finished_at > %s and (s.kind = 'transaction' or s.error is not null)
        """,
        [id_of(connection, name), epoch, since],
    ).fetchall()
    assert late == [], f"committed by a zombie: {late}"


def check_as_golden(connection: Connection, name: str, report: Report, golden: Report) -> None:
    """The zombie has ended well, and what is left is what the undisturbed run has left."""
    assert report.exitcode == 0, report.error
    assert report.results[name] == golden.results["golden"]
    check_same(traces(connection, "golden"), traces(connection, name))


def check_all_done(url: str, connection: Connection, program: str) -> None:
    """One more process finishes whatever the zombies have left behind; then nothing is stranded."""
    expire_all(connection)
    run(Job(url, program, idle=True))
    check_house(connection)


def freeze_at(
    url: str,
    connection: Connection,
    program: str,
    meanwhile: Callable[[Connection, str], tuple[datetime, int]],
    choose: Callable[[list[Point]], list[Point]],
    mutant: str | None = None,
) -> tuple[list[Point], list[Point]]:
    """Freezes a run at each point, does `meanwhile`, wakes it, and lets it end. Points tried, and all.

    Nobody ends its transactions meanwhile, or there would be nothing left for the fence to do.
    """
    golden = run(Job(url, program, runs=("golden",), idle=True))
    every = points_of_work(golden.points)
    tried = choose(every)
    for at in tried:
        with frozen(connection, Job(url, program, (), (at, "freeze"), mutant, marked=False)) as (zombie, name):
            since, epoch = meanwhile(connection, name)
            zombie.thaw()
            if meanwhile is pause:
                _resume_once_over(connection, name, since)
            report = zombie.end()
        with blamed_on(f"frozen at {at}"):
            check_fenced(connection, name, since, epoch)
            if meanwhile is cancel:
                assert "WorkflowCancelled" in (report.error or ""), report.error
                check_no_effect_without_record(connection, name)
            else:
                check_as_golden(connection, name, report, golden)
    check_all_done(url, connection, program)
    return tried, every


def _resume_once_over(connection: Connection, name: str, since: datetime) -> None:
    """Not before the zombie's transaction is over, one way or the other: it has to find the workflow paused."""
    wait_until(
        lambda: (
            not connection.execute(
                "select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'"
            ).fetchall()
        ),
        what="the zombie's transaction to end",
    )
    id = id_of(connection, name)
    late = connection.execute(
        "select path, name from dbdurable.step where workflow_id = %s and kind = 'transaction' and finished_at > %s",
        [id, since],
    ).fetchall()
    assert late == [], f"committed while paused: {late}"
    connection.execute("select dbdurable.resume(%s)", [id])


def check_no_effect_without_record(connection: Connection, name: str) -> None:
    """Each transaction that is recorded as done has its writes there, and no other has."""
    (done,) = connection.execute(
        "select count(*) from dbdurable.step where workflow_id = %s and kind = 'transaction' and error is null",
        [id_of(connection, name)],
    ).fetchone() or (0,)
    (effects,) = connection.execute("select count(*) from effect where run = %s", [name]).fetchone() or (0,)
    assert effects == done


def a_few(program: str) -> Callable[[list[Point]], list[Point]]:
    """The commits themselves, and some points by seed."""

    def choose(every: list[Point]) -> list[Point]:
        commits = [at for at in every if at.name == "before record_in_transaction + commit"]
        return list(dict.fromkeys([*commits[:1], *sample(every, 4, f"freeze {program}")]))

    return choose


@pytest.mark.parametrize("meanwhile", [take_over, pause, cancel])
def test_a_frozen_process_commits_nothing_any_more(
    meanwhile: Any, database_url: str, prepared: Connection, points_tried: Note
) -> None:
    tried, every = freeze_at(database_url, prepared, "transactions", meanwhile, a_few(meanwhile.__name__))
    points_tried(meanwhile.__name__, "freeze", tried, len(every))


@pytest.mark.parametrize("program", ["mixed", "async"])
def test_a_frozen_process_is_overtaken(
    program: str, database_url: str, prepared: Connection, points_tried: Note
) -> None:
    tried, every = overtake_at(database_url, prepared, program, a_few(program))
    points_tried(program, "zombie", tried, len(every))


def overtake_at(
    url: str,
    connection: Connection,
    program: str,
    choose: Callable[[list[Point]], list[Point]],
    mutant: str | None = None,
    marked: bool = False,
) -> tuple[list[Point], list[Point]]:
    """Another process runs the workflow to its end before the frozen one wakes: too late for anything.

    `marked`: what it has begun is ended when it is declared dead; else the fence has to do alone.
    """
    golden = run(Job(url, program, runs=("golden",), idle=True))
    every = points_of_work(golden.points)
    tried = choose(every)
    for at in tried:
        with frozen(connection, Job(url, program, (), (at, "freeze"), mutant, marked=marked)) as (zombie, name):
            expire_all(connection)
            with blamed_on(f"frozen at {at}"):
                rescued = run(Job(url, program, runs=(name,), mutant=mutant))
                assert rescued.results.get(name) == golden.results["golden"], rescued.error
            zombie.thaw()
            report = zombie.end()
        with blamed_on(f"frozen at {at}"):
            check_as_golden(connection, name, report, golden)
    check_all_done(url, connection, program)
    return tried, every


@pytest.mark.parametrize("program", TALKS)
def test_what_a_frozen_process_has_written_stands_in_nobodys_way(
    program: str, database_url: str, prepared: Connection, points_tried: Note
) -> None:
    """It has set an event in an open transaction: who goes on with its workflow sets the same one."""

    def behind_the_event(every: list[Point]) -> list[Point]:
        return [at for at in every if "after a statement of tell (3)" in str(at)]

    tried, every = overtake_at(database_url, prepared, program, behind_the_event, marked=True)
    assert len(tried) == 1, every
    points_tried(program, "zombie", tried, len(every))


FAMILIES = ("parent", "closes", "cascades", "greets", "async greets")
FREEZABLE = [p.name for p in PROGRAMS.values() if not p.queued and p.name not in FAMILIES]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", FREEZABLE)
def test_frozen_at_every_single_point(
    program: str, database_url: str, prepared: Connection, points_tried: Note
) -> None:
    # A wait may look once more in one run than in the next: those points are left out.
    others = [set(run(Job(database_url, program, runs=(f"other-{n}",), idle=True)).points) for n in range(3)]

    def common(every: list[Point]) -> list[Point]:
        return [at for at in every if all(at in other for other in others)]

    tried, every = overtake_at(database_url, prepared, program, common, marked=program in TALKS)
    points_tried(program, "zombie", tried, len(every))
    for meanwhile in (take_over, pause):
        prepared.execute("truncate effect, outside, dbdurable.workflow, dbdurable.workflow_key, dbdurable.step")
        tried, every = freeze_at(database_url, prepared, program, meanwhile, common)
        points_tried(f"{program} {meanwhile.__name__}", "freeze", tried, len(every))
