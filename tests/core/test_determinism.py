"""What a workflow's body must not call is found by reading it: which line, and what to write instead."""

# ruff: noqa: DTZ003, DTZ005, DTZ006, DTZ011, F402  (it is about calling these)

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import random
import socket
import time
import urllib.request
import uuid
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from random import choice as pick
from time import time as clock
from typing import Any

import pytest

import dbdurable
from dbdurable import aio, run_step
from dbdurable._core.determinism import find

other_module = inspect


class Till:
    """Names that mean something else here."""

    def time(self) -> float:
        return 0.0

    def now(self) -> float:
        return 0.0


class Proxy:
    """An object of a framework's that answers only while a request is served."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


till, proxy = Till(), Proxy()


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def text_of(function: Callable[..., Any]) -> list[str]:
    """The findings as 'source line: advice'."""
    found = find(function, "checkout")
    lines = Path(__file__).read_text().splitlines()
    return [f"{lines[each.line - 1].strip()}: {each.text.rpartition('; ')[2]}" for each in found]


def test_clocks_randomness_waits_and_connections_are_found_with_their_lines() -> None:
    @body
    def checkout() -> None:
        time.time()
        clock()
        time.monotonic_ns()
        datetime.now()
        dt.datetime.utcnow()
        date.today()
        random.random()
        pick([1])
        random.Random()
        random.SystemRandom()
        uuid.uuid4()
        uuid.uuid1()
        time.sleep(1)
        socket.create_connection(("localhost", 1))
        urllib.request.urlopen("http://localhost")

    advice = {line.partition(": ")[0]: line.rpartition(": ")[2] for line in text_of(checkout)}
    now, draw, step = "write dbdurable.now()", "draw it from dbdurable.rng()", "do it in a step"
    assert advice == {
        **{f"{call}()": now for call in ("time.time", "clock", "time.monotonic_ns", "datetime.now")},
        "dt.datetime.utcnow()": now,
        "date.today()": now,
        "random.random()": draw,
        "pick([1])": draw,
        "random.Random()": "write dbdurable.rng()",
        "random.SystemRandom()": "draw it in a step",
        "uuid.uuid4()": "write dbdurable.uuid4()",
        "uuid.uuid1()": "write dbdurable.uuid4()",
        "time.sleep(1)": "write dbdurable.sleep(...)",
        'socket.create_connection(("localhost", 1))': step,
        'urllib.request.urlopen("http://localhost")': step,
    }


def test_the_sentence_names_workflow_call_reason_and_remedy() -> None:
    def checkout() -> float:
        return time.time()

    (found,) = find(checkout, "checkout")
    assert found.text == (
        "workflow checkout calls time.time(): it gives another value when the body is replayed; write dbdurable.now()"
    )
    assert (found.file, found.line) == (__file__, checkout.__code__.co_firstlineno + 1)


def test_asynchronous_waits_are_found() -> None:
    async def checkout() -> None:
        await asyncio.sleep(3)
        await asyncio.sleep(0)  # only lets others run
        async with asyncio.timeout(3):
            await asyncio.wait_for(asyncio.Event().wait(), 3)

    assert text_of(checkout) == [
        "await asyncio.sleep(3): write `await dbdurable.aio.sleep(...)`",
        "async with asyncio.timeout(3):: write `with dbdurable.timeout(...):`",
        "await asyncio.wait_for(asyncio.Event().wait(), 3): write `with dbdurable.timeout(...):`",
    ]


def test_names_are_what_they_are_in_python() -> None:
    def checkout(random: Any, items: list[Any]) -> None:
        import random as dice
        import time as watch
        from time import time_ns

        random.random()
        till.time()
        till.now()
        proxy()
        proxy.time()
        for uuid in items:
            uuid.uuid4()
        dice.random()
        watch.time()
        time_ns()
        other_module.getsource(checkout)

    assert [line.partition(":")[0] for line in text_of(checkout)] == ["dice.random()", "watch.time()", "time_ns()"]


def test_what_is_the_same_each_time_is_fine() -> None:
    def checkout(when: float) -> None:
        random.Random(17).random()
        time.gmtime(when)
        datetime.fromtimestamp(when)
        dbdurable.now()
        dbdurable.uuid4()
        dbdurable.rng().random()

    assert text_of(checkout) == []


def test_what_runs_in_a_step_is_fine() -> None:
    async def checkout() -> None:
        def fetch() -> Any:
            return urllib.request.urlopen("http://localhost")

        run_step("draw", lambda: random.random())
        dbdurable.run_step("fetch", fetch)
        run_step("again", fn=fetch)
        await aio.run_step("wait", lambda: asyncio.sleep(1))
        run_step(str(time.time()), random.random)

    assert [line.partition(":")[0] for line in text_of(checkout)] == ["run_step(str(time.time()), random.random)"]


def pause() -> None:
    time.sleep(1)
    pause()


def test_functions_of_the_same_module_belong_to_the_body() -> None:
    def checkout() -> None:
        def inner() -> float:
            return time.time()

        inner()
        sorted([1, 2], key=lambda _: random.random())
        pause()

    found = [each.text.partition(":")[0] for each in find(checkout, "checkout")]
    assert sorted(found) == [
        "workflow checkout calls pause(), which calls time.sleep()",
        "workflow checkout calls random.random()",
        "workflow checkout calls time.time()",
    ]


def test_a_name_that_has_no_value_yet_says_nothing() -> None:
    def checkout() -> None:
        later.time()

    assert find(checkout, "checkout") == []
    later = time
    assert len(find(checkout, "checkout")) == 1


def test_a_line_can_allow_it() -> None:
    def checkout() -> None:
        print(time.time())  # dbdurable: allow
        print(time.time())

    assert [each.line - checkout.__code__.co_firstlineno for each in find(checkout, "checkout")] == [2]


@pytest.mark.parametrize("source", ["def checkout():\n    time.time()", "checkout = lambda: time.time()"])
def test_without_a_source_nothing_is_said(source: str) -> None:
    names: dict[str, Any] = {"time": time}
    exec(source, names)
    assert find(names["checkout"], "checkout") == []
