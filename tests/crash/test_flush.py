"""Commits that several workflows share: killed, cut and poisoned, no neighbour suffers and nothing is done twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from dbdurable import Durable
from dbdurable._core.control import Fenced
from dbdurable._io import riders
from dbdurable._io.drive import SyncDriver, append_params, sync_riders
from dbdurable._protocol.effects import Append, Query, StepRecord
from dbdurable._protocol.ride import BATCH_CHARS_MAX, rides, weight
from dbdurable._protocol.start import Start
from dbdurable._sql.message import SEND_ONCE, SEND_RECORDED
from dbdurable._sql.start import START, START_CHILD
from dbdurable._sql.step import APPEND
from dbdurable._sql.wait import END_WAIT
from dbdurable._sql.workflow import FINISH
from dbdurable.errors import UnknownQueue
from dbdurable.testing.crash import FLUSH, Point
from tests.crash.actors import Job, run
from tests.crash.oracle import check_house
from tests.crash.workflows import durable, family, mixed, pals
from tests.support.wait import wait_until

Connection = psycopg.Connection[Any]
WORKFLOWS = 160
"""Enough for some thirty shared commits: the fault must find its own."""


POINTS = [("before", 1), ("after", 1), ("before", 2), ("after", 2), ("before", 5), ("after", 8)]


@pytest.mark.parametrize("action", ["kill", "cut"])
@pytest.mark.parametrize(("when", "number"), POINTS)
def test_at_a_point_of_a_shared_commit(
    when: str, number: int, action: str, database_url: str, prepared: Connection
) -> None:
    run(Job(database_url, "steps"))  # the names are known from now on
    names = [f"load-{n}" for n in range(WORKFLOWS)]
    durable.configure(url=database_url, migrate=False)
    prepared.execute("select dbdurable.declare_queue('load', null)")
    for name in names:
        mixed.options(key=name, queue="load").start(name)
    durable.close()

    crash_and_go_on(database_url, prepared, Point("flush", f"{when} flush", number), action)
    of = prepared.execute
    assert of("select run from effect where run like 'load-%' group by run having count(*) <> 2").fetchall() == []
    assert of("select run, what from outside group by 1, 2 having count(distinct key) <> 1").fetchall() == []


@pytest.mark.parametrize("action", ["kill", "cut"])
@pytest.mark.parametrize(("when", "number"), POINTS)
def test_sends_and_parks_at_a_point_of_a_shared_commit(
    when: str, number: int, action: str, database_url: str, prepared: Connection
) -> None:
    run(Job(database_url, "steps"))
    durable.configure(url=database_url, migrate=False)
    ids = [durable._runtime.database.new_id() for _ in range(WORKFLOWS)]
    prepared.execute("select dbdurable.declare_queue('load', null)")
    durable.client.start_many(
        pals.options(id=id, queue="load").bind(f"load-{n}", str(ids[n ^ 1])) for n, id in enumerate(ids)
    )
    durable.close()

    crash_and_go_on(database_url, prepared, Point("flush", f"{when} flush", number), action)
    of = prepared.execute
    assert of("select count(*), count(distinct run), sum(value) from effect").fetchone() == (WORKFLOWS,) * 3
    kinds = "select kind::text, count(*) from dbdurable.step where workflow_id = any(%s) group by 1"
    assert dict(of(kinds, [ids]).fetchall()) == dict.fromkeys(("send", "recv", "transaction"), WORKFLOWS)
    assert of("select (select count(*) from dbdurable.message), (select count(*) from dbdurable.wait)").fetchone() == (
        0,
        0,
    )


@pytest.mark.parametrize("action", ["kill", "cut"])
@pytest.mark.parametrize(("when", "number"), POINTS)
def test_children_at_a_point_of_a_shared_commit(
    when: str, number: int, action: str, database_url: str, prepared: Connection
) -> None:
    run(Job(database_url, "steps"))
    durable.configure(url=database_url, migrate=False)
    prepared.execute("select dbdurable.declare_queue('load', null)")
    parent = family.sync.options(queue="load").start("load", WORKFLOWS)
    durable.close()

    crash_and_go_on(database_url, prepared, Point("flush", f"{when} flush", number), action, many=1)
    of = prepared.execute
    assert of("select output::text from dbdurable.workflow where id = %s", [parent.id]).fetchone() == (f"{WORKFLOWS}",)
    assert of("select count(*), count(distinct what) from effect where run = 'load'").fetchone() == (WORKFLOWS,) * 2
    kids = """
        select status::text, count(*), count(distinct input::text)
          from dbdurable.workflow where parent_id = %s group by 1
    """
    assert of(kids, [parent.id]).fetchall() == [("succeeded", WORKFLOWS, WORKFLOWS)]


def crash_and_go_on(url: str, connection: Connection, at: Point, action: str, many: int = WORKFLOWS) -> None:
    """A process that works off the queue `load` is hit at that point; another one goes on to the end."""
    report = run(Job(url, "mixed", claims=("load",), threads=16, fault=(at, action), idle=True))
    assert report.fired == at, "void: the fault was not injected"
    connection.execute("update dbdurable.executor set expires_at = '-infinity'")
    run(Job(url, "mixed", claims=("load",), idle=True))

    check_house(connection)
    statuses = "select status::text, count(*) from dbdurable.workflow where queue = 'load' group by 1"
    assert connection.execute(statuses).fetchall() == [("succeeded", many)]


class Dam:
    """A seam that holds the first flush of one item until others have gathered behind it."""

    def __init__(self) -> None:
        self.held, self.open, self.points = threading.Event(), threading.Event(), list[str]()

    def reached(self, point: str, connection: Any) -> None:
        if not point.startswith("before"):
            return
        self.points.append(point)
        if len(self.points) <= 2:  # both flushes that may be under way at once
            if len(self.points) == 2:
                self.held.set()
            assert self.open.wait(20)


def gather(
    application: Durable, items: Sequence[Query], answers: list[Any] | None = None
) -> tuple[list[Any], list[str]]:
    """What came of the items when all but the first two ride together, and the points of the flushes.

    `answers`: where they are noted as they come.
    """
    database = application._runtime.database
    database.prepare()
    answers = [] if answers is None else answers
    answers[:] = [None] * len(items)
    dam, riders = Dam(), sync_riders(database)
    database.seam = dam

    def ride(place: int) -> None:
        try:
            answers[place] = SyncDriver(database).run(one(items[place]))
        except Exception as error:
            answers[place] = error

    threads = [threading.Thread(target=ride, args=(place,)) for place in range(len(items))]
    for thread in threads[:2]:
        thread.start()
    assert dam.held.wait(20)
    for thread in threads[2:]:
        thread.start()
    wait_until(lambda: len(riders._waiting) == len(items) - 2)
    dam.open.set()
    for thread in threads:
        thread.join(30)
    database.seam = None
    return answers, dam.points


def one(item: Query) -> Any:
    return (yield item)


def start_item(queue: str = "default", known: bool = True) -> Query:
    return Query(START, Start(uuid4(), "job", '{"n": 1}', queue=queue, known_queue=known).params)


@pytest.fixture
def application(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(riders, "PATIENCE_S", 60.0)  # who gathers behind a dam waits for it
    made = Durable(database_url)
    yield made
    made.close()


def test_what_has_gathered_is_one_commit(application: Durable, connection: Connection) -> None:
    items = [start_item() for _ in range(60)]
    answers, points = gather(application, items)
    assert [answer[0][0] for answer in answers] == [item.params[4] for item in items]
    assert points == ["before start", "before start", "before ride_together + start_many"]
    assert connection.execute("select count(distinct xmin::text) from dbdurable.workflow").fetchone() == (3,)


def test_what_is_large_is_no_single_commit(application: Durable, connection: Connection) -> None:
    large = Start(uuid4(), "job", f'{{"text": "{"x" * (BATCH_CHARS_MAX * 2 // 5)}"}}')
    items = [Query(START, replace(large, id=uuid4()).params) for _ in range(7)]
    answers, points = gather(application, items)
    assert [answer[0][0] for answer in answers] == [item.params[4] for item in items]
    assert points[2:] == [f"before {FLUSH} + start_many", f"before {FLUSH} + start_many", "before start"]


def test_what_an_item_weighs() -> None:
    """Whatever a user may have made large."""
    start, id = Start(uuid4(), "job", "12345", attributes="12"), uuid4()
    record = StepRecord(id, "1", 1, "step", "call", 1, 1, 0.1, "123", "4567")
    assert weight(Query(START, start.params)) == 7
    assert weight(Query(START_CHILD, (*start.params, id, "1", 1, id, 1, "child", None))) == 7
    assert weight(Query(APPEND, append_params(Append(id, record)))) == 7
    assert weight(Query(END_WAIT, (id, "1", 1, "sleep", "sleep", id, 1, 0.5, "123", None))) == 3
    assert weight(Query(SEND_ONCE, (id, "topic", "1234", "key"))) == 4
    assert weight(Query(SEND_RECORDED, (id, "1", 1, "send", "topic", id, 1, id, "topic", "1234", None))) == 4
    assert weight(Query(FINISH, (id, id, 1, "failed", None, "12", "reason", None, None))) == 2


def test_one_poisoned_item_among_many_fails_alone(application: Durable, connection: Connection) -> None:
    items = [start_item() for _ in range(100)]
    items[50] = start_item(queue="typo", known=False)
    answers, _ = gather(application, items)
    assert isinstance(answers.pop(50), UnknownQueue)
    assert all(isinstance(answer, list) for answer in answers)
    assert connection.execute("select count(*) from dbdurable.workflow").fetchone() == (99,)


def running(connection: Connection) -> tuple[UUID, list[UUID]]:
    """An executor and 20 workflows that it runs; each has a wait at '1'."""
    me, ids = uuid4(), [uuid4() for _ in range(20)]
    for id in ids:
        connection.execute(
            """
            insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                            status, epoch, executor_id, attempt)
            values (%s, 'job', 'default', '', 0, 20, now(), '{}', 'running', 1, %s, 1)
            """,
            [id, me],
        )
        connection.execute("insert into dbdurable.wait (workflow_id, path, kind) values (%s, '1', 'sleep')", [id])
    return me, ids


def end_wait_item(id: UUID, me: UUID, epoch: int = 1) -> Query:
    return Query(END_WAIT, (id, "1", 1, "sleep", "sleep", me, epoch, 0.5, None, None))


def test_the_ends_of_waits_ride_and_each_is_refused_alone(application: Durable, connection: Connection) -> None:
    me, ids = running(connection)
    connection.execute("update dbdurable.workflow set epoch = 2, interrupt = 'enough' where id = %s", [ids[7]])
    connection.execute(
        "insert into dbdurable.step (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at) "
        "values (%s, '1', 1, 'sleep', 'sleep', 1, 1, now(), now())",
        [ids[11]],
    )
    answers, points = gather(application, [end_wait_item(id, me) for id in ids])
    assert points[:3] == ["before end_wait", "before end_wait", "before ride_together + end_wait_many"]
    assert points[3:] == ["before end_wait", "before end_wait"]
    assert isinstance(answers[7], Fenced)
    assert answers[11] == [], "somebody had recorded it before"
    written = {id: int(us) for id, us in connection.execute(
        "select workflow_id, extract(epoch from finished_at) * 1000000 from dbdurable.step where path = '1'"
    )}  # fmt: skip
    assert [answers[n] for n in range(20) if n not in (7, 11)] == [
        [(written[ids[n]],)] for n in range(20) if n not in (7, 11)
    ]
    assert ids[7] not in written
    assert {id for (id,) in connection.execute("select workflow_id from dbdurable.wait")} == {ids[7], ids[11]}


@pytest.mark.parametrize("what", ["finish", "end_wait"])
def test_a_row_that_a_stranger_holds_delays_no_neighbour(
    what: str, application: Durable, connection: Connection, database_url: str
) -> None:
    me, ids = running(connection)
    if what == "finish":
        items = [Query(FINISH, (id, me, 1, "succeeded", str(n), None, None, None, None)) for n, id in enumerate(ids)]
        done = "select count(*) from dbdurable.workflow where status = 'succeeded'"
    else:
        items = [end_wait_item(id, me) for id in ids]
        done = "select count(*) from dbdurable.step"
    with psycopg.connect(database_url) as stranger:
        stranger.execute("select from dbdurable.workflow where id = %s for update", [ids[7]])
        answers, points = list[Any](), list[str]()
        thread = threading.Thread(target=lambda: points.extend(gather(application, items, answers)[1]))
        thread.start()
        wait_until(lambda: connection.execute(done).fetchone() == (19,))
        wait_until(lambda: sum(answer is not None for answer in answers) == 19, what="the neighbours to go on")
        stranger.rollback()
    thread.join(30)
    assert [len(answer) for answer in answers] == [1] * 20
    assert points[2:] == [f"before ride_together + {what}_many", f"before {what}"]
    assert connection.execute(done).fetchone() == (20,)
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)


def test_an_interrupted_leader_leaves_nobody_waiting(application: Durable, connection: Connection) -> None:
    database = application._runtime.database
    database.prepare()
    riders = sync_riders(database)
    flush, interrupted = riders._flush, threading.Event()

    def interrupt(items: Sequence[Query]) -> Any:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt
        return flush(items)

    riders._flush = interrupt
    with pytest.raises(KeyboardInterrupt):
        riders.ride(start_item())
    assert riders.ride(start_item())
    assert riders._flushes == 0


def test_no_start_with_a_key_or_a_parent_rides() -> None:
    assert rides(Query(START, Start(uuid4(), "job", "{}").params))
    assert not rides(Query(START, Start(uuid4(), "job", "{}", key="k").params))
    assert not rides(Query(START, Start(uuid4(), "job", "{}", parent_id=uuid4()).params))
