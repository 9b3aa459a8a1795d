"""Limits that hold: of a queue, of a worker, of a partition; rates with bursts and costs."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, Rate
from dbdurable.errors import BadConfiguration
from tests.queues.conftest import Shop
from tests.support.wait import wait_until


def test_concurrency_is_of_all_executors_together(shop: Shop, database_url: str) -> None:
    queue = shop.durable.queue("narrow", concurrency=3)
    other = Shop(database_url, shop.connection, shop.gate)
    other.durable.queue("narrow", concurrency=3)
    handles = [shop.job.options(queue=queue).start("narrow", n) for n in range(12)]
    with shop.durable.executor(threads=8), other.durable.executor(threads=8):
        shop.gate.wait_inside(3)
        assert shop.used("narrow") == {"": 3}
        for done in range(1, 10):
            shop.gate.open(1)
            wait_until(lambda done=done: len(shop.gate.entered) == 3 + done, 20)  # type: ignore[misc]
        shop.gate.open()
        assert [handle.result(30) for handle in handles] == list(range(12))
    other.durable.close()
    assert shop.gate.most["narrow"] == 3
    shop.check_nothing_is_held()


def test_a_limited_queue_does_not_keep_others_waiting(shop: Shop) -> None:
    queue = shop.durable.queue("narrow", concurrency=1)
    for n in range(5):
        shop.job.options(queue=queue).start("narrow", n)
    plain = [shop.job.start("plain", n) for n in range(5)]
    with shop.durable.executor(threads=6):
        shop.gate.wait_inside(6)
        assert dict(shop.gate.inside) == {"narrow": 1, "plain": 5}
        shop.gate.open()
        assert [handle.result(30) for handle in plain] == list(range(5))


def test_worker_concurrency_is_of_one_process(shop: Shop) -> None:
    queue = shop.durable.queue("heavy", worker_concurrency=2)
    handles = [shop.job.options(queue=queue).start("heavy", n) for n in range(6)]
    with shop.durable.executor(threads=8):
        shop.gate.wait_inside(2)
        assert shop.one("select count(*) from dbdurable.ready") == 4
        shop.gate.open()
        assert [handle.result(30) for handle in handles] == list(range(6))
    assert shop.gate.most["heavy"] == 2


def test_one_of_a_partition_at_a_time_in_the_order_of_their_starts(shop: Shop) -> None:
    queue = shop.durable.queue("accounts", per_partition=1)
    handles = [shop.job.options(queue=queue, partition=f"a{n % 3}").start(f"a{n % 3}", n) for n in range(15)]
    with shop.durable.executor(threads=8):
        shop.gate.wait_inside(3)
        assert shop.used("accounts") == {"": 0, "a0": 1, "a1": 1, "a2": 1}
        shop.gate.open()
        assert [handle.result(30) for handle in handles] == list(range(15))
    for partition in range(3):
        assert shop.gate.of(f"a{partition}") == list(range(partition, 15, 3))
        assert shop.gate.most[f"a{partition}"] == 1
    shop.check_nothing_is_held()


def test_both_limits_hold_together(shop: Shop) -> None:
    queue = shop.durable.queue("both", concurrency=3, per_partition=2)
    handles = [shop.job.options(queue=queue, partition=f"p{n % 2}").start(f"p{n % 2}", n) for n in range(10)]
    handles += [shop.job.options(queue=queue).start("none", n) for n in range(4)]
    with shop.durable.executor(threads=10):
        shop.gate.wait_inside(3)
        assert sum(shop.used("both").values()) == 3 + sum(v for k, v in shop.used("both").items() if k)
        shop.gate.open()
        for handle in handles:
            handle.result(30)
    assert max(shop.gate.most["p0"], shop.gate.most["p1"]) <= 2
    shop.check_nothing_is_held()


def test_a_saturated_partition_does_not_hide_the_others(shop: Shop) -> None:
    queue = shop.durable.queue("tenants", per_partition=1)
    for n in range(40):
        shop.job.options(queue=queue, partition="loud").start("loud", n)
    shop.job.options(queue=queue, partition="quiet").start("quiet", 0)
    with shop.durable.executor(threads=8):
        shop.gate.wait_inside(2)
        assert dict(shop.gate.inside) == {"loud": 1, "quiet": 1}
        shop.gate.open()


def test_more_partitions_than_one_claim_looks_at(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbdurable._executor.claims.PARTITIONS_MAX", 4)
    queue = shop.durable.queue("tenants", per_partition=1)
    handles = [shop.job.options(queue=queue, partition=f"t{n:02}").start("t", n) for n in range(30)]
    shop.gate.open()
    with shop.durable.executor(threads=2):
        assert [handle.result(30) for handle in handles] == list(range(30))
    shop.check_nothing_is_held()


def test_a_rate_lets_a_burst_through_and_then_its_measure(shop: Shop) -> None:
    queue = shop.durable.queue("mail", rate=Rate(1, per=3600, burst=3))
    handles = [shop.job.options(queue=queue).start("mail", n) for n in range(5)]
    shop.gate.open()
    with shop.durable.executor(threads=8) as executor:
        assert [handle.result(30) for handle in handles[:3]] == [0, 1, 2]
        assert shop.one("select round(tokens) from dbdurable.limit_key where queue = 'mail'") == 0
        # An hour later there is one more.
        shop.connection.execute("update dbdurable.limit_key set refilled_at = refilled_at - interval '1 hour'")
        executor.hint()
        assert handles[3].result(30) == 3
    assert sorted(shop.gate.of("mail")) == [0, 1, 2, 3]
    assert shop.one("select count(*) from dbdurable.ready") == 1


def test_a_start_may_cost_more_and_what_costs_more_than_the_burst_waits_for_a_full_bucket(shop: Shop) -> None:
    queue = shop.durable.queue("units", rate=Rate(10, per=3600))
    for n, cost in enumerate([6, 3, 2, 50]):
        shop.job.options(queue=queue, cost=cost).start("units", n)
    shop.gate.open()
    with shop.durable.executor(threads=8) as executor:
        wait_until(lambda: sorted(shop.gate.of("units")) == [0, 1], 20)
        for hours, begun in ((1, [0, 1, 2]), (1, [0, 1, 2, 3])):
            shop.connection.execute(
                "update dbdurable.limit_key set refilled_at = refilled_at - make_interval(hours => %s)", [hours]
            )
            executor.hint()
            wait_until(lambda begun=begun: sorted(shop.gate.of("units")) == begun, 20)  # type: ignore[misc]
        executor.wait_idle(20)
    assert shop.one("select round(tokens) from dbdurable.limit_key where queue = 'units'") == -40


def test_a_rate_of_each_partition(shop: Shop) -> None:
    queue = shop.durable.queue("api", rate_per_partition=Rate(2, per=3600))
    for n in range(6):
        shop.job.options(queue=queue, partition=f"k{n % 2}").start(f"k{n % 2}", n)
    shop.gate.open()
    with shop.durable.executor(threads=8) as executor:
        wait_until(lambda: len(shop.gate.entered) == 4, 20)
        assert (sorted(shop.gate.of("k0")), sorted(shop.gate.of("k1"))) == ([0, 2], [1, 3])
        wait_until(lambda: shop.one("select count(*) from dbdurable.workflow where status = 'succeeded'") == 4)
        shop.connection.execute("update dbdurable.limit_key set refilled_at = refilled_at - interval '30 min'")
        executor.hint()
        wait_until(lambda: len(shop.gate.entered) == 6, 20)


def test_what_was_begun_goes_on_without_a_token(shop: Shop) -> None:
    """Rates count starts: a workflow that comes back to its queue is not made to wait for another token."""
    queue = shop.durable.queue("mail", rate=Rate(1, per=3600))
    handle = shop.job.options(queue=queue).start("mail", 0)
    with shop.durable.executor(threads=2):
        shop.gate.wait_inside(1)
        handle.pause()
        shop.gate.open(1)
        wait_until(lambda: shop.gate.inside.total() == 0)
        handle.resume()
        shop.gate.open()
        assert handle.result(30) == 0
    assert shop.gate.of("mail") == [0, 0]


def test_a_paused_workflow_gives_its_slot_back(shop: Shop) -> None:
    queue = shop.durable.queue("narrow", concurrency=1)
    first, second = (shop.job.options(queue=queue).start("narrow", n) for n in range(2))
    with shop.durable.executor(threads=4):
        shop.gate.wait_inside(1)
        with psycopg.connect(shop.durable._runtime.database.url) as stranger:
            stranger.execute("select dbdurable.pause(%s)", [first.id])
            assert shop.used("narrow") == {"": 1}, "a pause leaves the row of the limit alone"
        wait_until(lambda: len(shop.gate.entered) == 2, 20, "the second one begins")
        assert shop.used("narrow") == {"": 1}
        first.resume()
        shop.gate.open()
        assert (first.result(30), second.result(30)) == (0, 1)
    shop.check_nothing_is_held()


def test_what_a_dead_executor_held_is_given_back(shop: Shop, connection: psycopg.Connection[Any]) -> None:
    """Exactly once, whatever its owner does later."""
    queue = shop.durable.queue("both", concurrency=4, per_partition=2)
    handles = [shop.job.options(queue=queue, partition=f"p{n % 2}").start("both", n) for n in range(4)]
    with shop.durable.executor(threads=4):
        shop.gate.wait_inside(4)
        assert shop.used("both") == {"": 4, "p0": 2, "p1": 2}
        connection.execute("update dbdurable.executor set expires_at = '-infinity'")
        wait_until(lambda: shop.one("select max(epoch) from dbdurable.workflow") > 1, 20, "taken over")
        shop.gate.open()
        assert [handle.result(30) for handle in handles] == list(range(4))
    shop.check_nothing_is_held()


def test_an_executor_that_closes_hands_its_slots_back(shop: Shop) -> None:
    queue = shop.durable.queue("narrow", concurrency=2)
    gate, again = shop.gate, threading.Event()

    @shop.durable.step
    def nothing() -> None:
        pass

    @shop.durable.workflow
    def slow(n: int) -> int:
        gate("slow", n)
        nothing()
        return n

    handles = [slow.options(queue=queue).start(n) for n in range(2)]
    executor = shop.durable.executor(threads=2).open()
    gate.wait_inside(2)
    closing = threading.Thread(target=lambda: (executor.close(0.1), again.set()))
    closing.start()
    wait_until(lambda: executor.lease.closing)
    gate.open()
    closing.join(20)
    assert again.is_set()
    assert shop.used("narrow") == {"": 0}
    with shop.durable.executor(threads=2):
        assert [handle.result(30) for handle in handles] == [0, 1]
    shop.check_nothing_is_held()


def test_a_queue_is_declared_once(database_url: str) -> None:
    durable = Durable(database_url)
    durable.queue("orders", concurrency=2)
    durable.queue("orders")
    durable.queue("orders", concurrency=2)
    with pytest.raises(BadConfiguration, match="declared twice with different limits"):
        durable.queue("orders", concurrency=3)
