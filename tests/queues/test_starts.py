"""What a start may say of its place in a queue: priority, delay, expiry, depth, key; and many at once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from dbdurable import Client, Durable
from dbdurable.errors import BadArgument, KeyConflict, QueueFull, UnknownQueue, UnknownWorkflow, WorkflowCancelled
from dbdurable.types import Status
from tests.queues.conftest import Shop
from tests.support.wait import wait_until


def test_the_most_urgent_first_and_then_the_oldest(shop: Shop) -> None:
    for n, priority in enumerate([0, 5, -5, 0, -5, 10_000, -10_000]):
        shop.job.options(priority=priority).start("job", n)
    shop.gate.open()
    with shop.durable.executor(threads=1, tasks=0) as executor:
        executor.wait_idle(20)
    assert shop.gate.of("job") == [6, 2, 4, 0, 3, 1, 5]


def test_a_more_urgent_one_that_comes_later_is_next(shop: Shop) -> None:
    for n in range(3):
        shop.job.start("job", n)
    with shop.durable.executor(threads=1) as executor:
        shop.gate.wait_inside(1)
        shop.job.options(priority=-1).start("job", 99)
        shop.gate.open()
        executor.wait_idle(20)
    assert shop.gate.of("job") == [0, 99, 1, 2]


def test_a_delayed_start_waits_outside_of_the_queue(shop: Shop) -> None:
    later = shop.job.options(delay=timedelta(days=1)).start("later", 0)
    past = shop.job.options(at=datetime(2020, 1, 1, tzinfo=UTC)).start("past", 0)
    shop.gate.open()
    with shop.durable.executor(threads=2):
        assert past.result(30) == 0
        assert shop.one("select count(*) from dbdurable.ready") == 0
        assert shop.one("select delayed from dbdurable.queues where name = 'default'") == 1
        shop.connection.execute("update dbdurable.wait set due = clock_timestamp()")
        assert later.result(30) == 0


@pytest.mark.parametrize("where", ["nobody claims", "the queue is paused", "claimed too late"])
def test_what_was_not_begun_in_time_is_cancelled(where: str, shop: Shop) -> None:
    queue = shop.durable.queue("offers")
    handle = shop.job.options(queue=queue, expires=60).start("offers", 0)
    begun = shop.job.options(queue=queue, expires=60).start("offers", 1)
    shop.gate.open(1)
    with shop.durable.executor(threads=1, queues=["default"]):
        shop.connection.execute("select dbdurable.declare_queue('offers', null)")
        if where == "the queue is paused":
            shop.durable.client.pause_queue(queue)
        if where == "claimed too late":
            shop.connection.execute("delete from dbdurable.wait")
        shop.connection.execute(
            "update dbdurable.workflow set expires_at = expires_at - interval '1 hour' where id = %s", [handle.id]
        )
        shop.connection.execute(
            "update dbdurable.wait set due = due - interval '1 hour' where workflow_id = %s", [handle.id]
        )
        if where == "nobody claims":
            wait_until(lambda: handle.status() is Status.CANCELLED, 20)
    if where != "nobody claims":
        with shop.durable.executor(threads=1):
            wait_until(lambda: handle.status() is Status.CANCELLED, 20)
            if where == "the queue is paused":
                assert begun.status() is Status.QUEUED
                shop.durable.client.resume_queue(queue)
            assert begun.result(30) == 1
        assert shop.gate.of("offers") == [1]
    with pytest.raises(WorkflowCancelled, match="expired: it was not started in time"):
        handle.result(5)


def test_what_was_begun_in_time_does_not_expire(shop: Shop) -> None:
    handle = shop.job.options(expires=60).start("job", 0)
    with shop.durable.executor(threads=1):
        shop.gate.wait_inside(1)
        shop.connection.execute("update dbdurable.wait set due = clock_timestamp() where kind = 'expiry'")
        wait_until(lambda: shop.one("select count(*) from dbdurable.wait") == 0)
        shop.gate.open()
        assert handle.result(30) == 0


def test_a_full_queue_refuses_and_leaves_nothing_behind(shop: Shop) -> None:
    shop.connection.execute("""select dbdurable.declare_queue('small', '{"max_depth": 2}')""")
    queue = shop.durable.queue("small", max_depth=2)
    handles = [shop.job.options(queue=queue).start("small", n) for n in range(2)]
    for start in (
        lambda: shop.job.options(queue=queue, key="k").start("small", 9),
        lambda: shop.durable.client.start_many([shop.job.options(queue=queue).bind("small", 9)]),
    ):
        with pytest.raises(QueueFull, match="queue 'small' is full: 2 workflows are ready in it and it takes 2"):
            start()
    assert shop.one("select count(*) from dbdurable.workflow") == 2
    assert shop.one("select count(*) from dbdurable.workflow_key") == 0
    shop.gate.open()
    with shop.durable.executor(threads=2):
        assert [handle.result(30) for handle in handles] == [0, 1]
        assert shop.job.options(queue=queue).start("small", 2).result(30) == 2


def test_a_key_may_hold_only_while_its_workflow_is_unfinished(shop: Shop) -> None:
    sync = shop.job.options(key="customer-7", key_reuse=True)
    first = sync.start("job", 7)
    assert sync.start("job", 7).id == first.id
    with shop.durable.executor(threads=1):
        shop.gate.wait_inside(1)
        assert sync.start("job", 7).id == first.id
        with pytest.raises(KeyConflict):
            sync.start("job", 8)
        shop.gate.open()
        assert first.result(30) == 7
        second = sync.start("job", 8)
        assert second.id != first.id
        assert second.result(30) == 8
        (third,) = shop.durable.client.start_many([sync.bind("job", 9)])
        assert third.id not in (first.id, second.id)
        assert third.result(30) == 9
    assert shop.job.handle(key="customer-7").result(5) == 9
    assert shop.job.options(key="customer-7").start("job", 9).id == third.id, "without key_reuse it holds for good"


def test_two_that_reuse_a_key_at_once_start_one(shop: Shop, database_url: str) -> None:
    sync = shop.job.options(key="k", key_reuse=True)
    first = sync.start("job", 1)
    shop.gate.open()
    with shop.durable.executor(threads=1):
        first.result(30)
    text = """select dbdurable.start('job', '{"group": "job", "n": 1}', key => 'k', key_reuse => true)"""
    with psycopg.connect(database_url) as one, psycopg.connect(database_url, autocommit=True) as two:
        mine = one.execute(text).fetchone()
        two.execute("set lock_timeout = '20s'")
        pid = two.info.backend_pid
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(two.execute(text).fetchone()))
        thread.start()
        wait_until(lambda: shop.one("select wait_event_type from pg_stat_activity where pid = %s", pid) == "Lock")
        one.commit()
        thread.join(20)
    assert found == [mine]


# ---- many at once ------------------------------------------------------------------------------------------


def test_thousands_in_one_statement(shop: Shop) -> None:
    handles = shop.durable.client.start_many(shop.job.options(priority=n % 3).bind("job", n) for n in range(3000))
    assert len({handle.id for handle in handles}) == 3000
    assert shop.one("select count(*) from dbdurable.ready") == 3000
    shop.gate.open()
    with shop.durable.executor(threads=16) as executor:
        executor.wait_idle(60)
    assert [handles[n].result(5) for n in (0, 1499, 2999)] == [0, 1499, 2999]


def test_each_with_its_own_options(shop: Shop) -> None:
    job, queue = shop.job, shop.durable.queue("other")
    first = job.options(key="a").start("job", 1)
    handles = shop.durable.client.start_many(
        [
            job.options(key="a").bind("job", 1),
            job.options(key="b", queue=queue, priority=3, attributes={"of": "shop"}).bind("job", 2),
            job.options(key="b", queue=queue, priority=3).bind("job", 2),
            job.options(delay=3600, partition="p", expires=7200).bind("job", 3),
        ]
    )
    assert handles[0].id == first.id
    assert handles[1].id == handles[2].id
    row = shop.connection.execute(
        "select queue, priority, attributes, input from dbdurable.workflows where id = %s", [handles[1].id]
    ).fetchone()
    assert row == ("other", 3, {"of": "shop"}, {"group": "job", "n": 2})
    kinds = shop.connection.execute(
        "select kind::text from dbdurable.wait where workflow_id = %s order by 1", [handles[3].id]
    )
    assert kinds.fetchall() == [("expiry",), ("start",)]
    assert shop.one("select count(*) from dbdurable.workflow") == 3


def test_all_or_none(shop: Shop) -> None:
    client, job = shop.durable.client, shop.job
    job.options(key="a").start("job", 1)
    remote = Client(shop.durable._runtime.database.url).workflow("nobody")
    for wrong, error, match in [
        ([job.bind("job", 2), job.options(key="a").bind("job", 9)], KeyConflict, "key 'a' already started job"),
        ([job.bind("job", 2), remote.bind(1)], UnknownWorkflow, "registered a workflow named 'nobody'"),
        ([job.bind("job", 2), job.options(queue="typo").bind("job", 3)], UnknownQueue, "no queue named 'typo'"),
        ([job.bind("job", 2), job.start], BadArgument, "takes calls"),
        ([job.bind("job", 2), job.bind("job")], BadArgument, "missing"),
    ]:
        with pytest.raises(error, match=match):
            client.start_many(wrong)  # type: ignore[arg-type]
    assert shop.one("select count(*) from dbdurable.workflow") == 1


def test_in_the_callers_transaction(shop: Shop, database_url: str) -> None:
    calls = [shop.job.options(key=f"k{n}").bind("job", n) for n in range(10)]
    with psycopg.connect(database_url) as tx:
        assert len(shop.durable.client.start_many(calls, tx=tx)) == 10
        assert shop.one("select count(*) from dbdurable.workflow") == 0
        tx.rollback()
    assert shop.one("select count(*) from dbdurable.workflow") == 0
    with psycopg.connect(database_url) as tx:
        shop.durable.client.start_many(calls, tx=tx)
    assert shop.one("select count(*) from dbdurable.ready") == 10


def test_in_a_transaction_step_and_nowhere_else_in_a_workflow(database_url: str, connection: Any) -> None:
    durable = Durable(database_url)

    @durable.workflow
    def mail(n: int) -> int:
        return n

    @durable.transaction
    def spread(tx: psycopg.Connection[Any], many: int) -> int:
        return len(durable.client.start_many(mail.bind(n) for n in range(many)))

    @durable.workflow
    def campaign(many: int) -> int:
        return spread(many)

    @durable.workflow
    def wrong() -> None:
        durable.client.start_many([mail.bind(1)])

    with durable.executor() as executor:
        assert campaign(25) == 25
        with pytest.raises(BadArgument, match="call it in a transaction"):
            wrong()
        executor.wait_idle(20)
    durable.close()
    count = connection.execute("select count(*) from dbdurable.workflows where name = 'mail' and status = 'succeeded'")
    assert count.fetchone() == (25,)


async def test_the_other_colour(shop: Shop) -> None:
    job = shop.job.aio
    handles = await shop.durable.client.aio.start_many(job.bind("job", n) for n in range(3))
    shop.gate.open()
    async with shop.durable.executor(threads=2):
        assert [await handle.result(30) for handle in handles] == [0, 1, 2]


def test_by_sql(shop: Shop) -> None:
    with shop.durable.executor(threads=1):
        shop.gate.open()
        rows = shop.connection.execute(
            """
            select place, id from dbdurable.start_many('[
                {"name": "job", "input": {"group": "sql", "n": 1}},
                {"name": "job", "input": ["sql", 2], "delay": 0.01}]')
            """
        ).fetchall()
        assert [place for place, _ in rows] == [1, 2]
        assert [shop.durable.client.handle(id).result(30) for _, id in rows] == [1, 2]


@pytest.mark.parametrize(
    ("starts", "says"),
    [
        ("{}", "takes a JSON array"),
        ('[{"input": {}}]', "start 1 has no name"),
        ('[{"name": "job", "input": 5}]', "must be a JSON object"),
        ('[{"name": "job", "delay": -1}]', "cannot be negative"),
        ('[{"name": "job", "queue": "typo"}]', "there is no queue named 'typo'"),
        ('[{"name": "job"}, {"name": "job", "input": {"group": "\\u0000"}}]', "unsupported Unicode"),
        ('[{"name": "job", "input": ["\\ud800"]}]', "invalid input syntax for type json"),
    ],
)
def test_bad_starts_by_sql(starts: str, says: str, shop: Shop) -> None:
    with shop.durable.executor(threads=1):
        pass
    with pytest.raises(psycopg.Error, match=says):
        shop.connection.execute("select * from dbdurable.start_many(%s)", [starts])
    assert shop.one("select count(*) from dbdurable.workflow") == 0


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"queue": "typo"}, "there is no queue named 'typo'"),
        ({"queue": ""}, "empty"),
        ({"delay": -1}, "delay="),
        ({"delay": float("nan")}, "delay="),
        ({"at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001  (naive is what is refused)
        ({"expires": 0}, "expires=0"),
        ({"expires": -1}, "expires="),
        ({"priority": 1.5}, "priority="),
        ({"priority": 10_001}, "priority="),
        ({"cost": -1}, "cost="),
        ({"cost": True}, "cost="),
        ({"key_reuse": True}, "pass key= too"),
        ({"key": "a", "key_reuse": 1}, "key_reuse="),
        ({"partition": "x" * 600}, "at most 512"),
        ({"colour": "red"}, "no option colour"),
    ],
)
def test_bad_options_start_nothing(options: dict[str, Any], says: str, shop: Shop) -> None:
    with pytest.raises((BadArgument, UnknownQueue), match=says):
        shop.job.options(**options).start("job", 1)
    assert shop.one("select count(*) from dbdurable.workflow") == 0
    assert shop.one("select count(*) from dbdurable.workflow_key") == 0


def test_options_of_a_start_do_not_go_with_a_call_that_runs_here(shop: Shop) -> None:
    with shop.durable.executor(threads=1):
        for option in (
            {"priority": 1},
            {"partition": "p"},
            {"cost": 2},
            {"expires": 5},
            {"key_reuse": True, "key": "k"},
        ):
            with pytest.raises(BadArgument, match="goes with start"):
                shop.job.options(**option)("job", 1)  # type: ignore[arg-type]
