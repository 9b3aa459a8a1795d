"""Mistakes with branches: the message says what to write instead, and nothing was begun."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dbdurable import Completion, Durable, aio, errors, fan_out, gather, race, run_step


def inside(durable: Durable, wrong: Callable[[], Any]) -> str:
    """What `wrong` raises in a workflow's body, which has recorded nothing then."""

    @durable.workflow
    def body() -> str:
        with pytest.raises(errors.DurableError) as raised:
            wrong()
        return f"{type(raised.value).__name__}: {raised.value}"

    with durable.executor():
        handle = body.start()
        found = handle.result(timeout=20)
        assert [step.name for step in handle.steps()] == []
    return found


def test_outside_of_a_workflow(durable: Durable) -> None:
    @durable.step
    def charge(n: int) -> int:
        return n

    @durable.step
    def nested() -> None:
        gather(charge.bind(1))

    with pytest.raises(
        errors.NotInWorkflow, match=r"gather\(...\) was called outside of a workflow.*ThreadPoolExecutor"
    ):
        gather(charge.bind(1))
    with pytest.raises(errors.NotInWorkflow, match=r"fan_out\(...\) was called outside of a workflow"):
        fan_out(charge, [1])
    with pytest.raises(errors.NotInWorkflow, match=r"aio.race\(...\) was called outside of a workflow.*asyncio"):
        asyncio.run(aio.race(charge.aio.bind(1)))

    @durable.workflow
    def body() -> None:
        nested()

    with durable.executor(), pytest.raises(errors.NotInWorkflow, match="inside step nested: there it would record"):
        body()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, a: gather(1, 2), "argument 1 is no call but 1, what one returned.*`step.bind(x)` instead"),
        (lambda f, a: gather(f.bind(1), f), "argument 2, charge, is called without arguments (missing a required"),
        (lambda f, a: gather(f.bind(n) for n in (1, 2)), "is a generator: pass its calls one by one, `gather(*calls)`"),
        (lambda f, a: gather(a.bind(1)), "is asynchronous, and this is `def` code: write `acharge.sync.bind(...)`"),
        (lambda f, a: race(a.fn(1)), "is asynchronous, and this is `def` code: write `await aio.race(...)` there"),
        (lambda f, a: gather(*[f.bind(n) for n in range(1001)]), "as many threads: write `fan_out(fn, items)`"),
        (lambda f, a: race(), "race() takes at least one call"),
        (lambda f, a: race(f.bind(1), timeout=-1), "timeout= must not be negative"),
        (lambda f, a: fan_out(a, [1]), "write `fan_out(acharge.sync, items)`"),
        (lambda f, a: fan_out(f.bind(1), [1]), "write `fan_out(charge, items)` without bind"),
        (lambda f, a: fan_out([1], f), "fan_out() takes a function first, not"),
        (lambda f, a: fan_out(f, 7), "fan_out() takes items to go through second, not 7"),
        (lambda f, a: fan_out(f, [1], max_concurrency=0), "(max_concurrency=...) takes a whole number from 1 to 1000"),
        (lambda f, a: fan_out(f, [1], completion=0.5), "(completion=...) takes a Completion, not 0.5"),
        (lambda f, a: fan_out(f, [1], completion=Completion(2)), "min_successful=2) of 1 items can never be reached"),
        (
            lambda f, a: fan_out(f, [1], completion=Completion(None, -1)),
            "Completion(tolerated_failures=...) takes a wh",
        ),
        (lambda f, a: fan_out(f, [1], completion=Completion(None, None, 101)), "takes 0 to 100, not 101"),
    ],
)
def test_what_is_no_call(make: Callable[[Any, Any], Any], message: str, durable: Durable) -> None:
    @durable.step
    def charge(n: int) -> int:
        return n

    @durable.step
    async def acharge(n: int) -> int:
        return n

    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    assert re.search(pattern, inside(durable, lambda: make(charge, acharge)))


@pytest.mark.filterwarnings("ignore:coroutine 'charge' was never awaited")  # as the body does it in the set
def test_colours(durable: Durable) -> None:
    @durable.step
    def charge(n: int) -> int:
        return n

    found = []

    @durable.workflow
    async def body() -> None:
        made = charge.aio(1)
        for wrong in (
            lambda: gather(charge.bind(1)),
            lambda: fan_out(charge, [1]),
        ):
            with pytest.raises(errors.WrongColour) as raised:
                wrong()
            found.append(str(raised.value))
        with pytest.raises(
            errors.BadArgument, match=re.escape("argument 2 is a call of `def` code: write `charge.aio")
        ):
            await aio.gather(made, charge.bind(1))
        with pytest.raises(errors.BadArgument, match="is no call but 1"):
            await aio.gather(1)
        with pytest.raises(errors.BadArgument, match="takes a list or tuple"):
            list(asyncio.as_completed({charge.aio(1)}))

    with durable.executor():
        handle = body.sync.start()
        with pytest.raises(errors.BadArgument, match="never awaited charge"):
            handle.result(timeout=20)
    assert ["await aio.gather(...)" in found[0], "await aio.fan_out(...)" in found[1]] == [True, True]


def own_threads(target: Callable[[], Any], carry: bool) -> list[BaseException]:
    raised: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            context.run(target) if carry else target()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


@pytest.mark.parametrize("carry", [False, True], ids=["plain", "with context"])
def test_threads_that_a_body_starts_itself(carry: bool, durable: Durable) -> None:
    @durable.step
    def charge(n: int) -> int:
        return n

    texts: list[str] = []

    @durable.workflow
    def body() -> int:
        for target in (lambda: charge(1), lambda: run_step("x", lambda: 1), lambda: gather(charge.bind(1))):
            texts.extend(f"{type(error).__name__}: {error}" for error in own_threads(target, carry))
        return charge(2)

    @durable.workflow
    async def abody() -> int:
        try:
            return await asyncio.to_thread(charge, 1)
        except errors.NotInWorkflow as error:
            texts.append(f"{type(error).__name__}: {error}")
        return await charge.aio(2)

    with durable.executor():
        assert body() == abody.sync() == 2
    assert len(texts) == 4
    assert all(text.startswith("NotInWorkflow") for text in texts)
    assert all("gather" in text for text in texts[:1] + texts[3:])
    if carry:
        assert "thread that workflow body started itself" in texts[0]
        assert "thread that workflow abody started itself" in texts[3]
