"""What shares a commit does what each would have done alone: the same rows, the same answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from dbdurable import Durable
from dbdurable._io.drive import SyncDriver
from dbdurable._protocol.effects import Query
from dbdurable._protocol.ride import RIDES, rides
from dbdurable._protocol.start import Start
from dbdurable._sql.message import SEND_ONCE, SEND_RECORDED
from dbdurable._sql.start import ADOPT_CHILD, START_CHILD
from dbdurable._sql.wait import LOOK, PARK
from dbdurable._sql.workflow import FINISH

Connection = psycopg.Connection[Any]
ME = uuid4()
DUE = datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)


def workflow(connection: Connection, status: str = "running", epoch: int = 1) -> UUID:
    """One that this executor owns."""
    id = uuid4()
    connection.execute(
        """
        insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, input,
                                        status, epoch, executor_id, attempt)
        values (%s, 'job', 'default', '', 0, 20, now(), '{}', %s, %s, %s, 1)
        """,
        [id, status, epoch, ME],
    )
    return id


def wait(connection: Connection, id: UUID, path: str, kind: str, subject: str = "", due_s: float | None = None) -> None:
    """It waits for that; what is due has rung."""
    connection.execute(
        "insert into dbdurable.wait (workflow_id, path, kind, subject, due, rung) values "
        "(%s, %s, %s, %s, now() + make_interval(secs => %s), %s)",
        [id, path, kind, subject, due_s, due_s is not None and due_s <= 0],
    )


BATCHES = count(1)

Scene = Callable[[Connection], tuple[list[UUID], list[Query]]]
"""Makes workflows, and returns them with an item for each."""


def parks(connection: Connection) -> tuple[list[UUID], list[Query]]:
    asleep, listening, both, limited, taken = [workflow(connection) for _ in range(5)]
    wait(connection, asleep, "1", "sleep", due_s=-1)
    wait(connection, listening, "1", "sleep", due_s=90)
    wait(connection, limited, "~", "deadline", due_s=900)
    wait(connection, limited, "2", "timeout", due_s=600)
    connection.execute("update dbdurable.workflow set epoch = 2, interrupt = 'enough' where id = %s", [taken])

    def item(id: UUID, *waits: tuple[str, str, str, float | None, datetime | None, int]) -> Query:
        return Query(PARK, (id, ME, 1, "default", None, *(list(column) for column in zip(*waits, strict=True))))

    sleep = ("1", "sleep", "", 3600.5, None, 0)
    return [asleep, listening, both, limited, taken], [
        item(asleep, sleep),
        item(listening, ("2", "message", 'a "quoted" topic, {braced} \\ ü', None, None, 0)),
        item(both, ("1.1", "event", f"{asleep}:ready", 30.0, None, 0), ("1.2", "sleep", "", None, DUE, 3)),
        item(limited, ("2.1", "message", "go", 60.0, None, 0)),
        item(taken, sleep),
    ]


def looks(connection: Connection) -> tuple[list[UUID], list[Query]]:
    ids = [workflow(connection, "waiting") for _ in range(8)]
    rung, early, told, untold, joined, answered, never, gone = ids
    ended, speaks = workflow(connection, "succeeded"), workflow(connection)
    wait(connection, rung, "1", "sleep", due_s=-1)
    wait(connection, early, "1", "sleep", due_s=3600)
    wait(connection, told, "1", "message", "go")
    wait(connection, untold, "1", "message", "go")
    for id, topic in ((told, "go"), (untold, "stay")):
        connection.execute("insert into dbdurable.message values (%s, %s, %s)", [id, uuid4(), topic])
    wait(connection, joined, "1", "result", str(ended))
    wait(connection, answered, "1", "event", f"{speaks}:ready")
    connection.execute("insert into dbdurable.event (workflow_id, name) values (%s, 'ready')", [speaks])
    wait(connection, never, "1", "event", f"{ended}:ready")
    wait(connection, gone, "1", "sleep", due_s=-1)
    connection.execute("update dbdurable.workflow set status = 'paused' where id = %s", [gone])
    return [*ids, ended, speaks], [Query(LOOK, (id,)) for id in ids]


def sends_of_bodies(connection: Connection) -> tuple[list[UUID], list[Query]]:
    senders = [workflow(connection) for _ in range(5)]
    reads, waits, ended = workflow(connection), workflow(connection, "waiting"), workflow(connection, "succeeded")
    connection.execute("update dbdurable.workflow set epoch = 2 where id = %s", [senders[2]])
    connection.execute(
        "insert into dbdurable.step (workflow_id, path, seq, kind, name, attempts, epoch, started_at, finished_at) "
        "values (%s, '1', 1, 'send', 'go', 1, 1, now(), now())",
        [senders[3]],
    )
    to = [reads, waits, reads, reads, ended]
    return [*senders, reads, waits, ended], [
        Query(SEND_RECORDED, (id, "1", 1, "send", "go", ME, 1, receiver, "go", f'{{"n": {n}}}', None))
        for n, (id, receiver) in enumerate(zip(senders, to, strict=True))
    ]


def sends_of_clients(connection: Connection) -> tuple[list[UUID], list[Query]]:
    reads, ended = workflow(connection, "waiting"), workflow(connection, "failed")
    key = f"message {uuid4()}"
    return [reads, ended], [
        Query(SEND_ONCE, (reads, "go", "1", key)),
        Query(SEND_ONCE, (reads, "go", "2", f"message {uuid4()}")),
        Query(SEND_ONCE, (reads, "go", "1", key)),  # again: its answer was lost
        Query(SEND_ONCE, (ended, "go", "3", f"message {uuid4()}")),
        Query(SEND_ONCE, (reads, "go", "4", f"message {uuid4()}")),
    ]


def starts_of_children(connection: Connection) -> tuple[list[UUID], list[Query]]:
    parent, other, cancelled = workflow(connection), workflow(connection), workflow(connection)
    connection.execute("update dbdurable.workflow set deadline = %s where id = %s", [DUE, parent])
    connection.execute("update dbdurable.workflow set epoch = 2 where id = %s", [cancelled])
    given: list[dict[str, Any]] = [
        {"input": '{"text": "a \\"quoted\\" {ü}"}'},
        {"delay_s": 3600.5, "priority": 7, "timeout_s": 600.0, "attributes": '{"of": [1, "x"]}', "partition": "p"},
        {"at": DUE, "expires_s": 900.0, "cost": 3, "max_attempts": 5, "parent_close": "cancel"},
        {"queue": "other", "parent_close": "abandon"},
        {"name": "nobody", "registered": False},
        {},
    ]
    owners = [parent, other, parent, parent, parent, cancelled]
    children = [
        Start(**{"id": uuid4(), "name": "kid", "input": "{}", "parent_id": owner} | fields)
        for fields, owner in zip(given, owners, strict=True)
    ]
    return [parent, other, cancelled, *(child.id for child in children)], [
        Query(START_CHILD, (*child.params, owner, f"{n}", n, ME, 1, "child", child.parent_close))
        for n, (child, owner) in enumerate(zip(children, owners, strict=True), 1)
    ]


def adoptions(connection: Connection) -> tuple[list[UUID], list[Query]]:
    ids = [workflow(connection, "queued", epoch) for epoch in (0, 3, 0, 0)]
    begun, _, later, paused = ids
    connection.execute("update dbdurable.workflow set executor_id = null where id = any(%s)", [ids])
    wait(connection, later, "", "start", due_s=60)
    connection.execute("insert into dbdurable.queue (name, paused) values ('held', true) on conflict do nothing")
    connection.execute("update dbdurable.workflow set queue = 'held' where id = %s", [paused])
    taken = workflow(connection)
    return [*ids, taken], [Query(ADOPT_CHILD, (id, ME, next(BATCHES))) for id in (begun, *ids[1:], taken)]


WRITTEN = """
    select 'workflow', status::text, epoch::text, slots::text, '' from dbdurable.workflow where id = %(id)s
    union all
    select 'wait', path, concat_ws(' ', kind, rung, attempts, case when due = %(due)s then 'then'
                                   else round(extract(epoch from due - now()) / 30)::text end), subject, ''
      from dbdurable.wait where workflow_id = %(id)s
    union all
    select 'step', path, name, kind::text, output::text from dbdurable.step where workflow_id = %(id)s
    union all
    select 'message', topic, body::text, (row_number() over (order by at, id))::text, ''
      from dbdurable.message where workflow_id = %(id)s
    union all
    select 'born', w.name, concat_ws(' ', w.queue, w.partition, w.priority, w.max_attempts, w.parent_policy, w.cost,
                                     case when w.deadline = %(due)s then 'then'
                                     else round(extract(epoch from w.deadline - now()) / 30)::text end,
                                     round(extract(epoch from w.expires_at - w.created_at) / 30)),
           concat_ws(' ', w.input, w.attributes), w.parent_id::text
      from dbdurable.workflow w where w.id = %(id)s
    union all
    select 'held', cardinality(l.ids)::text, (l.executor_id = w.executor_id)::text, '', ''
      from dbdurable.lease l join dbdurable.workflow w on w.id = any(l.ids) where w.id = %(id)s
    union all
    select 'ticket', queue, name, wake::text, '' from dbdurable.ready where workflow_id = %(id)s
    order by 1, 2, 3
