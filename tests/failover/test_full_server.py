"""A server without room: who has no connection knocks again, ever less often, and goes on when there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.failover.conftest import Restartable, restartable
from tests.failover.test_failover import STEPS, WORKFLOWS, Shop, check_once
from tests.support.wait import wait_until

ROOM = 16
REFUSALS = 8

OTHERS = "select count(*) from pg_stat_activity where application_name = 'dbdurable'"
END_OTHERS = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dbdurable'"


@pytest.fixture
def small() -> Iterator[Restartable]:
    with restartable(max_connections=ROOM) as server:
        yield server


def fill(url: str, stack: ExitStack) -> None:
    """Takes what room there is."""
    while True:
        try:
            stack.enter_context(psycopg.connect(url, autocommit=True, application_name="filler"))
        except psycopg.OperationalError as error:
            if "too many clients" not in str(error):
                raise
            return


def drive_out(look: psycopg.Connection[Any], url: str, stack: ExitStack) -> bool:
    """Ends the executor's sessions and takes their room; whether it has none now."""
    look.execute(END_OTHERS)
    fill(url, stack)
    return look.execute(OTHERS).fetchone() == (0,)


def test_an_executor_waits_for_room(small: Restartable, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its sessions end, and others take their places; it lives on, and so does its work."""
    monkeypatch.setenv("DBDURABLE_LEASE_TTL_S", "120")
    shop = Shop(small.url)
    with psycopg.connect(small.url, autocommit=True) as look, shop.durable.executor():
        handles = shop.start()
        wait_until(lambda: shop.steps_done >= STEPS, 30, "some steps")
        with ExitStack() as fillers:
            wait_until(lambda: drive_out(look, small.url, fillers), 30, "the executor to have no session")
            small.refused()
            refused = 0

            def knocked() -> bool:
                nonlocal refused
                refused += small.refused()
                if look.execute(OTHERS).fetchone() != (0,):  # one was just being let in, and no activity to be seen yet
                    drive_out(look, small.url, fillers)
                    small.refused()
                    refused = 0
                return refused >= REFUSALS

            wait_until(knocked, 60, f"{REFUSALS} refusals")
            ((sessions,),) = look.execute(OTHERS).fetchall()
            done = shop.steps_done
        for handle in handles:
            assert handle.result(timeout=60) == sum(range(STEPS))
    shop.durable.close()
    assert sessions == 0, "void: it had a session all the time"
    assert done < WORKFLOWS * STEPS, "void: there was no work left"
    check_once(small.url, shop)
