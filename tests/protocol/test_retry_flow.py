"""Between two attempts: a long wait is parked with the number of attempts, and taken up where it was left."""

from collections.abc import Callable
from typing import Any

import pytest

from dbdurable._core.control import Suspend
from dbdurable._core.limits import attempts_max
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import KeptWait
from dbdurable._protocol.step import step
from dbdurable._protocol.transaction import transaction
from dbdurable.errors import Cancelled, RetryAfter
from dbdurable.types import Retry
from tests.protocol.pump import (
    Body,
    Entry,
    World,
    appends,
    begins,
    commits,
    pauses,
    pump,
    records_failure,
    rolls_back,
    runs,
)

LONG = Retry(4, initial=600, factor=1, max_interval=3600, jitter=0)


class Kind:
    """What differs between an outside step and a transaction."""

    def __init__(self, kind: str, protocol: Callable[[Any], Flow[Any]]) -> None:
        self.kind = kind
        self.protocol = protocol

    def flow(self, world: World, body: Body, retry: Retry = LONG) -> Flow[Any]:
        return self.protocol(world.call(body, kind=self.kind, retry=retry))

    def is_run(self) -> list[Entry]:
        return [runs()] if self.kind == "step" else [begins(), runs()]

    def fails(self) -> list[Entry]:
        return [runs()] if self.kind == "step" else [begins(), runs(), rolls_back()]

    def is_recorded(self, attempts: int) -> Entry:
        return appends(attempts=attempts) if self.kind == "step" else commits(attempts=attempts)

    def fails_for_good(self, attempts: int) -> Entry:
        if self.kind == "step":
            return appends(error="ValueError", attempts=attempts)
        return records_failure(error="ValueError", attempts=attempts)


@pytest.fixture(params=["step", "transaction"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param, step if request.param == "step" else transaction)


def parked_world(attempts: int, left_s: float | None) -> World:
    """One whose first call was made so often, and that was parked until then."""
    world = World(park_after_s=1.0)
    until = None if left_s is None else world.now + left_s
    world.frame.kept["1"] = KeptWait(until, attempts)
    return world


def test_a_long_wait_is_parked_and_says_why(kind: Kind) -> None:
    world = World(park_after_s=1.0)
    with pytest.raises(Suspend):
        pump(kind.flow(world, Body(ValueError("password=hush is wrong"))), *kind.fails())
    [(path, wait)] = world.frame.waits.items()
    assert (path, wait.kind, wait.until, wait.attempts) == ("1", "retry", world.now + 600, 1)
    assert wait.subject == f"{kind.kind} charge failed once with ValueError: password=*** is wrong"


def test_a_reason_fits_into_a_row_whatever_the_error_says(kind: Kind) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    for error, reason in (
        (ValueError("a\0b\ud800\n  c"), "ValueError: a\ufffdb? c"),
        (Mute(), "Mute: <no message: str() of Mute failed>"),
    ):
        world = World(park_after_s=1.0)
        with pytest.raises(Suspend):
            pump(kind.flow(world, Body(error)), *kind.fails())
        assert world.frame.waits["1"].subject == f"{kind.kind} charge failed once with {reason}"


def test_a_reason_is_cut(kind: Kind) -> None:
    world = World(park_after_s=1.0)
    with pytest.raises(Suspend):
        pump(kind.flow(world, Body(ValueError("x" * 10_000))), *kind.fails())
    assert len(world.frame.waits["1"].subject) == 300


def test_a_short_wait_is_not(kind: Kind) -> None:
    world, body, retry = World(park_after_s=1.0), Body(ValueError(), "ok"), Retry(2, initial=1, jitter=0)
    script = [*kind.fails(), pauses(1.0), *kind.is_run(), kind.is_recorded(attempts=2)]
    assert pump(kind.flow(world, body, retry), *script) == "ok"
    assert not world.frame.waits


@pytest.mark.parametrize("left_s", [-5.0, 0.0, None])
def test_once_it_is_over_the_next_attempt_is_made(kind: Kind, left_s: float | None) -> None:
    world, body = parked_world(2, left_s), Body("ok")
    assert pump(kind.flow(world, body), *kind.is_run(), kind.is_recorded(attempts=3)) == "ok"
    assert [call[0] for call in body.calls] == [3]


def test_woken_too_early_it_waits_for_the_rest(kind: Kind) -> None:
    world, body = parked_world(2, 0.5), Body("ok")

    def time_passes() -> None:
        world.now += 0.5

    script = [pauses(0.5).after(time_passes), *kind.is_run(), kind.is_recorded(attempts=3)]
    assert pump(kind.flow(world, body), *script) == "ok"


def test_woken_much_too_early_it_is_parked_again(kind: Kind) -> None:
    world = parked_world(2, 500)
    with pytest.raises(Suspend):
        pump(kind.flow(world, Body()))
    wait = world.frame.waits["1"]
    assert (wait.kind, wait.until, wait.attempts) == ("retry", world.now + 500, 2)


def test_the_next_failure_waits_anew(kind: Kind) -> None:
    world = parked_world(2, 0)
    with pytest.raises(Suspend):
        pump(kind.flow(world, Body(RetryAfter(7200))), *kind.fails())
    wait = world.frame.waits["1"]
    assert (wait.until, wait.attempts) == (world.now + 7200, 3)
    assert "failed 3 times, last with RetryAfter" in wait.subject


def test_attempts_before_it_was_parked_count(kind: Kind) -> None:
    with pytest.raises(ValueError, match="the last"):
        pump(
            kind.flow(parked_world(3, 0), Body(ValueError("the last"))),
            *kind.fails(),
            kind.fails_for_good(attempts=4),
        )


def test_a_cancel_comes_before_the_next_attempt(kind: Kind) -> None:
    world, body = parked_world(2, 0), Body()
    world.frame.interrupt, world.frame.adopted = "changed my mind", True
    with pytest.raises(Cancelled):
        pump(kind.flow(world, body), appends(error="Cancelled"))
    assert body.calls == []


def test_a_wait_of_another_kind_counts_for_nothing(kind: Kind) -> None:
    world, body = parked_world(0, 500), Body("ok")
    assert pump(kind.flow(world, body), *kind.is_run(), kind.is_recorded(attempts=1)) == "ok"


def test_who_never_gives_up_is_not_counted_for_ever(kind: Kind) -> None:
    for_ever = Retry(None, initial=600, jitter=0)
    world, body = parked_world(attempts_max, 0), Body("ok")
    assert pump(kind.flow(world, body, for_ever), *kind.is_run(), kind.is_recorded(attempts=attempts_max)) == "ok"
    world = parked_world(attempts_max, 0)
    with pytest.raises(Suspend):
        pump(kind.flow(world, Body(ValueError()), for_ever), *kind.fails())
    assert world.frame.waits["1"].attempts == attempts_max
