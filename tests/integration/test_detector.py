"""Calls that a replay would not repeat are named when an executor opens."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator

import psycopg
import pytest

from dbdurable import Durable, now
from dbdurable.errors import BadConfiguration, NonDeterministic
from tests.support.wait import wait_until


@pytest.fixture
def durable(database_url: str) -> Iterator[Durable]:
    durable = Durable(database_url)

    @durable.step
    def waits() -> float:
        time.sleep(0)  # in a step all of this is fine
        return random.random()

    @durable.workflow
    def good() -> str:
        waits()
        return str(now())

    @durable.workflow
    def bad() -> float:
        return time.time()

    yield durable
    durable.close()


def test_it_warns_once_and_everything_runs(durable: Durable) -> None:
    with pytest.warns(NonDeterministic) as caught, durable.executor():
        assert durable.client.workflow("bad").start().result(timeout=30) > 0
    (warning,) = caught
    assert str(warning.message).startswith("workflow bad calls time.time(): it gives another value")
    line = durable._runtime.registry.definitions["bad"].fn.__code__.co_firstlineno + 2
    assert (warning.filename, warning.lineno) == (__file__, line)


def test_it_raises_by_setting_and_leaves_nothing_behind(
    durable: Durable, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBDURABLE_DETERMINISM", "raise")
    with pytest.raises(NonDeterministic, match=rf"{__file__}:\d+: workflow bad calls time.time\(\)"):
        durable.executor().open()
    assert connection.execute("select count(*) from dbdurable.executor").fetchone() == (0,)
    del durable._runtime.registry.definitions["bad"]
    with durable.executor():
        durable.client.workflow("good").start().result(timeout=30)


def test_it_is_silent_by_setting(durable: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBDURABLE_DETERMINISM", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with durable.executor():
            durable.client.workflow("bad").start().result(timeout=30)


def test_a_setting_that_is_none_of_these_is_refused(durable: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBDURABLE_DETERMINISM", "maybe")
    with pytest.raises(BadConfiguration, match="DBDURABLE_DETERMINISM"):
        durable.executor().open()


def test_what_is_decorated_later_is_read_before_it_is_claimed(
    durable: Durable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del durable._runtime.registry.definitions["bad"]
    monkeypatch.setenv("DBDURABLE_DETERMINISM", "raise")
    with durable.executor() as executor:

        @durable.workflow
        def late() -> float:
            return random.random()

        version = durable._runtime.registry.version
        wait_until(lambda: executor._version == version)
        assert "late" not in executor.definitions
    assert "workflow late cannot run here: calls that a replay would not repeat" in caplog.text
