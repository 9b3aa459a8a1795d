"""The connections of an executor's own services."""

from uuid import uuid4

import psycopg
import pytest

from dbdurable import Durable
from dbdurable._core.journal import Journal
from dbdurable._io.database import Database
from dbdurable._protocol.frame import WorkflowFrame
from tests.support.wait import wait_until


def test_it_connects_again_after_it_broke(database_url: str, connection: psycopg.Connection) -> None:
    own = Database(lambda: database_url, "dbdurable").own_connection()
    first = own.getconn().info.backend_pid
    connection.execute("select pg_terminate_backend(%s, 5000)", [first])
    wait_until(lambda: own.lost)
    assert own.getconn().info.backend_pid != first, "a session that the server has ended is not lent again"
    assert own.generation == 2
    own.close()


class FailsOnce:
    """A seam at which the executor itself breaks, once."""

    def __init__(self) -> None:
        self.failed = 0

    def reached(self, point: str, connection: object) -> None:
        if point == "before finish_succeeded" and not self.failed:
            self.failed += 1
            raise RuntimeError("planted")


def test_work_that_the_executor_lost_is_handed_back(
    database_url: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "0.1")
    durable, ran = Durable(database_url), []

    @durable.step
    def note() -> int:
        ran.append(1)
        return 7

    @durable.workflow
    def work() -> int:
        return note()

    durable._runtime.database.seam = seam = FailsOnce()
    with durable.executor():
        assert work.start().result(timeout=30) == 7
    durable.close()
    assert seam.failed == 1, "void: the fault was not injected"
    assert ran == [1]
    assert connection.execute("select status::text, epoch from dbdurable.workflow").fetchall() == [("succeeded", 3)]


def test_a_workflow_claimed_again_keeps_its_lease_row_when_its_last_frame_goes(database_url: str) -> None:
    durable = Durable(database_url)

    @durable.workflow
    def work() -> None:
        pass

    with durable.executor() as executor:
        attempts, id = executor.attempts, uuid4()
        first, again = (
            WorkflowFrame(id, "work", None, epoch, 1, executor.lease, Journal(), is_async=False) for epoch in (1, 3)
        )
        attempts.add(first, 901, claimed=False)
        attempts.add(again, 902, claimed=False)
        attempts.remove(first, claimed=False, ended=True)
        assert attempts.find(id) is again
        assert 902 not in attempts.take_done()[0]
        attempts.remove(again, claimed=False, ended=True)
        assert 902 in attempts.take_done()[0]
    durable.close()
