"""Several processes of one application: forked, spawned, pickled."""

from __future__ import annotations

import pickle
from typing import Any

import psycopg
import pytest

from dbdurable import Durable
from tests.frameworks.conftest import Run


@pytest.mark.parametrize("program", ["used_then_forked", "forked_under_an_executor"])
def test_prefork(run: Run, connection: psycopg.Connection[Any], program: str) -> None:
    ended = run("prefork.py", program)
    assert (ended.code, ended.out, ended.err) == (0, "ok\n", "")
    assert connection.execute("select distinct status::text from dbdurable.workflow").fetchall() == [("succeeded",)]
    assert connection.execute("select count(*) from dbdurable.lease").fetchone() == (0,)


def test_spawned_processes_find_functions_by_name(run: Run) -> None:
    ended = run("spawn.py")
    assert ended.err == ""
    assert ended.out.splitlines() == [
        "Workflow work, AsyncWorkflow awork, Step double, AsyncFunction work, Function awork",
        "3 3 2",
    ]


durable = Durable()


@durable.workflow
def work(n: int) -> int:
    return n


def test_functions_pickle_as_themselves() -> None:
    assert pickle.loads(pickle.dumps(work)) is work
    assert pickle.loads(pickle.dumps(work.aio)).definition is work.definition
    with pytest.raises(TypeError, match="with options"):
        pickle.dumps(work.options(key="a"))
