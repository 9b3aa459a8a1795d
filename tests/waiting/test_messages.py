"""Messages: consumed once, in order, kept until they are read; sent from anywhere, once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection

from dbdurable import Client, Durable, Retry, aio, recv, send
from dbdurable.errors import BadArgument, NotInWorkflow, UnknownWorkflow, WaitTimeout, WorkflowFinished
from tests.support.wait import wait_until
from tests.waiting.conftest import Parked, make_due

Connection = psycopg.Connection[Any]


@dataclass
class Decision:
    approved: bool
    by: str


def test_a_parked_receiver_is_woken_by_a_message(durable: Durable, connection: Connection, parked: Parked) -> None:
    @durable.workflow
    def expense(amount: int) -> str:
        decision = recv("decision", Decision)
        return f"{amount} {decision.approved} {decision.by}"

    with durable.executor():
        handle = expense.start(5)
        assert parked(handle) == [("1", "message", "decision")]
        handle.send("decision", Decision(True, "ann"))
        assert handle.result(timeout=20) == "5 True ann"
    assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)
    assert connection.execute("select count(*) from dbdurable.wait").fetchone() == (0,)


async def test_the_same_in_async_code(durable: Durable, connection: Connection, parked: Parked) -> None:
    @durable.workflow
    async def expense(amount: int) -> str:
        decision = await aio.recv("decision", Decision)
        return f"{amount} {decision.approved} {decision.by}"

    async with durable.executor():
        handle = await expense.start(5)
        await asyncio.to_thread(parked, handle)
        await handle.send("decision", Decision(True, "ann"))
        assert await handle.result(timeout=20) == "5 True ann"


def test_messages_come_in_order_and_are_kept_until_they_are_read(durable: Durable) -> None:
    @durable.workflow
    def collect(many: int) -> list[int]:
        assert recv("go", str) == "now"
        return [recv("number", int) for _ in range(many)]

    handle = collect.start(20)
    for number in range(20):
        handle.send("number", number)
    handle.send("go", "now")
    with durable.executor():
        assert handle.result(timeout=20) == list(range(20))


@pytest.mark.parametrize("timeout", [0, 0.01, 0.2], ids=["now", "in memory", "parked"])
def test_the_time_is_over(durable: Durable, timeout: float) -> None:
    @durable.workflow
    def patient() -> list[Any]:
        first = recv("never", int, timeout=timeout, default=None)
        try:
            recv("never", int, timeout=timeout)
        except WaitTimeout as late:
            return [first, str(late)]
        return ["came"]

    with durable.executor():
        assert patient() == [None, "no message on topic 'never' came to workflow patient in time"]
        assert patient.start().result(timeout=20)[0] is None


def test_none_is_a_message(durable: Durable) -> None:
    @durable.workflow
    def waits() -> list[Any]:
        return [recv("it", default="nothing"), recv("it", timeout=0, default="nothing")]

    handle = waits.start()
    handle.send("it", None)
    with durable.executor():
        assert handle.result(timeout=20) == [None, "nothing"]


def test_a_message_that_comes_at_the_end_of_the_time_is_not_lost(
    durable: Durable, connection: Connection, parked: Parked
) -> None:
    @durable.workflow
    def waits() -> list[Any]:
        return [recv("it", int, timeout=3600, default=-1), recv("it", int, timeout=3600, default=-1)]

    with durable.executor():
        handle = waits.start()
        parked(handle)
        make_due(connection, handle.id)
        wait_until(lambda: parked(handle)[0][0] == "2", what="the second call to wait")
        handle.send("it", 7)
        assert handle.result(timeout=20) == [-1, 7]


def test_what_comes_is_read_as_the_receiver_says(durable: Durable, connection: Connection) -> None:
    @durable.workflow
    def reads() -> list[Any]:
        return [recv("set", set[int]), recv("plain"), recv("bytes", bytes)]

    handle = reads.start()
    connection.execute("select dbdurable.send(%s, 'set', '[1, 1, 2]')", [handle.id])
    connection.execute("select dbdurable.send(%s, 'plain', '{\"b\": 1e0, \"a\": [null]}')", [handle.id])
    handle.send("bytes", b"\xff\x00")
    with durable.executor():
        assert handle.result(timeout=20) == [{1, 2}, {"b": 1.0, "a": [None]}, b"\xff\x00"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_message_of_another_type_is_an_error_and_counts_as_received(durable: Durable, is_async: bool) -> None:
    @durable.workflow
    def reads() -> list[Any]:
        said = []
        for _ in range(2):
            try:
                said.append(recv("number", int))
            except BadArgument as error:
                said.append(str(error))
        return said

    @durable.workflow
    async def areads() -> list[Any]:
        said: list[Any] = []
        for _ in range(2):
            try:
                said.append(await aio.recv("number", int))
            except BadArgument as error:
                said.append(str(error))
        return said

    handle = areads.sync.start() if is_async else reads.start()
    handle.send("number", "seven")
    handle.send("number", 7)
    with durable.executor():
        wrong, right = handle.result(timeout=20)
    assert "recv 'number'" in wrong
    assert "int" in wrong
    assert right == 7


def test_two_receivers_on_one_topic_in_branches_get_one_each(durable: Durable) -> None:
    @durable.workflow
    async def both() -> list[int]:
        return sorted(await asyncio.gather(aio.recv("it", int), aio.recv("it", int), aio.recv("it", int)))

    with durable.executor():
        handle = both.sync.start()
        for number in (1, 2, 3):
            handle.send("it", number)
        assert handle.result(timeout=20) == [1, 2, 3]


# -- who sends -----------------------------------------------------------------------------------------------


@pytest.fixture
def numbers(durable: Durable) -> Any:
    """A workflow that waits for `many` numbers and answers with them, sorted."""

    @durable.workflow
    def numbers(many: int) -> list[int]:
        return sorted(recv("number", int) for _ in range(many))

    return numbers


def test_a_body_sends_once_however_often_it_begins(durable: Durable, numbers: Any, parked: Parked) -> None:
    @durable.workflow
    def sender(to: str) -> str:
        send(to, "number", 1)
        recv("go", str)
        send(numbers.handle(to), "number", 2)
        return "sent"

    with durable.executor():
        receiver = numbers.start(2)
        handle = sender.start(str(receiver.id))
        parked(handle)
        handle.send("go", "on")
        assert handle.result(timeout=20) == "sent"
        assert receiver.result(timeout=20) == [1, 2]
    assert [(step.kind, step.name) for step in handle.steps()] == [
        ("send", "number"),
        ("recv", "go"),
        ("send", "number"),
    ]


async def test_an_async_body_sends(durable: Durable, numbers: Any) -> None:
    @durable.workflow
    async def sender(to: str) -> None:
        await aio.send(to, "number", 1)
        await numbers.aio.handle(to).send("number", 2)

    async with durable.executor():
        receiver = await numbers.aio.start(2)
        await sender(str(receiver.id))
        assert await receiver.result(timeout=20) == [1, 2]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_step_that_runs_again_sends_once(
    durable: Durable, connection: Connection, numbers: Any, is_async: bool
) -> None:
    @durable.step(retry=Retry(3, initial=0.001))
    def tell(to: str) -> str:
        send(to, "number", 1)
        send(to, "number", 2)
        if not told:
            told.append(1)
            raise OSError("not yet")
        return "told"

    @durable.step(retry=Retry(3, initial=0.001))
    async def atell(to: str) -> str:
        await aio.send(to, "number", 1)
        await aio.send(to, "number", 2)
        if not told:
            told.append(1)
            raise OSError("not yet")
        return "told"

    @durable.workflow
    def sender(to: str) -> str:
        return tell(to)

    @durable.workflow
    async def asender(to: str) -> str:
        return await atell(to)

    told: list[int] = []
    receiver = numbers.start(2)
    with durable.executor():
        assert (asender.sync if is_async else sender)(str(receiver.id)) == "told"
        assert receiver.result(timeout=20) == [1, 2]
    assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)


def test_what_was_sent_once_may_be_sent_again_after_its_reader_has_ended(durable: Durable, numbers: Any) -> None:
    with durable.executor():
        receiver = numbers.start(1)
        receiver.send("number", 1, idempotency_key="once")
        assert receiver.result(timeout=20) == [1]
        receiver.send("number", 1, idempotency_key="once")
        with pytest.raises(WorkflowFinished):
            receiver.send("number", 1, idempotency_key="another")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_transaction_sends_if_it_commits(
    durable: Durable, connection: Connection, numbers: Any, is_async: bool
) -> None:
    @durable.transaction
    def tell(tx: psycopg.Connection, to: str, number: int) -> None:
        send(to, "number", number)
        if number == 1:
            raise ValueError("no")

    @durable.transaction
    async def atell(tx: AsyncConnection, to: str, number: int) -> None:
        await aio.send(to, "number", number)
        if number == 1:
            raise ValueError("no")

    @durable.workflow
    def sender(to: str) -> None:
        with pytest.raises(ValueError, match="no"):
            tell(to, 1)
        tell(to, 2)

    @durable.workflow
    async def asender(to: str) -> None:
        with pytest.raises(ValueError, match="no"):
            await atell(to, 1)
        await atell(to, 2)

    receiver = numbers.start(1)
    with durable.executor():
        (asender.sync if is_async else sender)(str(receiver.id))
        assert receiver.result(timeout=20) == [2]
    assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)


def test_a_send_in_the_callers_transaction(durable: Durable, database_url: str, numbers: Any, parked: Parked) -> None:
    with durable.executor(), psycopg.connect(database_url) as mine:
        receiver = numbers.options(key="r").start(2)
        parked(receiver)
        numbers.handle(key="r").send("number", 1, tx=mine)
        mine.rollback()
        receiver.send("number", 2, tx=mine)
        numbers.handle(key="r").send("number", 3, tx=mine)
        mine.commit()
        assert receiver.result(timeout=20) == [2, 3]


async def test_a_send_in_the_callers_async_transaction(
    durable: Durable, database_url: str, numbers: Any, parked: Parked
) -> None:
    async with durable.executor(), await AsyncConnection.connect(database_url) as mine:
        receiver = await numbers.aio.options(key="r").start(2)
        await asyncio.to_thread(parked, receiver.sync)
        await receiver.send("number", 1, tx=mine)
        await mine.rollback()
        await receiver.send("number", 2, tx=mine)
        await numbers.aio.handle(key="r").send("number", 3, tx=mine)
        await mine.commit()
        assert await receiver.result(timeout=20) == [2, 3]


def test_sql_triggers_and_clients_send(
    durable: Durable, database_url: str, connection: Connection, numbers: Any, parked: Parked
) -> None:
    connection.execute(
        """
        create table paid (workflow_id uuid, amount integer);
        create function tell() returns trigger language plpgsql as $$
        begin
            perform dbdurable.send(new.workflow_id, 'number', to_json(new.amount));
            return new;
        end $$;
        create trigger tell after insert on paid for each row execute function tell();
        """
    )
    with durable.executor(), Client(database_url) as client:
        receiver = numbers.start(3)
        parked(receiver)
        connection.execute("insert into paid values (%s, 1)", [receiver.id])
        parked(receiver)
        connection.execute("select dbdurable.send(%s, 'number', '2')", [receiver.id])
        parked(receiver)
        client.handle(receiver.id).send("number", 3)
        assert receiver.result(timeout=20) == [1, 2, 3]


def test_a_key_sends_once_also_after_it_was_read(durable: Durable, connection: Connection, numbers: Any) -> None:
    receiver = numbers.start(2)
    with durable.executor():
        receiver.send("number", 1, idempotency_key="a")
        receiver.send("number", 1, idempotency_key="a")
        wait_until(lambda: connection.execute("select count(*) from dbdurable.message").fetchone() == (0,))
        receiver.send("number", 1, idempotency_key="a")
        again = connection.execute("select dbdurable.send(%s, 'number', '1', 'a')", [receiver.id]).fetchone()
        assert again == (False,)
        receiver.send("number", 2, idempotency_key="b")
        assert receiver.result(timeout=20) == [1, 2]


@pytest.mark.parametrize("where", ["outside", "body", "transaction", "step", "tx"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_start_and_send(
    durable: Durable, database_url: str, connection: Connection, numbers: Any, where: str, is_async: bool
) -> None:
    def go(n: int, **options: Any) -> None:
        numbers.options(key="k", **options).bind(3).send("number", n)

    async def ago(n: int, **options: Any) -> None:
        await numbers.aio.options(key="k", **options).bind(3).send("number", n)

    @durable.workflow
    def body() -> None:
        go(2)

    @durable.workflow
    async def abody() -> None:
        await ago(2)

    @durable.transaction
    def transaction(tx: psycopg.Connection) -> None:
        go(2)

    @durable.transaction
    async def atransaction(tx: AsyncConnection) -> None:
        await ago(2)

    @durable.step(retry=Retry(2, initial=0.001))
    def step() -> None:
        go(2)
        if not tried:
            tried.append(1)
            raise OSError

    @durable.step(retry=Retry(2, initial=0.001))
    async def astep() -> None:
        await ago(2)
        if not tried:
            tried.append(1)
            raise OSError

    async def in_tx() -> None:
        async with await AsyncConnection.connect(database_url) as mine:
            await ago(2, tx=mine)

    tried: list[int] = []
    go(1)
    with durable.executor():
        if where == "outside":
            asyncio.run(ago(2)) if is_async else go(2)
        elif where == "tx" and is_async:
            asyncio.run(in_tx())
        elif where == "tx":
            with psycopg.connect(database_url) as mine:
                go(2, tx=mine)
        else:
            sync = {"body": body, "transaction": transaction, "step": step}
            async_ = {"body": abody, "transaction": atransaction, "step": astep}
            handle = async_[where].sync.start() if is_async else sync[where].start()
            handle.result(timeout=20)
        go(3)
        assert numbers.handle(key="k").result(timeout=20) == [1, 2, 3]
        with pytest.raises(WorkflowFinished, match="has ended"):
            go(4)
    assert connection.execute("select count(*) from dbdurable.workflow where name = 'numbers'").fetchone() == (1,)


# -- bad input -----------------------------------------------------------------------------------------------


def test_nobody_is_there(durable: Durable, connection: Connection, numbers: Any) -> None:
    @durable.workflow
    def sender(to: str) -> str:
        try:
            send(to, "number", 1)
        except (UnknownWorkflow, WorkflowFinished) as error:
            return type(error).__name__
        return "sent"

    with durable.executor():
        done = numbers.start(0)
        assert done.result(timeout=20) == []
        unknown = numbers.handle(uuid4())
        with pytest.raises(WorkflowFinished, match=r"workflow numbers .* has ended \(succeeded\)"):
            done.send("number", 1)
        with pytest.raises(UnknownWorkflow, match="there is no workflow"):
            unknown.send("number", 1)
        with pytest.raises(UnknownWorkflow):
            numbers.handle(key="nobody").send("number", 1)
        assert sender(str(done.id)) == "WorkflowFinished"
        assert sender(str(uuid4())) == "UnknownWorkflow"
    for call in ("dbdurable.send(%s, 'number', '1')", "dbdurable.send(%s, 'number', '1', 'key')"):
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"select {call}", [done.id])  # type: ignore[call-overload]
        assert caught.value.sqlstate == "DD011"
    assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)
    assert connection.execute("select count(*) from dbdurable.message_key").fetchone() == (0,)


@pytest.mark.parametrize(
    ("topic", "value", "key"),
    [
        ("", 1, None),
        ("!promise 1", 1, None),
        ("two words", 1, None),
        (3, 1, None),
        ("t" * 201, 1, None),
        ("t", float("nan"), None),
        ("t", {"a": [float("inf")]}, None),
        ("t", "nul \0", None),
        ("t", object(), None),
        ("t", lambda: 1, None),
        ("t", "x" * 5_000_000, None),
        ("t", "\ud800", None),
        ("t", 1, ""),
        ("t", 1, 7),
        ("t", 1, "k" * 600),
    ],
)
def test_messages_that_cannot_be_sent(
    durable: Durable, connection: Connection, numbers: Any, topic: Any, value: Any, key: Any
) -> None:
    receiver = numbers.start(1)
    with pytest.raises(BadArgument):
        receiver.send(topic, value, idempotency_key=key)
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(BadArgument):
        receiver.send("t", nested)
    assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)


@pytest.mark.parametrize("arguments", ["'', '1'", "'!promise 1', '1'", "null, '1'", "'t', '\"\\u0000\"'"])
def test_sql_refuses_them_too(connection: Connection, durable: Durable, numbers: Any, arguments: str) -> None:
    receiver = numbers.start(1)
    with pytest.raises(psycopg.Error):
        connection.execute(f"select dbdurable.send('{receiver.id}', {arguments})")  # type: ignore[call-overload]
    assert connection.execute("select count(*) from dbdurable.message").fetchone() == (0,)


def test_outside_of_a_workflow(durable: Durable) -> None:
    with pytest.raises(NotInWorkflow, match=r"recv\(\.\.\.\) was called outside"):
        recv("t")
    with pytest.raises(NotInWorkflow, match=r"write `handle\.send\(topic, value\)`"):
        send(uuid4(), "t", 1)
