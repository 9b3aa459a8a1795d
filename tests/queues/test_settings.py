"""A queue's settings: declared in code, changed at run time from Python and SQL, and seen."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from dbdurable import Durable, Executor, Rate
from dbdurable.errors import BadArgument, UnknownQueue
from tests.queues.conftest import Shop
from tests.support.wait import wait_until


def registered(shop: Shop) -> None:
    with shop.durable.executor(threads=1):
        pass


def test_an_executor_writes_down_what_the_code_declares(shop: Shop) -> None:
    shop.durable.queue("mails", concurrency=5, rate=Rate(100, per=60, burst=10), max_depth=1000)
    registered(shop)
    info = {queue.name: queue for queue in shop.durable.client.queues()}
    assert sorted(info) == ["default", "mails"]
    mails = info["mails"]
    assert (mails.concurrency, mails.rate, mails.max_depth) == (5, Rate(100, mails.rate.per, 10), 1000)  # type: ignore[union-attr]
    assert (mails.paused, mails.ready, mails.running, mails.delayed) == (False, 0, 0, 0)


def test_a_deploy_that_says_the_same_leaves_a_change_alone(shop: Shop, database_url: str) -> None:
    shop.durable.queue("mails", concurrency=5, per_partition=2)
    registered(shop)
    shop.durable.client.set_queue("mails", concurrency=50)
    registered(shop)
    assert shop.one("select concurrency from dbdurable.queue where name = 'mails'") == 50

    next_version = Durable(database_url)

    @next_version.workflow
    def other() -> None:
        pass

    next_version.queue("mails", concurrency=7)
    with next_version.executor(threads=1):
        pass
    next_version.close()
    row = shop.connection.execute("select concurrency, per_partition from dbdurable.queue where name = 'mails'")
    assert row.fetchone() == (7, None), "what the code no longer declares is no limit any more"


def test_a_change_is_taken_up_at_once(shop: Shop) -> None:
    queue = shop.durable.queue("narrow", concurrency=1)
    handles = [shop.job.options(queue=queue).start("narrow", n) for n in range(6)]
    client = shop.durable.client
    with shop.durable.executor(threads=8):
        shop.gate.wait_inside(1)
        client.set_queue(queue, concurrency=4)
        shop.gate.wait_inside(4)
        client.set_queue(queue, concurrency=2)
        shop.gate.open(3)
        wait_until(lambda: shop.used("narrow") == {"": 2}, 20)
        client.set_queue(queue, concurrency=None)
        shop.gate.open()
        assert [handle.result(30) for handle in handles] == list(range(6))
    shop.check_nothing_is_held()


def test_pause_and_resume(shop: Shop) -> None:
    client = shop.durable.client
    registered(shop)
    client.pause_queue("default")
    handle = shop.job.start("job", 1)
    shop.gate.open()
    with shop.durable.executor(threads=2) as executor:
        other = shop.job.options(queue=shop.durable.queue("other")).start("other", 2)
        assert other.result(30) == 2, "other queues go on"
        assert (handle.status(), shop.gate.of("job")) == ("queued", [])
        client.resume_queue("default")
        executor.hint()
        assert handle.result(30) == 1


def looks_of_two_rounds(executor: Executor) -> int:
    """How often it looks for work while it sees to the upkeep twice, about a second apart."""
    control = executor.control
    rounds, looks = control._upkeep._rounds, control._claims._turn
    wait_until(lambda: control._upkeep._rounds >= rounds + 2)
    return control._claims._turn - looks


def test_the_only_queue_is_paused_and_resumed(shop: Shop) -> None:
    client = shop.durable.client
    registered(shop)
    client.pause_queue("default")
    handle = shop.job.start("job", 1)
    shop.gate.open()
    with shop.durable.executor(threads=2, queues=["default"]) as executor:
        assert looks_of_two_rounds(executor) < 500, "it asks now and then, and does not spin"
        assert handle.status() == "queued"
        client.resume_queue("default")
        assert handle.result(30) == 1


def test_who_is_busy_does_not_spin(shop: Shop) -> None:
    with shop.durable.executor(threads=1) as executor:
        handle, later = shop.job.start("job", 1), shop.job.start("job", 2)
        wait_until(lambda: shop.gate.of("job"))
        assert looks_of_two_rounds(executor) < 500
        shop.gate.open()
        assert (handle.result(30), later.result(30)) == (1, 2)


def test_who_has_used_up_its_share_of_the_only_queue_does_not_spin(shop: Shop) -> None:
    queue = shop.durable.queue("heavy", worker_concurrency=1)
    handles = [shop.job.options(queue=queue).start("heavy", n) for n in range(3)]
    with shop.durable.executor(threads=4, queues=[queue]) as executor:
        shop.gate.wait_inside(1)
        assert looks_of_two_rounds(executor) < 500
        shop.gate.open()
        assert [handle.result(30) for handle in handles] == [0, 1, 2]


@pytest.mark.parametrize("partitions", [3, 40])
def test_a_limit_by_partition_that_comes_and_goes_strands_nobody(partitions: int, shop: Shop) -> None:
    """Tickets lie by partition only where something is limited by it; those that lie elsewhere are moved."""
    client, queue = shop.durable.client, shop.durable.queue("tenants")
    registered(shop)

    def start(begin: int) -> list[Any]:
        numbers = range(begin, begin + 2 * partitions)
        return [
            shop.job.options(queue=queue, partition=f"t{n % partitions}").start(f"t{n % partitions}", n)
            for n in numbers
        ]

    handles = start(0)
    client.set_queue(queue, per_partition=1)
    handles += start(2 * partitions)
    shop.gate.open()
    with shop.durable.executor(threads=4) as executor:
        executor.wait_idle(30)
        assert max(shop.gate.most.values()) == 1
        client.pause_queue(queue)
        handles += start(4 * partitions)
        client.set_queue(queue, per_partition=None)
        client.resume_queue(queue)
        assert [handle.result(30) for handle in handles] == list(range(6 * partitions))
    shop.check_nothing_is_held()


def test_rows_of_partitions_that_are_gone_are_forgotten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbdurable._executor.upkeep.FORGET_KEYS_EVERY", 1)
    queue = shop.durable.queue("tenants", per_partition=1)
    shop.gate.open()
    with shop.durable.executor(threads=4) as executor:
        for n in range(10):
            shop.job.options(queue=queue, partition=f"t{n}").start("t", n)
        executor.wait_idle(30)
        wait_until(lambda: shop.used("tenants") == {"": 0}, 20)


def test_by_sql(shop: Shop) -> None:
    registered(shop)
    run = shop.connection.execute
    run("""select dbdurable.set_queue('default', '{"concurrency": 5, "rate_limit": 10, "rate_per": "1 minute"}')""")
    run("""select dbdurable.set_queue('default', '{"rate_burst": 3}')""")
    row = run(
        "select concurrency, rate_limit, extract(epoch from rate_per), rate_burst from dbdurable.queues"
    ).fetchone()
    assert row == (5, 10, 60, 3)
    run("select dbdurable.pause_queue('default')")
    assert shop.one("select paused from dbdurable.queues") is True
    actions = run("select action, detail ->> 'queue' from dbdurable.audit order by id").fetchall()
    assert actions == [("set_queue", "default"), ("set_queue", "default"), ("pause_queue", "default")]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("set_queue('typo', '{}')", "there is no queue named 'typo'"),
        ("pause_queue('typo')", "there is no queue named 'typo'"),
        ("resume_queue('typo')", "there is no queue named 'typo'"),
        ("set_queue('default', '5')", "JSON object"),
        ("""set_queue('default', '{"concurency": 5}')""", "no setting 'concurency'"),
        ("""set_queue('default', '{"concurrency": 0}')""", "from 1 to 1000000"),
        ("""set_queue('default', '{"concurrency": -5}')""", "from 1 to 1000000"),
        ("""set_queue('default', '{"concurrency": 1.5}')""", "from 1 to 1000000"),
        ("""set_queue('default', '{"concurrency": "many"}')""", "from 1 to 1000000"),
        ("""set_queue('default', '{"max_depth": 10000000}')""", "from 1 to 1000000"),
        ("""set_queue('default', '{"rate_limit": 5}')""", "both its limit and its period"),
        ("""set_queue('default', '{"rate_limit": 5, "rate_per": -1}')""", "from 1 ms to 366 days"),
    ],
)
def test_bad_settings_by_sql(call: str, says: str, shop: Shop) -> None:
    registered(shop)
    before = shop.connection.execute("select * from dbdurable.queue").fetchall()
    with pytest.raises(psycopg.Error, match=says) as raised:
        shop.connection.execute(f"select dbdurable.{call}")  # type: ignore[arg-type]
    assert raised.value.sqlstate is not None
    assert raised.value.sqlstate.startswith("DD")
    assert shop.connection.execute("select * from dbdurable.queue").fetchall() == before


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"concurrency": 0}, "concurrency="),
        ({"concurrency": -1}, "concurrency="),
        ({"concurrency": True}, "concurrency="),
        ({"worker_concurrency": 2.5}, "worker_concurrency="),
        ({"per_partition": 10**9}, "per_partition="),
        ({"max_depth": "many"}, "max_depth="),
        ({"rate": 5}, "takes a Rate"),
        ({"rate": Rate(0, per=1)}, "Rate"),
        ({"rate": Rate(5, per=0)}, "from 1 ms to 366 days"),
        ({"rate": Rate(5, per=-1)}, "per="),
        ({"rate": Rate(5, per=1, burst=0)}, "burst"),
        ({"rate_per_partition": Rate(5, per=10**9)}, "366 days"),
    ],
)
def test_bad_limits(limits: dict[str, Any], says: str, shop: Shop) -> None:
    with pytest.raises(BadArgument, match=says):
        shop.durable.queue("mails", **limits)
    registered(shop)
    with pytest.raises(BadArgument, match=says):
        shop.durable.client.set_queue("default", **limits)
    assert shop.one("select limited from dbdurable.queue where name = 'default'") is False


def test_teaching_errors_of_set_queue(shop: Shop) -> None:
    registered(shop)
    with pytest.raises(UnknownQueue, match=r"no queue named 'mials'; queues: default; declare it, durable.queue"):
        shop.durable.client.set_queue("mials", concurrency=5)
    with pytest.raises(BadArgument, match="nothing to change"):
        shop.durable.client.set_queue("default")
    with pytest.raises(BadArgument, match="no setting 'concurency'; there are concurrency, "):
        shop.durable.client.set_queue("default", concurency=5)  # type: ignore[call-arg]


async def test_the_other_colour(shop: Shop) -> None:
    async with shop.durable.executor(threads=1):
        pass
    client = shop.durable.client.aio
    await client.set_queue("default", concurrency=2)
    await client.pause_queue("default")
    (info,) = await client.queues()
    assert (info.concurrency, info.paused) == (2, True)
    await client.resume_queue("default")
    assert not (await client.queues())[0].paused


def test_work_that_nobody_takes_is_listed_and_why(shop: Shop) -> None:
    registered(shop)
    run = shop.connection.execute
    run("insert into dbdurable.definition (name, queue, max_attempts) values ('ghost', 'default', 20)")
    run("select dbdurable.start('ghost')")
    run("select dbdurable.declare_queue('far', null)")
    shop.job.options(queue=shop.durable.queue("far")).start("far", 1)
    with shop.durable.executor(threads=1, queues=["default"]):
        rows = run("select queue, name, workflows, reason from dbdurable.unclaimable order by 2").fetchall()
    assert [row[:3] for row in rows] == [("default", "ghost", 1), ("far", "job", 1)]
    assert "no living executor has a workflow of this name" in rows[0][3]
    assert "no living executor serves this queue" in rows[1][3]
