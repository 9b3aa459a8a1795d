"""Outside steps: called at least once, recorded once, adopted where somebody else was faster."""

from typing import Any

import pytest

from dbdurable._core.control import ConnectionLost, Diverged, HandBack, LeaseLost, Transient
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.step import step
from dbdurable._sql.start import START_HERE_UNKEYED
from dbdurable._sql.step import READ_STEP
from dbdurable._sql.workflow import OWNERSHIP
from dbdurable.errors import BadArgument, Cancelled, NonRetryable, NotInWorkflow, RetryAfter, StepTimeout, WrongColour
from dbdurable.types import Retry
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
    appends,
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

NO_CHANCE = Retry(3, initial=2, factor=3, max_interval=5, jitter=0)

# ---- the outcome -------------------------------------------------------------------------------------------


def test_the_value_is_recorded_before_the_body_sees_it() -> None:
    world, body = World(), Body({"paid": True})
    value = pump(step(world.call(body)), runs(), appends(output='{"paid":true}', error=None, attempts=1, epoch=3))
    assert value == {"paid": True}
    assert body.calls == [(1,)]


def test_the_body_gets_what_a_replay_will_get() -> None:
    live = [1, 2]
    value = pump(step(World().call(Body(live))), runs(), appends())
    assert value == live
    assert value is not live


def test_the_record_has_the_place_of_the_call() -> None:
    world, seen = World([recorded("1", seq=7)]), []

    def note(effect: Any) -> None:
        seen.append(effect.record)

    assert pump(step(world.call())) == 1
    entry = appends()
    pump(step(world.call(Body(5), name="refund")), runs(), Entry(entry.kind, entry.what, note, entry.answer))
    (record,) = seen
    assert (record.workflow_id, record.path, record.seq, record.kind, record.name) == (ID, "2", 8, "step", "refund")
    assert record.elapsed_s >= 0


def test_the_timeout_goes_to_the_driver() -> None:
    pump(step(World().call(Body(1), timeout_s=2.5)), runs(timeout_s=2.5), appends())


# ---- replay ------------------------------------------------------------------------------------------------


def test_replay_of_a_value() -> None:
    world = World([recorded('{"paid":true}')])
    body = Body()
    assert pump(step(world.call(body))) == {"paid": True}
    assert body.calls == []


def test_replay_of_an_error() -> None:
    world = World([recorded(error=KeyError("sku"))])
    with pytest.raises(KeyError, match="sku"):
        pump(step(world.call()))
    assert not world.frame.line.heard


def test_replay_of_a_cancel_counts_as_delivered() -> None:
    world = World([recorded(error=cancelled_text('too "late"'))], interrupt='too "late"')
    with pytest.raises(Cancelled, match='too "late"'):
        pump(step(world.call()))
    assert world.frame.line.heard
    # The clean-up goes on: it is not cancelled again.
    assert pump(step(world.call(Body("refunded"), name="refund")), runs(), appends()) == "refunded"


def test_replay_needs_no_lease_but_the_first_new_call_does() -> None:
    world = World([recorded("1")])
    world.lose_lease()
    assert pump(step(world.call())) == 1
    with pytest.raises(LeaseLost):
        pump(step(world.call()))


# ---- retries -----------------------------------------------------------------------------------------------


def test_delays_grow_by_the_policy_and_the_record_counts_attempts() -> None:
    body = Body(ValueError(1), ValueError(2), "third time lucky")
    flow = step(World().call(body, retry=NO_CHANCE))
    assert pump(flow, runs(), pauses(2.0), runs(), pauses(5.0), runs(), appends(attempts=3)) == "third time lucky"
    assert body.calls == [(1,), (2,), (3,)]


def test_the_error_is_recorded_after_its_retries() -> None:
    body = Body(ValueError(1), ValueError(2), KeyError("sku"))
    flow = step(World().call(body, retry=NO_CHANCE))
    recorded_error = appends(output=None, error="KeyError", attempts=3)
    with pytest.raises(KeyError, match="sku") as raised:
        pump(flow, runs(), pauses(2.0), runs(), pauses(5.0), runs(), recorded_error)
    assert "__call__" in [entry.name for entry in raised.traceback], "the live traceback is kept"


def test_retry_after_brings_its_own_delay() -> None:
    body = Body(RetryAfter(77), "ok")
    assert pump(step(World().call(body, retry=Retry(2, on=KeyError))), runs(), pauses(77.0), runs(), appends()) == "ok"


def test_retry_after_is_limited_by_the_attempts() -> None:
    with pytest.raises(RetryAfter):
        pump(step(World().call(Body(RetryAfter(77)))), runs(), appends(error="RetryAfter", attempts=1))


