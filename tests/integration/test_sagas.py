"""Sagas: what was done is undone in reverse, durably, when the body fails or is cancelled."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from psycopg import Connection

from dbdurable import Durable, Handle, NonRetryable, Retry, aio, current_step, errors, gather, saga
from tests.support.wait import wait_until
from tests.support.workflows import Gate, check_cancelled, journal


class Trip:
    """The workflows under test, and what they did."""

    def __init__(self, durable: Durable) -> None:
        self.did: list[str] = []
        self.keys: dict[str, Any] = {}
        did, keys = self.did, self.keys

        @durable.step
        def undo_booking(receipt: str | None, what: str) -> None:
            did.append(f"undo {what} {receipt}")
            assert current_step().undoes == keys[what]

        @durable.step(compensate=undo_booking)
        def book(what: str) -> str:
            keys[what] = current_step().idempotency_key
            did.append(f"book {what}")
            return f"receipt of {what}"

        @durable.step
        def refuse() -> None:
            raise ValueError("sold out")

        self.book, self.refuse = book, refuse


@pytest.fixture
def trip(durable: Durable) -> Trip:
    return Trip(durable)


def test_steps_with_a_compensation_are_undone_in_reverse_when_the_body_fails(durable: Durable, trip: Trip):
    @durable.workflow
    def body() -> None:
        trip.book("flight")
        trip.book("hotel")
        trip.refuse()

    with durable.executor():
        handle = body.start()
        with pytest.raises(ValueError, match="sold out"):
            handle.result(20)
    assert trip.did == [
        "book flight", "book hotel", "undo hotel receipt of hotel", "undo flight receipt of flight",
    ]  # fmt: skip
    assert [name for name, _ in journal(handle)] == ["book", "book", "refuse", "undo_booking", "undo_booking"]


async def test_the_same_in_async_code(durable: Durable):
    did: list[str] = []

    async def undo(receipt: str | None, what: str) -> None:
        await asyncio.sleep(0)
        did.append(f"undo {what} {receipt}")

    @durable.step(compensate=undo)
    async def book(what: str) -> str:
        did.append(f"book {what}")
        return what.upper()

    def plain(what: str) -> object:
        did.append(f"plain {what}")
        return object()  # nobody's

    @durable.workflow
    async def body() -> None:
        async with aio.saga() as s:
            await book("flight")
            s.undo(plain, "notes")
            await asyncio.gather(book("a"), book("b"))
            raise ValueError("sold out")

    async with durable.executor():
        with pytest.raises(ValueError, match="sold out"):
            await body()
    assert did[:3] == ["book flight", "book a", "book b"]
    assert sorted(did[3:5]) == ["undo a A", "undo b B"]
    assert did[5:] == ["plain notes", "undo flight FLIGHT"]


def test_a_block_that_ends_well_is_done(durable: Durable, trip: Trip):
    @durable.workflow
    def body() -> None:
        with saga():
            trip.book("flight")
        trip.book("hotel")
        trip.refuse()

    with durable.executor(), pytest.raises(ValueError, match="sold out"):
        body()
    assert trip.did == ["book flight", "book hotel", "undo hotel receipt of hotel"]


def test_a_body_that_ends_well_undoes_nothing(durable: Durable, trip: Trip):
    @durable.workflow
    def body() -> str:
        return trip.book("flight")

    with durable.executor():
        assert body() == "receipt of flight"
    assert trip.did == ["book flight"]


def test_transactions_and_functions_as_compensations(durable: Durable, connection: Connection[Any]):
    connection.execute("create table stock (item text)")

    @durable.transaction
    def write(tx: Connection[Any], item: str) -> None:
        tx.execute("insert into stock values (%s)", [item])

    @durable.workflow
    def body() -> str:
        try:
            with saga() as s:
                s.undo(write, "one")
                s.undo(write, item="two")
                s.undo(lambda: write.fn(connection, "three"))
                raise ValueError
        except ValueError:
            return "handled"

    with durable.executor():
        handle = body.start()
        assert handle.result(20) == "handled"
    assert connection.execute("select item from stock").fetchall() == [("three",), ("two",), ("one",)]
    assert [(step.kind, step.name) for step in handle.steps()] == [
        ("step", "undo"), ("transaction", "write"), ("transaction", "write"),
    ]  # fmt: skip


def test_branches_inside_a_saga(durable: Durable, trip: Trip):
    @durable.workflow
    def body() -> None:
        with saga():
            gather(trip.book.bind("a"), trip.book.bind("b"))
            trip.refuse()

    with durable.executor(), pytest.raises(ValueError, match="sold out"):
        body()
    assert sorted(trip.did[2:]) == ["undo a receipt of a", "undo b receipt of b"]


def test_a_compensation_that_fails_is_tried_again_and_is_loud(
    durable: Durable, connection: Connection[Any], caplog: pytest.LogCaptureFixture
):
    seen: list[Any] = []

    @durable.step(retry=Retry(2, initial=0.001))
    def undo(receipt: str | None) -> None:
        if current_step().attempt > 1:
            seen.append(connection.execute("select status, reason from dbdurable.failures").fetchall())
        if current_step().attempt < 6:
            raise ConnectionError("password=hunter2 no answer")

    @durable.step(compensate=undo)
    def book() -> str:
        return "x"

    @durable.workflow
    def body() -> None:
        book()
        raise ValueError("sold out")

    with durable.executor(), caplog.at_level(logging.WARNING, "dbdurable"), pytest.raises(ValueError, match="sold"):
        body()
    times = ["once", *(f"{n} times, last" for n in range(2, 6))]
    reasons = [f"compensation undo failed {n} with ConnectionError: password=*** no answer" for n in times]
    assert [rows[0][1] for rows in seen] == reasons
    loud = [record.levelname for record in caplog.records if "compensation undo" in record.message]
    assert loud == ["WARNING"] * 3 + ["ERROR"] * 2
    assert connection.execute("select status, reason from dbdurable.failures").fetchall() == [
        ("failed", "ValueError: sold out")
    ]


def test_a_compensation_that_gives_up_is_listed_and_the_others_run(durable: Durable, trip: Trip):
    def impossible(account: int) -> None:
        raise NonRetryable("closed")

    @durable.workflow
    def body() -> None:
        with saga() as s:
            trip.book("flight")
            s.undo(impossible, 42)
            trip.book("hotel")
            trip.refuse()

    with durable.executor():
        handle = body.start()
        with pytest.raises(errors.UndoFailed, match=r"1 of 3 .* Undo by hand: impossible\(42\): .*closed") as raised:
            handle.result(20)
    assert isinstance(raised.value.__cause__, ValueError)
    assert trip.did[2:] == ["undo hotel receipt of hotel", "undo flight receipt of flight"]
    assert handle.status() == "failed"


# ---- cancel ------------------------------------------------------------------------------------------------


def test_a_cancelled_body_is_undone_and_a_cut_off_step_counts_as_done(durable: Durable):
    did, gate = [], Gate()

    @durable.step
    def undo(receipt: str | None, what: str) -> None:
        did.append(f"undo {what} {receipt}")

    @durable.step(compensate=undo)
    async def book(what: str) -> str:
        did.append(f"book {what}")
        if what == "hotel":
            await gate.never()
        return "done"

    @durable.workflow
    def body() -> None:
        book.sync("flight")
        book.sync("hotel")

    with durable.executor():
        handle = body.start()
        gate.wait_reached()
        handle.cancel("not needed")
        with pytest.raises(errors.WorkflowCancelled, match="not needed"):
            handle.result(20)
    assert did == ["book flight", "book hotel", "undo hotel None", "undo flight done"]


@pytest.mark.parametrize("known", [False, True])
def test_a_cancel_after_the_last_call_undoes_the_body(durable: Durable, trip: Trip, known: bool):
    @durable.workflow
    def body() -> str:
        trip.book("flight")
        handle.cancel("late")
        if known:
            frame = durable._runtime.executor.attempts.find(handle.id)  # type: ignore[union-attr]
            wait_until(lambda: frame is not None and frame.interrupt)
        return "booked"

    with durable.executor() as executor:
        handle: Handle[str] = body.options(delay=0.01).start()
        with pytest.raises(errors.WorkflowCancelled, match="late"):
            handle.result(20)
        executor.wait_idle(10)
    assert trip.did == ["book flight", "undo flight receipt of flight"]


def test_a_cancel_while_it_rolls_back_changes_nothing_but_the_end(durable: Durable):
    did, gate = [], Gate()

    def undo(what: str) -> None:
        did.append(what)
        if what == "second":
            gate.wait()

    @durable.step
    def after() -> None:
        did.append("after")

    @durable.workflow
    def body() -> str:
        try:
            with saga() as s:
                s.undo(undo, "first")
                s.undo(undo, "second")
                raise ValueError
        except ValueError:
            after()
        return "handled"

    with durable.executor():
        handle = body.start()
        check_cancelled(handle, gate)
    assert did == ["second", "first"]
    assert [name for name, _ in journal(handle)] == ["undo", "undo", "after"]


def test_an_executor_that_closes_undoes_nothing(durable: Durable, trip: Trip):
    gate = Gate()

    @durable.step
    def slow() -> None:
        gate.wait()

    @durable.workflow
    def body() -> str:
        with saga():
            trip.book("flight")
            slow()
            trip.book("hotel")
        return "booked"

    executor = durable.executor(threads=1).open()
    handle = body.start()
    gate.wait_reached()
    closing = threading.Thread(target=executor.close, kwargs={"timeout": 0})
    closing.start()
    assert executor.stopping.wait(20)
    gate.go.set()
    closing.join(30)
    assert handle.status() == "queued"
    with durable.executor(threads=1):
        assert handle.result(20) == "booked"
    assert trip.did == ["book flight", "book hotel"]


async def test_the_loser_of_a_race_is_undone_alone(durable: Durable):
    did: list[str] = []
    begun = asyncio.Event()

    @durable.step
    async def fast() -> str:
        await begun.wait()
        return "fast"

    @durable.step
    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    @durable.step
    async def note(what: str) -> None:
        did.append(what)

    async def branch() -> None:
        async with aio.saga() as s:
            s.undo(note, "undone")
            await never()

    @durable.workflow
    async def body() -> str:
        _, value = await aio.race(fast.bind(), branch)
        await note("after")
        return str(value)

    async with durable.executor():
        assert await body() == "fast"
    assert did == ["undone", "after"]


# ---- bad input ---------------------------------------------------------------------------------------------


def test_what_cannot_undo_is_refused_at_once(durable: Durable, trip: Trip):
    @durable.workflow
    def body() -> list[str]:
        said = []
        for wrong in (
            lambda s: s.undo(None),
            lambda s: s.undo(trip.book("flight")),
            lambda s: s.undo(trip.book),
            lambda s: s.undo(lambda x: None),
            lambda s: s.undo(body),
        ):
            with saga() as s:
                try:
                    wrong(s)
                except errors.BadArgument as error:
                    said.append(str(error))
        return said

    with durable.executor():
        said = body()
    assert len(said) == 5
    assert "without calling it" in said[0]
    assert "receipt of flight" in said[1]
    for wrong, match in (
        (5, "compensate= takes a function"),
        (lambda: None, "too many positional"),
        (body, "workflow"),
    ):
        with pytest.raises(errors.BadConfiguration, match=match):
            durable.step(compensate=wrong, name="book")(lambda what: what)  # type: ignore[type-var]
    with pytest.raises(errors.NotInWorkflow, match="ExitStack"), saga():
        pass


def test_except_base_exception_around_everything(durable: Durable, trip: Trip):
    """What a body swallows is not undone a second time, and no call runs twice."""

    @durable.workflow
    def body() -> str:
        try:
            with saga():
                trip.book("flight")
                trip.refuse()
        except BaseException as error:
            return type(error).__name__
        finally:
            trip.book("hotel")
        return "not reached"

    with durable.executor():
        assert body() == "ValueError"
    assert trip.did == ["book flight", "undo flight receipt of flight", "book hotel"]
