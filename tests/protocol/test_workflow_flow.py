"""One attempt of a workflow: its body's end, and what is written of it."""

import asyncio
import json
from typing import Any

import pytest

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import ConnectionLost, Diverged, HandBack, LeaseLost, Transient
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.step import step
from dbdurable._protocol.transaction import transaction
from dbdurable._protocol.workflow import ELSEWHERE, Outcome, attempt
from dbdurable._sql.start import START_HERE_UNKEYED
from dbdurable._sql.workflow import BLOCK, FINISH, HAND_BACK, OWNERSHIP
from dbdurable.errors import BadArgument, Cancelled
from dbdurable.types import Status
from tests.protocol.pump import (
    ENDED,
    GONE,
    ID,
    ME,
    PAUSED,
    TAKEN_OVER,
    Body,
    Entry,
    World,
    calls,
    cancelled_here,
    cancelled_text,
    close_everywhere,
    pauses,
    pump,
    queries,
    recorded,
    runs,
)

WRITTEN = [(ID,)]
VERSION = "v7"


def flow_of(world: World, body: Any) -> Flow[Outcome]:
    return attempt(world.frame, body, ValueCodec(), VERSION)


def finishes(
    status: Status, answer: Any = WRITTEN, *, epoch: int = 3, output: str | None = None, error: str | None = None
) -> Entry:
    entry = queries(FINISH, answer, {1: ID, 2: ME, 3: epoch, 4: status.value, 5: output})

    def check(effect: Any) -> None:
        entry.check(effect)
        found = effect.params[5] and json.loads(effect.params[5])["type"]
        assert found == error, f"error is {found}"
        assert (effect.params[6] is None) is (error is None), "a reason goes with an error, and only with it"

    return Entry(entry.kind, entry.what, check, entry.answer)


def blocks(*texts: str, answer: Any = WRITTEN) -> Entry:
    entry = queries(BLOCK, answer, {1: ID, 2: ME, 3: 3, 5: VERSION})

    def check(effect: Any) -> None:
        entry.check(effect)
        for text in texts:
            assert text in effect.params[3], f"{text!r} is not in {effect.params[3]}"

    return Entry(entry.kind, entry.what, check, entry.answer)


def hands_back(answer: Any = WRITTEN, epoch: int = 3) -> Entry:
    return queries(HAND_BACK, answer, {1: ID, 2: ME, 3: epoch})


# ---- outcomes ----------------------------------------------------------------------------------------------


def test_success() -> None:
    outcome = pump(flow_of(World(), Body([1])), runs(), finishes(Status.SUCCEEDED, output="[1]"))
    assert outcome == Outcome(Status.SUCCEEDED, [1])


def test_failure() -> None:
    outcome = pump(flow_of(World(), Body(KeyError("sku"))), runs(), finishes(Status.FAILED, error="KeyError"))
    assert outcome.status is Status.FAILED
    assert repr(outcome.error) == "KeyError('sku')"


def test_the_reason_of_a_failure_is_short() -> None:
    entry = finishes(Status.FAILED, error="ValueError")

    def check(effect: Any) -> None:
        entry.check(effect)
        assert effect.params[6].startswith("ValueError: xxx")
        assert len(effect.params[6]) == 1000

    pump(flow_of(World(), Body(ValueError("x" * 5000))), runs(), Entry(entry.kind, entry.what, check, WRITTEN))


@pytest.mark.parametrize("error", [SystemExit(3), type("Odd", (BaseException,), {})()])
def test_what_is_no_exception_fails_the_workflow_and_stays_itself(error: BaseException) -> None:
    outcome = pump(flow_of(World(), Body(error)), runs(), finishes(Status.FAILED, error=type(error).__name__))
    assert outcome.error is error


def test_a_result_without_a_json_form() -> None:
    outcome = pump(flow_of(World(), Body(object())), runs(), finishes(Status.FAILED, error="BadArgument"))
    assert isinstance(outcome.error, BadArgument)


@pytest.mark.parametrize(("is_async", "advice"), [(True, "`await` before it"), (False, "charge.sync")])
def test_a_call_that_was_never_awaited(is_async: bool, advice: str) -> None:
    world = World()
    world.frame.is_async, world.frame.unawaited = is_async, {1: "charge"}
    outcome = pump(flow_of(world, Body(1)), runs(), finishes(Status.FAILED, error="BadArgument"))
    assert advice in str(outcome.error)


def test_cancelled() -> None:
    cancelled = Cancelled("too late")
    outcome = pump(flow_of(World(), Body(cancelled)), runs(), finishes(Status.CANCELLED))
    assert outcome == Outcome(Status.CANCELLED, error=cancelled)


