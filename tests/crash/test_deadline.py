"""A deadline passes while the process that ran the workflow is dead: whoever takes it over lets it clean up."""

from __future__ import annotations

import psycopg
import pytest

from dbdurable._sql.cancel import DEADLINES
from dbdurable._sql.upkeep import DECLARE_EXPIRED, RECOVER
from tests.crash.actors import Job, acting, run
from tests.crash.oracle import check_house, expire_all, traces
from tests.support.wait import wait_until

NOW = "update dbdurable.wait set due = clock_timestamp() where kind = 'deadline'"
OF_IT = "select status::text, interrupt from dbdurable.workflow"


def tell(connection: psycopg.Connection) -> None:
    """What the beat of a replica does about deadlines."""
    connection.execute(NOW)
    assert len(connection.execute(DEADLINES.render("dbdurable")).fetchall()) == 1


def recover(connection: psycopg.Connection) -> None:
    """What it does about the dead."""
    expire_all(connection)
    connection.execute(DECLARE_EXPIRED.render("dbdurable"))
    connection.execute(RECOVER.render("dbdurable"))


@pytest.mark.parametrize("recovered_first", [False, True])
def test_it_cleans_up_elsewhere(recovered_first: bool, database_url: str, prepared: psycopg.Connection) -> None:
    with acting(Job(database_url, "hangs", runs=("run",))) as victim:
        wait_until(lambda: traces(prepared, "run").outside, what="the step to hang")
        victim.kill()
        assert victim.process.exitcode == -9
        if recovered_first:
            recover(prepared)
            assert prepared.execute(OF_IT).fetchall() == [("queued", None)]
            tell(prepared)
        else:
            tell(prepared)
            assert [row[0] for row in prepared.execute(OF_IT)] == ["running"]
            recover(prepared)
        ((status, reason),) = prepared.execute(OF_IT).fetchall()
        assert (status, reason[:10]) == ("queued", "timed out:")

        rescued = run(Job(database_url, "hangs", runs=("run",), idle=True))

    assert rescued.exitcode == 0, rescued.error
    assert (
        rescued.results["run"] == "WorkflowCancelled: workflow hangs ... was cancelled: timed out: its deadline was ..."
    )
    found = traces(prepared, "run")
    assert {what: len(keys) for what, keys in found.outside.items()} == {"hangs": 1, "cleaned up": 1}
    assert [(step[3], step[6]) for step in found.steps] == [("hang", "Cancelled"), ("call", None)]
    assert prepared.execute("select count(*) from outside where what = 'hangs'").fetchone() == (1,)
    check_house(prepared)