"""


def outcome(connection: Connection, ids: Sequence[UUID], answers: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Each workflow's rows, and each answer; what differs from run to run is left out."""
    names = {str(id): f"<{n}>" for n, id in enumerate(ids)}

    def plain(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value > 1_000_000:
            return "a time"  # microseconds
        if isinstance(value, BaseException):
            return type(value).__name__
        text = str(value)
        for id, name in names.items():
            text = text.replace(id, name)
        return text

    rows = [[tuple(map(plain, row)) for row in connection.execute(WRITTEN, {"id": id, "due": DUE})] for id in ids]
    said = [[tuple(map(plain, row)) for row in each] if isinstance(each, list) else plain(each) for each in answers]
    return rows, said


@pytest.fixture
def driver(database_url: str) -> Any:
    application = Durable(database_url)
    application._runtime.database.prepare()
    yield SyncDriver(application._runtime.database, rides=False)
    application.close()


@pytest.mark.parametrize(
    ("scene", "alone_again"),
    [
        (parks, [4]),
        (looks, []),
        (sends_of_bodies, [2, 3, 4]),
        (sends_of_clients, [2, 3, 4]),
        (starts_of_children, [3, 4, 5]),
        (adoptions, [2, 3, 4]),
    ],
)
def test_together_as_alone(scene: Scene, alone_again: list[int], driver: SyncDriver, connection: Connection) -> None:
    """`alone_again`: the items that whoever waits for them has to ask for by itself."""
    ids, items = scene(connection)
    assert all(rides(item) for item in items)
    alone = outcome(connection, ids, [driver.flush([item])[0] for item in items])

    ids, items = scene(connection)
    answers = driver.flush(items)
    assert [place for place, answer in enumerate(answers) if answer is None] == alone_again
    for place in alone_again:
        answers[place] = driver.flush([items[place]])[0]
    assert outcome(connection, ids, answers) == alone
    rows, said = alone
    print(*rows, said, sep="\n")
    assert any(rows), "void: nothing was written"


@pytest.mark.parametrize("scene", [parks, sends_of_bodies, starts_of_children, adoptions])
def test_whoever_holds_a_row_delays_no_neighbour(
    scene: Scene, driver: SyncDriver, connection: Connection, database_url: str
) -> None:
    ids, items = scene(connection)
    items = items[:2]
    with psycopg.connect(database_url) as stranger:
        stranger.execute("select from dbdurable.workflow where id = %s for update", [ids[0]])
        answers = driver.flush(items)
        assert answers[0] is None
        assert isinstance(answers[1], list)
        assert len(answers[1]) == 1
        waiting = threading.Thread(target=lambda: answers.append(driver.flush([items[0]])[0]))
        stranger.rollback()
        waiting.start()
        waiting.join(20)
    assert len(answers[2]) == 1  # type: ignore[arg-type]


def test_what_may_have_to_wait_rides_with_nobody() -> None:
    """A caller's key belongs to whoever commits it first, and a limit's row to one at a time."""
    id = uuid4()
    waits: tuple[list[Any], ...] = (["1"], ["sleep"], [""], [1.0], [None], [0])
    assert rides(Query(PARK, (id, ME, 1, "default", None, *waits)))
    assert not rides(Query(PARK, (id, ME, 1, "narrow", [""], *waits)))
    sent = (id, "1", 1, "send", "go", ME, 1, uuid4(), "go", "1")
    assert rides(Query(SEND_RECORDED, (*sent, None)))
    assert not rides(Query(SEND_RECORDED, (*sent, "key")))
    owner = (id, "1", 1, ME, 1, "child", None)
    assert rides(Query(START_CHILD, (*Start(id, "kid", "{}", parent_id=id).params, *owner)))
    assert not rides(Query(START_CHILD, (*Start(id, "kid", "{}", parent_id=id, key="key").params, *owner)))
    finish = (id, ME, 1, "succeeded", "1", None, None)
    assert rides(Query(FINISH, (*finish, "default", None)))
    assert not rides(Query(FINISH, (*finish, "narrow", [""])))
    assert len(RIDES) == 10