def test_a_cancel_that_the_body_has_seen_and_answered() -> None:
    world = World([recorded(error=cancelled_text("late"))], interrupt="late")

    def body() -> str:
        try:
            pump(step(world.call()))
        except Cancelled:
            return "made up for it"
        return "not cancelled"

    outcome = pump(flow_of(world, body), runs(), finishes(Status.SUCCEEDED, output='"made up for it"'))
    assert outcome.value == "made up for it"


@pytest.mark.parametrize("end", [1, KeyError("sku"), object()])
def test_a_cancel_behind_the_last_call_wins(end: Any) -> None:
    world = World(interrupt="too late")
    outcome = pump(flow_of(world, Body(end)), runs(), finishes(Status.CANCELLED))
    assert outcome.status is Status.CANCELLED
    assert str(outcome.error) == "too late"


# ---- the answer to the outcome -----------------------------------------------------------------------------


def test_finished_before_and_only_the_answer_was_lost() -> None:
    script = [runs(), finishes(Status.SUCCEEDED, ConnectionLost("reset"), output="1"), pauses(at_most_s=2)]
    script += [finishes(Status.SUCCEEDED, [], output="1"), queries(OWNERSHIP, [("succeeded", ME, 3, None)], {1: ID})]
    assert pump(flow_of(World(), Body(1)), *script).status is Status.SUCCEEDED


def test_cancelled_meanwhile() -> None:
    asked = queries(OWNERSHIP, cancelled_here(4))
    script = runs(), finishes(Status.SUCCEEDED, [], output="1"), asked, asked, finishes(Status.CANCELLED, epoch=4)
    outcome = pump(flow_of(World(), Body(1)), *script)
    assert (outcome.status, str(outcome.error)) == (Status.CANCELLED, "changed my mind")


@pytest.mark.parametrize("rows", [TAKEN_OVER, PAUSED, ENDED, GONE, [("failed", ME, 3, None)]])
def test_it_goes_on_elsewhere(rows: Any) -> None:
    asked = queries(OWNERSHIP, rows)
    script = runs(), finishes(Status.SUCCEEDED, [], output="1"), asked, asked
    assert pump(flow_of(World(), Body(1)), *script) is ELSEWHERE


def test_the_outcome_is_sent_until_the_lease_is_over() -> None:
    world = World()
    away = finishes(Status.SUCCEEDED, Transient("deadlock"), output="1")
    script = runs(), away, pauses(at_most_s=2), away, pauses(), away.after(world.lose_lease)
    assert pump(flow_of(world, Body(1)), *script) is ELSEWHERE


def test_a_deferred_start_is_written_before_the_outcome() -> None:
    world = World()
    world.defer_start()
    script = runs(), queries(START_HERE_UNKEYED), finishes(Status.SUCCEEDED, output="1")
    assert pump(flow_of(world, Body(1)), *script).status is Status.SUCCEEDED


# ---- leaving without an outcome ----------------------------------------------------------------------------


def test_closing_hands_back() -> None:
    world = World()
    world.close()
    assert pump(flow_of(world, lambda: pump(step(world.call()))), runs(), hands_back()) is ELSEWHERE


def test_a_lost_lease_writes_nothing() -> None:
    world = World()
    world.lose_lease()
    assert pump(flow_of(world, lambda: pump(step(world.call()))), runs()) is ELSEWHERE


def test_a_lease_lost_while_it_closes_writes_nothing() -> None:
    world = World()
    script = runs(), hands_back(ConnectionLost("reset")).after(world.lose_lease)
    world.close()
    assert pump(flow_of(world, lambda: pump(step(world.call()))), *script) is ELSEWHERE


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_the_callers_program_ends(stop: BaseException) -> None:
    world = World()
    outcome = pump(flow_of(world, Body(stop)), runs(), hands_back())
    assert outcome == Outcome(None, error=stop)
    assert isinstance(world.frame.unwinding, HandBack)


def test_unwinding_is_sticky_when_the_body_swallows_it() -> None:
    world, raised = World(), []
    world.close()

    def body() -> str:
        for flow in (step, transaction, step):
            try:
                pump(flow(world.call()))
            except BaseException as error:
                raised.append(error)
        return "as if nothing had happened"

    assert pump(flow_of(world, body), runs(), hands_back()) is ELSEWHERE
    assert len(raised) == 3
    assert len(set(map(id, raised))) == 1


@pytest.mark.parametrize("end", [ValueError("instead"), Cancelled("instead"), KeyboardInterrupt(), LeaseLost("other")])
def test_unwinding_is_sticky_when_the_body_raises_something_else(end: BaseException) -> None:
    world = World()
    world.frame.unwind(HandBack(""))
    assert pump(flow_of(world, Body(end)), runs(), hands_back()).status is None


