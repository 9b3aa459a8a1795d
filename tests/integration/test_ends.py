"""A thread goes on to another body while the outcome of the last one is written; nothing of that is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dbdurable import Durable, Status, sleep
from dbdurable._executor import attempts
from dbdurable._io.drive import SyncDriver, sync_riders
from dbdurable._protocol.effects import Query
from dbdurable._protocol.start import Start
from dbdurable._sql.start import START
from dbdurable.testing.crash import FLUSH
from tests.support.wait import wait_until
from tests.support.workflows import LIMIT_S


class Dam:
    """A seam that holds whatever writes outcomes, until it is opened."""

    def __init__(self) -> None:
        self.reached_once, self.open, self.held = threading.Event(), threading.Event(), 0
        self.error: Callable[[], Exception] | None = None

    def reached(self, point: str, connection: Any) -> None:
        if point.startswith(("before finish", "before park", f"before {FLUSH}")):
            self.held += 1
            self.reached_once.set()
            assert self.open.wait(LIMIT_S)
            if self.error is not None:
                error, self.error = self.error, None
                raise error()


class Shop:
    """Workflows that note when they run."""

    def __init__(self, url: str) -> None:
        self.durable, self.ran, self.dam = Durable(url), list[int](), Dam()
        self.durable._runtime.database.seam = self.dam

        @self.durable.workflow
        def note(number: int) -> int:
            self.ran.append(number)
            return number

        @self.durable.workflow
        async def anote(number: int) -> int:
            self.ran.append(number)
            return number

        @self.durable.workflow
        def nap() -> None:
            sleep(3600)

        self.note, self.anote, self.nap = note, anote, nap


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    yield shop
    shop.dam.open.set()
    shop.durable.close()


def finished(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select count(*) from dbdurable.workflow where status = 'succeeded'").fetchone()
    assert row is not None
    return int(row[0])


def test_the_only_thread_runs_bodies_while_outcomes_wait_to_be_written(
    shop: Shop, connection: psycopg.Connection[Any]
) -> None:
    handles = [shop.note.start(number) for number in range(9)]
    with shop.durable.executor(threads=1) as executor:
        wait_until(lambda: len(shop.ran) == 9, what="all bodies to run")
        assert finished(connection) == 0
        assert executor.attempts.free(is_async=False) == 1
        assert executor.attempts.names(), "what is not written yet is not forgotten"
        shop.dam.open.set()
        assert [handle.result(LIMIT_S) for handle in handles] == list(range(9))
    assert sorted(shop.ran) == list(range(9))
    assert finished(connection) == 9


def test_what_is_behind_with_writing_claims_no_more(
    shop: Shop, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ENDING_MAX", 3)
    handles = [shop.note.start(number) for number in range(9)]
    with shop.durable.executor(threads=1) as executor:
        # Three may wait, and one that has its slot.
        wait_until(lambda: executor.attempts._ending == 4, what="no slot to be left")
        assert executor.attempts.free(is_async=False) == 0
        assert len(shop.ran) == 4
        shop.dam.open.set()
        assert [handle.result(LIMIT_S) for handle in handles] == list(range(9))


def test_a_task_has_its_slot_until_its_outcome_is_written(shop: Shop, connection: psycopg.Connection[Any]) -> None:
    handles = [shop.anote.sync.start(number) for number in range(3)]
    with shop.durable.executor(tasks=2) as executor:
        wait_until(lambda: shop.dam.held > 0 and len(shop.ran) == 2, what="two bodies to run")
        assert executor.attempts.free(is_async=True) == 0
        shop.dam.open.set()
        assert [handle.result(LIMIT_S) for handle in handles] == list(range(3))


@pytest.mark.parametrize("what", ["note", "anote", "nap"])
def test_an_outcome_whose_commit_is_lost_is_written_again(
    what: str, shop: Shop, connection: psycopg.Connection[Any]
) -> None:
    shop.dam.error = lambda: psycopg.OperationalError("planted")
    function = {"note": shop.note, "anote": shop.anote.sync, "nap": shop.nap}[what]
    handle = function.start(*([] if what == "nap" else [7]))  # type: ignore[operator]
    with shop.durable.executor(threads=1, tasks=1):
        assert shop.dam.reached_once.wait(LIMIT_S)
        shop.dam.open.set()
        wait_until(lambda: handle.status() is (Status.WAITING if what == "nap" else Status.SUCCEEDED))
    assert shop.dam.error is None, "void: the fault was not injected"
    assert len(shop.ran) == (what != "nap")
    left = "select count(*) from dbdurable.lease"
    assert connection.execute(left).fetchone() == (0,)


def test_a_cancel_that_comes_before_the_outcome_is_written_wins(
    shop: Shop, connection: psycopg.Connection[Any]
) -> None:
    handle = shop.note.start(1)
    with shop.durable.executor(threads=1):
        assert shop.dam.reached_once.wait(LIMIT_S)
        handle.cancel("stop")
        shop.dam.open.set()
        wait_until(lambda: handle.status() is Status.CANCELLED, what="the cancel")
    assert connection.execute("select status::text, epoch from dbdurable.workflow").fetchall() == [("cancelled", 2)]


def test_who_waits_for_no_thread_is_as_patient_as_others(shop: Shop, connection: psycopg.Connection[Any]) -> None:
    """Both flushes stand before rows that a stranger holds: one more is begun for those who come behind."""
    database = shop.durable._runtime.database
    database.prepare()
    database.seam = None
    riders, answers, go, came = sync_riders(database), list[Any](), threading.Event(), threading.Event()
    flush = riders._flush

    def held(items: Sequence[Query]) -> Any:
        if items[0].params[0] == "held":
            assert go.wait(LIMIT_S)
        return flush(items)

    def answered(answer: Any) -> None:
        answers.append(answer)
        came.set()

    riders._flush = held
    ids = [database.new_id() for _ in range(3)]
    for id, name in zip(ids, ("held", "held", "job"), strict=True):
        riders.ride_on(Query(START, Start(id, name, "{}").params), answered)
    assert came.wait(LIMIT_S)
    assert answers == [[(ids[2],)]]
    go.set()
    wait_until(lambda: len(answers) == 3)
    assert sorted(answers[1:]) == [[(ids[0],)], [(ids[1],)]]


def test_what_fails_behind_a_shared_commit_harms_no_neighbour(
    shop: Shop, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    database = shop.durable._runtime.database
    database.prepare()
    database.seam = None
    came = list[Any]()

    def fails(answer: Any) -> None:
        raise RuntimeError("planted")

    riders = sync_riders(database)
    for number in range(20):
        item = Query(START, Start(database.new_id(), "job", "{}").params)
        riders.ride_on(item, came.append if number % 2 else fails)
    wait_until(lambda: len(came) == 10)
    wait_until(lambda: caplog.text.count("what came behind a shared commit failed") == 10)
    assert connection.execute("select count(*) from dbdurable.workflow").fetchone() == (20,)


async def test_the_same_on_a_loop(shop: Shop) -> None:
    shop.dam.open.set()
    async with shop.durable.executor(tasks=4):
        handles = [await shop.anote.start(number) for number in range(20)]
        assert [await handle.result(LIMIT_S) for handle in handles] == list(range(20))
    assert sorted(shop.ran) == list(range(20))


def test_ends_leave_by_the_driver_only_what_ends_an_attempt(shop: Shop) -> None:
    """A statement in the middle of a protocol is waited for, though it may share its commit."""
    shop.dam.open.set()
    database, left = shop.durable._runtime.database, list[Query]()
    database.prepare()
    id: UUID = database.new_id()

    def flow() -> Any:
        return (yield Query(START, Start(id, "job", "{}").params))

    assert SyncDriver(database).run(flow(), left.append) == [(id,)]
    assert left == []