FIRST_ERROR_IS_FINAL = [
    pytest.param(NonRetryable("no"), Retry(5), id="NonRetryable"),
    pytest.param(KeyError("no"), Retry(5, non_retryable=(LookupError,)), id="non_retryable"),
    pytest.param(KeyError("no"), Retry(5, on=OSError), id="another class"),
    pytest.param(KeyError("no"), Retry(5, on=lambda error: "yes" in str(error)), id="predicate"),
    pytest.param(KeyError("no"), Retry(1), id="one attempt"),
    pytest.param(BadArgument("no"), Retry(5), id="BadArgument"),
    pytest.param(NotInWorkflow("no"), Retry(5), id="NotInWorkflow"),
    pytest.param(WrongColour("no"), Retry(5), id="WrongColour"),
]


@pytest.mark.parametrize(("error", "retry"), FIRST_ERROR_IS_FINAL)
def test_final_errors(error: Exception, retry: Retry) -> None:
    with pytest.raises(type(error), match="no"):
        pump(step(World().call(Body(error), retry=retry)), runs(), appends(attempts=1, error=type(error).__name__))


def test_a_predicate_chooses_what_is_worth_it() -> None:
    retry = Retry(5, initial=1, jitter=0, on=lambda error: "busy" in str(error))
    body = Body(OSError("busy"), OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        pump(step(World().call(body, retry=retry)), runs(), pauses(1.0), runs(), appends(attempts=2))


def test_a_result_without_a_json_form_is_not_tried_again() -> None:
    body = Body(object())
    with pytest.raises(BadArgument, match="the result of step charge"):
        pump(step(World().call(body, retry=Retry(5))), runs(), appends(error="BadArgument", attempts=1, output=None))


def test_a_timeout_is_charged() -> None:
    flow = step(World().call(retry=Retry(2, initial=1, jitter=0), timeout_s=1))
    late = StepTimeout("step charge took longer than 1 s")
    with pytest.raises(StepTimeout):
        pump(flow, calls(late), pauses(1.0), calls(late), appends(error="StepTimeout", attempts=2))


# ---- stopping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "reason"), [(World.lose_lease, LeaseLost), (World.close, HandBack)])
def test_nothing_is_called_where_the_attempt_must_stop(event: Any, reason: type[BaseException]) -> None:
    world = World()
    event(world)
    with pytest.raises(reason):
        pump(step(world.call()))
    assert isinstance(world.frame.unwinding, reason)


@pytest.mark.parametrize(("event", "reason"), [(World.lose_lease, LeaseLost), (World.close, HandBack)])
def test_nothing_is_called_again_where_the_attempt_must_stop(event: Any, reason: type[BaseException]) -> None:
    world, body = World(), Body(ValueError())
    flow = step(world.call(body, retry=Retry(5, jitter=0)))
    with pytest.raises(reason):
        pump(flow, runs(), pauses(1.0).after(lambda: event(world)))


def test_the_lease_runs_out_a_little_before_the_database_says_so() -> None:
    world = World()
    world.now += 12.9
    assert pump(step(world.call(Body(1))), runs(), appends()) == 1
    world.now += 0.2
    with pytest.raises(LeaseLost):
        pump(step(world.call()))
    world.lease.renewed(world.now)
    assert not world.lease.lost
    world.lease.lose()
    world.lease.renewed(world.now)
    assert world.lease.lost, "never revived"


def test_unwinding_is_raised_again_by_every_later_call() -> None:
    world = World([recorded("1", path="2")])
    world.close()
    raised = []
    for _ in range(3):  # as a body does that swallows BaseException; the second call has a record
        with pytest.raises(HandBack) as caught:
            pump(step(world.call()))
        raised.append(caught.value)
    world.lose_lease()
    assert raised == [world.frame.unwinding] * 3


# ---- the answer to the record ------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_and_finds_its_own_record() -> None:
    body = Body(42)
    value = pump(
        step(World().call(body)),
        runs(),
        appends(fails=ConnectionLost("reset")),
        pauses(at_most_s=2),
        appends(fails=Transient("deadlock")),
        pauses(at_most_s=2),
        appends(mine=True, wrote=False),
        queries(READ_STEP, [recorded("42")], {1: ID, 2: "1"}),
    )
    assert value == 42
    assert len(body.calls) == 1


def test_an_outage_longer_than_the_lease() -> None:
    world = World()
    lost = appends(fails=ConnectionLost("reset"))
    with pytest.raises(LeaseLost, match="longer than the lease"):
        pump(step(world.call(Body(42))), runs(), lost, pauses(), lost.after(world.lose_lease))


def test_another_attempts_value_is_adopted() -> None:
    flow = step(World().call(Body("mine")))
    assert pump(flow, runs(), appends(mine=True, wrote=False), queries(READ_STEP, [recorded('"theirs"')])) == "theirs"


def test_another_attempts_error_is_adopted() -> None:
    flow = step(World().call(Body("mine")))
    with pytest.raises(KeyError):
        pump(flow, runs(), appends(mine=True, wrote=False), queries(READ_STEP, [recorded(error=KeyError("sku"))]))


def test_another_attempt_that_made_another_call() -> None:
    world = World()
    theirs = queries(READ_STEP, [recorded("1", name="refund")])
    with pytest.raises(Diverged, match=r"path 1 was recorded as step refund by another attempt.*called step charge"):
        pump(step(world.call(Body(1))), runs(), appends(mine=True, wrote=False), theirs)
    assert isinstance(world.frame.unwinding, Diverged)


@pytest.mark.parametrize("rows", [TAKEN_OVER, PAUSED, ENDED, GONE, [("running", ME, 4, None)]])
@pytest.mark.parametrize("wrote", [True, False])
def test_a_workflow_that_is_not_ours_any_more(rows: list[tuple[Any, ...]], wrote: bool) -> None:
    world = World()
    with pytest.raises(LeaseLost, match="taken over, paused or ended elsewhere"):
        pump(step(world.call(Body(1))), runs(), appends(mine=False, wrote=wrote), queries(OWNERSHIP, rows, {1: ID}))
    assert world.frame.epoch == 3
    assert isinstance(world.frame.unwinding, LeaseLost)


def test_cancelled_while_it_ran_and_the_value_was_kept() -> None:
    world = World()
    asked = queries(OWNERSHIP, cancelled_here(4))
    assert pump(step(world.call(Body(1))), runs(), appends(mine=False, wrote=True, epoch=3), asked) == 1
    assert (world.frame.epoch, world.frame.interrupt, world.frame.line.heard) == (4, "changed my mind", False)
    # Delivered by the next call, instead of it, and once.
    body = Body()
    with pytest.raises(Cancelled, match="changed my mind"):
        pump(step(world.call(body)), appends(error="Cancelled", output=None, epoch=4))
    assert body.calls == []
    assert world.frame.unwinding is None
    assert pump(step(world.call(Body("refunded"))), runs(), appends(epoch=4)) == "refunded"


def test_cancelled_while_it_ran_and_somebody_had_recorded_it() -> None:
    world = World()
    flow = step(world.call(Body("mine")))
    asked = queries(OWNERSHIP, cancelled_here(4))
    theirs = queries(READ_STEP, [recorded('"theirs"')])
    assert pump(flow, runs(), appends(mine=False, wrote=False), asked, theirs) == "theirs"


def test_cancelled_while_it_failed_and_the_error_counts_under_the_new_epoch() -> None:
    world = World()
    flow = step(world.call(Body(KeyError("sku"))))
    asked = queries(OWNERSHIP, cancelled_here(4))
    with pytest.raises(KeyError):
        pump(flow, runs(), appends(mine=False, wrote=False, epoch=3), asked, appends(epoch=4, error="KeyError"))


def test_cancelled_while_it_failed_but_there_is_a_record() -> None:
    world = World()
    flow = step(world.call(Body(KeyError("sku"))))
    refused, again = appends(mine=False, wrote=False, epoch=3), appends(mine=True, wrote=False, epoch=4)
    theirs = queries(READ_STEP, [recorded('"theirs"')])
    assert pump(flow, runs(), refused, queries(OWNERSHIP, cancelled_here(4)), again, theirs) == "theirs"


def test_an_error_that_nobody_may_record_any_more() -> None:
    world = World()
    flow = step(world.call(Body(KeyError("sku"))))
    refused = appends(mine=False, wrote=False)
    with pytest.raises(LeaseLost, match="ended elsewhere"):
        pump(flow, runs(), refused, queries(OWNERSHIP, cancelled_here(4)), refused, queries(READ_STEP, GONE))


# ---- the cancel --------------------------------------------------------------------------------------------


def test_a_cancel_that_is_known_is_recorded_instead_of_the_call() -> None:
    world = World(interrupt="too late")
    body = Body()
    with pytest.raises(Cancelled, match="too late"):
        pump(step(world.call(body)), appends(error="Cancelled", output=None, attempts=1, epoch=3))
    assert body.calls == []


def test_the_record_of_a_cancel_replays_as_one() -> None:
    texts: list[str] = []
    entry = appends(error="Cancelled")
    note = Entry(entry.kind, entry.what, lambda effect: texts.append(effect.record.error), entry.answer)
    with pytest.raises(Cancelled):
        pump(step(World(interrupt='"ä"\n').call()), note)
    replay = World([recorded(error=texts[0])])
    with pytest.raises(Cancelled) as raised:
        pump(step(replay.call()))
    assert str(raised.value) == '"ä"\n'
    assert replay.frame.line.heard


def test_a_cancel_is_seen_behind_what_is_recorded() -> None:
    world = World([recorded("1")], interrupt="too late")
    assert pump(step(world.call())) == 1
    with pytest.raises(Cancelled):
        pump(step(world.call()), appends(error="Cancelled"))


def test_closing_comes_before_a_cancel() -> None:
    world = World(interrupt="too late")
    world.close()
    with pytest.raises(HandBack):
        pump(step(world.call()))


def test_the_record_of_a_cancel_takes_the_new_epoch() -> None:
    world = World(interrupt="too late")
    refused = appends(mine=False, wrote=False, epoch=3, error="Cancelled")
    with pytest.raises(Cancelled):
        pump(step(world.call()), refused, queries(OWNERSHIP, cancelled_here(4)), appends(epoch=4, error="Cancelled"))


def test_a_cancel_of_a_workflow_that_was_taken_over() -> None:
    world = World(interrupt="too late")
    with pytest.raises(LeaseLost):
        pump(step(world.call()), appends(mine=False, wrote=False), queries(OWNERSHIP, TAKEN_OVER))


def test_a_lost_answer_to_the_record_of_a_cancel() -> None:
    world = World(interrupt="too late")
    with pytest.raises(Cancelled):
        pump(step(world.call()), appends(fails=ConnectionLost("reset")), pauses(), appends(error="Cancelled"))


# ---- non-determinism ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("step", "refund"), ("transaction", "charge")])
def test_another_call_than_history_has(kind: str, name: str) -> None:
    world = World([recorded("1", kind=kind, name=name)])
    with pytest.raises(Diverged) as raised:
        pump(step(world.call()))
    text = str(raised.value)
    assert f"-      1  {kind} {name}    (recorded)" in text
    assert "+      1  step charge    (the code now)" in text
    assert f"dbdurable resume {ID}" in text
    assert world.frame.unwinding is raised.value


# ---- closing the flow --------------------------------------------------------------------------------------


def flows() -> dict[str, tuple[Any, list[Entry]]]:
    def fails_twice() -> Flow[Any]:
        return step(World().call(Body(ValueError(), ValueError()), retry=Retry(2)))

    lost = appends(fails=ConnectionLost("reset"))
    refused = appends(mine=False, wrote=False)
    cancelled = queries(OWNERSHIP, cancelled_here())
    return {
        "ok": (lambda: step(World().call(Body(1))), [runs(), appends()]),
        "error": (fails_twice, [runs(), pauses(), runs(), lost, pauses(), refused, cancelled, appends()]),
        "adopted": (
            lambda: step(World().call(Body(1))),
            [runs(), appends(True, False), queries(READ_STEP, ConnectionLost("reset")), pauses(), queries(READ_STEP)],
        ),
        "cancelled": (lambda: step(World(interrupt="").call()), [refused, cancelled, lost, pauses(), appends()]),
    }


@pytest.mark.parametrize("name", flows())
def test_a_flow_can_be_closed_anywhere(name: str) -> None:
    make, script = flows()[name]
    assert close_everywhere(make, script) == len(script)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_is_no_exception_of_the_step_is_not_recorded(stop: BaseException) -> None:
    world = World()
    with pytest.raises(type(stop)):
        pump(step(world.call(retry=Retry(5))), calls(stop))
    assert world.frame.unwinding is None


# ---- a start that waits for the first commit ----------------------------------------------------------------


def test_a_deferred_start_is_written_before_anything_outside_happens() -> None:
    world, body = World(), Body(1, 2)
    world.defer_start()
    lost = queries(START_HERE_UNKEYED, ConnectionLost("reset"))
    begun = queries(START_HERE_UNKEYED, [], {1: ID, 6: ME}).after(lambda: body.calls.append("started"))
    assert pump(step(world.call(body)), lost, pauses(), begun, runs(), appends()) == 1
    assert body.calls == ["started", (1,)]
    assert world.frame.pending is None
    assert pump(step(world.call(body)), runs(), appends()) == 2


# ---- found by pumping, and mended -----------------------------------------------------------------------------


def test_a_late_value_wins_over_the_record_of_a_cancel() -> None:
    world = World(interrupt="too late")
    # A former owner's value came between the claim's read and the cancel: the primary key has decided.
    refused, theirs = appends(mine=True, wrote=False, error="Cancelled"), queries(READ_STEP, [recorded("1")])
    assert pump(step(world.call()), refused, theirs) == 1
    with pytest.raises(Cancelled):
        pump(step(world.call()), appends(error="Cancelled"))


def test_a_cancel_ends_retries() -> None:
    world, body = World(), Body(ValueError())
    flow = step(world.call(body, retry=Retry()))
    told = appends(False, False, error="Cancelled", epoch=3), queries(OWNERSHIP, cancelled_here(4))
    with pytest.raises(Cancelled):
        pump(flow, runs(), pauses().after(world.hear_of_cancel), *told, appends(error="Cancelled", epoch=4))