def test_another_call_than_history_has_blocks() -> None:
    world = World([recorded("1"), recorded("2", path="2", name="ship", seq=2)])

    def body() -> None:
        pump(step(world.call()))
        pump(step(world.call(name="refund")))

    texts = "      1  step charge", "-      2  step ship    (recorded)", "+      2  step refund    (the code now)"
    outcome = pump(flow_of(world, body), runs(), blocks(*texts, "Usual causes", f"dbdurable resume {ID}"))
    assert outcome.status is Status.BLOCKED
    assert isinstance(outcome.error, Diverged)


def test_another_call_than_history_has_blocks_though_the_body_swallows_it() -> None:
    world = World([recorded("1", name="refund")])

    def body() -> str:
        try:
            pump(step(world.call()))
        except BaseException:
            return "as if nothing had happened"
        return "no"

    assert pump(flow_of(world, body), runs(), blocks("step refund")).status is Status.BLOCKED


def test_steps_left_over_block() -> None:
    world = World([recorded("1", path="10", seq=3), recorded("1", path="2", name="ship", seq=2)])
    texts = "-      2  step ship    (recorded)", "+      2  (the workflow ended)", f"dbdurable cancel {ID}"
    assert pump(flow_of(world, Body(1)), runs(), blocks(*texts)).status is Status.BLOCKED


def test_blocking_is_sent_until_the_lease_is_over() -> None:
    world = World([recorded("1")])
    away = blocks(answer=ConnectionLost("reset"))
    assert pump(flow_of(world, Body(1)), runs(), away, pauses(), away.after(world.lose_lease)) is ELSEWHERE


# ---- closing the flow --------------------------------------------------------------------------------------


def test_generator_exit_of_the_driver_passes() -> None:
    with pytest.raises(GeneratorExit):
        pump(flow_of(World(), Body(1)), calls(GeneratorExit()))


def flows() -> dict[str, tuple[Any, list[Entry]]]:
    gone, asked = ConnectionLost("reset"), queries(OWNERSHIP, cancelled_here(4))
    refused = finishes(Status.SUCCEEDED, [], output="1")
    return {
        "ok": (
            lambda: flow_of(World(), Body(1)),
            [runs(), refused, asked, asked, finishes(Status.CANCELLED, gone, epoch=4), pauses()],
        ),
        "failed": (lambda: flow_of(World(), Body(KeyError())), [runs(), finishes(Status.FAILED, error="KeyError")]),
        "cancelled": (lambda: flow_of(World(), Body(Cancelled(""))), [runs(), finishes(Status.CANCELLED)]),
        "blocked": (lambda: flow_of(World([recorded("1")]), Body(1)), [runs(), blocks(answer=gone), pauses()]),
        "stopped": (lambda: flow_of(World(), Body(KeyboardInterrupt())), [runs(), hands_back(gone), pauses()]),
    }


@pytest.mark.parametrize("name", flows())
def test_a_flow_can_be_closed_anywhere(name: str) -> None:
    make, script = flows()[name]
    assert close_everywhere(make, script) == len(script)


# ---- found by pumping, and mended -----------------------------------------------------------------------------


def test_the_callers_interrupt_is_not_lost_with_the_lease() -> None:
    world, stop = World(), KeyboardInterrupt()
    script = runs(), hands_back(ConnectionLost("reset")).after(world.lose_lease)
    assert pump(flow_of(world, Body(stop)), *script).error is stop


def test_a_workflow_that_was_taken_over_is_not_said_to_be_blocked() -> None:
    script = runs(), blocks(answer=[]), queries(OWNERSHIP, TAKEN_OVER)
    assert pump(flow_of(World([recorded("1")]), Body(1)), *script) is ELSEWHERE


def test_blocked_before_and_only_the_answer_was_lost() -> None:
    lost = blocks(answer=ConnectionLost("reset")), pauses(), blocks(answer=[])
    script = runs(), *lost, queries(OWNERSHIP, [("blocked", None, 4, None)])
    assert pump(flow_of(World([recorded("1")]), Body(1)), *script).status is Status.BLOCKED


def test_closing_after_a_cancel_hands_back_under_its_epoch() -> None:
    # Else the workflow stays "running" here until the beat finds it unknown, or recovery charges an attempt.
    world = World()
    world.close()
    script = runs().after(world.hear_of_cancel), hands_back([]), queries(OWNERSHIP, cancelled_here(4))
    assert pump(flow_of(world, lambda: pump(step(world.call()))), *script, hands_back(epoch=4)) is ELSEWHERE


def test_the_epoch_of_a_second_claim_by_this_executor_is_not_adopted() -> None:
    # Paused (4), resumed (5), claimed again here (6) and cancelled (7), all while this attempt was away.
    asked = queries(OWNERSHIP, cancelled_here(7))
    script = runs(), finishes(Status.SUCCEEDED, [], output="1"), asked, asked
    assert pump(flow_of(World(), Body(1)), *script) is ELSEWHERE
