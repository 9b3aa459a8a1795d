"""What other languages and people use: functions that start and steer, and views that join with an app's tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection

from dbdurable import Client, Durable
from dbdurable.errors import UnknownWorkflow
from tests.api.conftest import Unchanged

VIEWS = ("workflows", "steps", "failures", "executors")


@pytest.fixture
def shop(durable: Durable) -> Durable:
    """Two workflows whose names the database knows; no executor is open."""

    @durable.step
    def charge(order_id: int) -> str:
        if order_id < 0:
            raise ValueError("no such order")
        return f"r-{order_id}"

    @durable.workflow(queue="orders", timeout=3600, max_attempts=3)
    def checkout(order_id: int, gift: bool = False) -> str:
        return charge(order_id) + ("!" if gift else "")

    with durable.executor():
        pass
    return durable


def one(connection: Connection[Any], query: str, *params: Any) -> Any:
    row = connection.execute(query, params).fetchone()
    assert row is not None
    return row[0]


def sqlstate(connection: Connection[Any], query: str, *params: Any) -> str | None:
    with pytest.raises(psycopg.Error) as error:
        connection.execute(query, params)
    return error.value.sqlstate


# ---- start -------------------------------------------------------------------------------------------------


def test_start_by_name_and_by_position(shop: Durable, connection: Connection[Any]):
    by_name = one(connection, """select dbdurable.start('checkout', '{"order_id": 42, "gift": true}')""")
    by_position = one(connection, "select dbdurable.start('checkout', '[43]')")
    queue, attempts, lives_s = connection.execute(
        "select queue, max_attempts, extract(epoch from deadline - created_at) from dbdurable.workflows where id = %s",
        [by_name],
    ).fetchone()  # type: ignore[misc]
    assert (queue, attempts, round(lives_s)) == ("orders", 3, 3600)  # as registered
    assert one(connection, "select status from dbdurable.result(%s)", by_name) == "queued"
    with shop.executor():
        assert shop.client.handle(by_name).result(10) == "r-42!"
        assert shop.client.handle(by_position).result(10) == "r-43"
    assert connection.execute("select status, output, error from dbdurable.result(%s)", [by_name]).fetchone() == (
        "succeeded", "r-42!", None,
    )  # fmt: skip


def test_start_belongs_to_its_transaction(shop: Durable, connection: Connection[Any], unchanged: Unchanged):
    with unchanged(), connection.transaction(force_rollback=True):
        id = one(connection, "select dbdurable.start('checkout', '[1]')")
        with pytest.raises(UnknownWorkflow, match="has not committed yet"):
            shop.client.handle(id).result(1)


def test_start_from_a_trigger(shop: Durable, connection: Connection[Any]):
    connection.execute(
        """
        create table orders (id int primary key, workflow_id uuid);
        create function start_checkout() returns trigger language plpgsql as $$
        begin
            new.workflow_id := dbdurable.start('checkout', json_build_object('order_id', new.id), key => new.id::text);
            return new;
        end $$;
        create trigger checkout before insert on orders for each row execute function start_checkout();
        insert into orders values (1), (2)
        """
    )
    with shop.executor() as here:
        here.wait_idle(10)
    joined = (
        "select o.id, w.output #>> '{}' from orders o join dbdurable.workflows w on w.id = o.workflow_id order by 1"
    )
    assert connection.execute(joined).fetchall() == [(1, "r-1"), (2, "r-2")]


def test_key_starts_once(shop: Durable, connection: Connection[Any], database_url: str):
    start = """select dbdurable.start('checkout', %s, key => 'order-1')"""
    first = one(connection, start, '{"order_id": 1, "gift": false}')
    assert one(connection, start, '{ "gift":false, "order_id":1 }') == first  # the same arguments, written otherwise
    assert shop.client.workflow("checkout").options(key="order-1").start(order_id=1, gift=False).id == first
    assert sqlstate(connection, start, '{"order_id": 2}') == "DD003"
    assert one(connection, "select count(*) from dbdurable.workflows") == 1
    # A start that rolls back frees its key.
    with psycopg.connect(database_url) as other:
        other.execute("select dbdurable.start('checkout', '[7]', key => 'order-7')")
        other.rollback()
    assert one(connection, "select dbdurable.start('checkout', '[8]', key => 'order-7')")


def test_delayed_start(shop: Durable, connection: Connection[Any]):
    soon = one(connection, "select dbdurable.start('checkout', '[1]', delay => interval '50 ms')")
    later = one(connection, "select dbdurable.start('checkout', '[2]', at => now() + interval '1 day')")
    past = one(connection, "select dbdurable.start('checkout', '[3]', at => now() - interval '1 day')")
    same = shop.client.workflow("checkout").options(delay=timedelta(days=1)).start(order_id=4).id
    aware = datetime.now(UTC) + timedelta(days=1)
    at = shop.client.workflow("checkout").options(at=aware).start(order_id=5).id
    waits = dict(connection.execute("select workflow_id, due from dbdurable.wait where kind = 'start'").fetchall())
    assert set(waits) == {soon, later, same, at}
    assert waits[at] == aware
    with shop.executor() as here:
        assert shop.client.handle(past).result(10) == "r-3"
        assert shop.client.handle(soon).result(10) == "r-1"
        here.wait_idle(10)  # what is due tomorrow does not count
        assert {shop.client.handle(id).status() for id in (later, same, at)} == {"queued"}
        shop.client.handle(later).cancel("not needed")
        assert shop.client.handle(later).status() == "cancelled"


def test_priority_and_attributes(shop: Durable, connection: Connection[Any]):
    low = one(connection, "select dbdurable.start('checkout', '[1]', priority => 5)")
    high = one(
        connection, """select dbdurable.start('checkout', '[2]', priority => -5, attributes => '{"vip": true}')"""
    )
    with shop.executor(threads=1) as here:
        here.wait_idle(10)
    order = "select id from dbdurable.workflows order by started_at"
    assert [id for (id,) in connection.execute(order).fetchall()] == [high, low]
    assert shop.client.handle(high).info().attributes == {"vip": True}


@pytest.mark.parametrize(
    ("query", "state"),
    [
        ("select dbdurable.start('nope', '{}')", "DD004"),
        ("select dbdurable.start('', '{}')", "DD004"),
        ("select dbdurable.start('checkout', '42')", "DD005"),
        ("select dbdurable.start('checkout', 'null')", "DD005"),
        ("select dbdurable.start('checkout', '{\"order_id\": 42')", "22P02"),
        ("select dbdurable.start('checkout', '{\"order_id\": \"a\\u0000b\"}')", "22P05"),
        ("select dbdurable.start('checkout', null)", None),
        ("select dbdurable.start(null, '{}')", None),
        ("select dbdurable.result(gen_random_uuid())", "DD006"),
        ("select dbdurable.cancel(gen_random_uuid())", "DD006"),
        ("select dbdurable.pause(gen_random_uuid())", "DD006"),
        ("select dbdurable.resume(gen_random_uuid())", "DD006"),
        ("select dbdurable.cancel('42')", "22P02"),
    ],
)
def test_errors_have_their_states(
    query: str, state: str | None, shop: Durable, connection: Connection[Any], unchanged: Unchanged
):
    with unchanged():
        found = sqlstate(connection, query)
    assert found == state if state else found is not None


def test_unknown_name_comes_with_a_hint(shop: Durable, connection: Connection[Any]):
    with pytest.raises(psycopg.Error) as error:
        connection.execute("select dbdurable.start('chekout')")
    assert error.value.diag.message_hint == "known names: charge, checkout"


# ---- cancel, pause, resume ---------------------------------------------------------------------------------


def test_steering_by_sql(shop: Durable, connection: Connection[Any]):
    id = one(connection, "select dbdurable.start('checkout', '[1]')")
    assert one(connection, "select dbdurable.pause(%s)", id) == "paused"
    assert one(connection, "select dbdurable.pause(%s)", id) == "paused"
    with shop.executor() as here:
        here.wait_idle(10)
        assert one(connection, "select status from dbdurable.workflows where id = %s", id) == "paused"
        assert one(connection, "select dbdurable.resume(%s)", id) == "queued"
        assert shop.client.handle(id).result(10) == "r-1"
    assert one(connection, "select dbdurable.cancel(%s, 'too late')", id) == "succeeded"
    assert one(connection, "select dbdurable.resume(%s)", id) == "succeeded"
    other = one(connection, "select dbdurable.start('checkout', '[2]')")
    assert one(connection, "select dbdurable.cancel(%s, 'changed my mind')", other) == "cancelled"
    assert one(connection, "select reason from dbdurable.workflows where id = %s", other) == "changed my mind"
    actions = connection.execute("select action from dbdurable.audit order by id").fetchall()
    assert actions == [("pause",), ("resume",), ("cancel",)]


# ---- views -------------------------------------------------------------------------------------------------


def test_views_are_commented(connection: Connection[Any]):
    for view in VIEWS:
        assert one(connection, "select obj_description(to_regclass(%s))", f"dbdurable.{view}")


def test_views_join_with_the_tables_of_an_application(shop: Durable, stock: Connection[Any]):
    connection = stock
    connection.execute("create table orders (id int primary key, customer text)")
    connection.execute("insert into orders values (1, 'Ann'), (-1, 'Bob')")
    with shop.executor() as here:
        for id in (1, -1):
            shop.client.workflow("checkout").options(key=str(id)).start(order_id=id)
        here.wait_idle(10)
        assert connection.execute("select alive, names, running from dbdurable.executors").fetchall() == [
            (True, ["charge", "checkout"], 0)
        ]
    by_input = """
        select o.customer, w.status, w.output #>> '{}', w.error_type, w.duration >= interval '0', s.name, s.status
          from orders o
          join dbdurable.workflows w on (w.input ->> 'order_id')::int = o.id
          join dbdurable.steps s on s.workflow_id = w.id
         order by 1
    """
    assert connection.execute(by_input).fetchall() == [
        ("Ann", "succeeded", "r-1", None, True, "charge", "succeeded"),
        ("Bob", "failed", None, "ValueError", True, "charge", "failed"),
    ]
    failed = "select o.customer, f.reason, f.error_message from dbdurable.failures f join orders o on o.id = f.key::int"
    assert connection.execute(failed).fetchall() == [("Bob", "ValueError: no such order", "no such order")]


# ---- schemas -----------------------------------------------------------------------------------------------


def test_two_schemas_do_not_see_each_other(shop: Durable, database_url: str, connection: Connection[Any]):
    other = Durable(database_url, schema="other")

    @other.workflow
    def checkout(order_id: int) -> str:
        return f"other-{order_id}"

    try:
        mine, theirs = shop.client.workflow("checkout"), checkout.options(key="k").start(1)
        started = mine.options(key="k").start(order_id=2)
        with other.executor() as here:
            assert theirs.result(10) == "other-1"
            here.wait_idle(10)
            with pytest.raises(UnknownWorkflow):
                other.client.handle(started.id).status()
            assert [w.id for w in other.client.workflows()] == [theirs.id]
            assert shop.client.handle(started.id).status() == "queued"
        with shop.executor():
            assert started.result(10) == "r-2"
        with Client(database_url, schema="other") as client:
            assert client.workflow("checkout").options(key="k").start(order_id=1).id == theirs.id
        assert one(connection, "select count(*) from other.workflows w join dbdurable.workflows using (id)") == 0
    finally:
        other.close()


def test_result_of_nothing_is_one_error(shop: Durable, connection: Connection[Any]):
    id = uuid4()
    with pytest.raises(psycopg.Error, match=f"there is no workflow {id}"):
        connection.execute("select * from dbdurable.result(%s)", [id])
