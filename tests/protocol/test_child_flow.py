"""A workflow inside another: its start and its outcome are records of the one that waits."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, HandBack, LeaseLost, Suspend, Transient
from dbdurable._core.failure import encode_failure
from dbdurable._protocol.child import await_child, call_child, start_child
from dbdurable._protocol.effects import Flow, query
from dbdurable._protocol.start import Start
from dbdurable._protocol.step import step
from dbdurable._protocol.wait import LOOK_S_FIRST, LOOK_S_MAX, PATIENT_LOOK_S_MAX
from dbdurable._sql.start import ADOPT_CHILD, START_CHILD
from dbdurable._sql.step import READ_STEP
from dbdurable._sql.wait import END_WAIT
from dbdurable._sql.workflow import OUTCOME, OWNERSHIP
from dbdurable.errors import Cancelled, KeyConflict, UnknownWorkflow, WaitTimeout, WorkflowCancelled
from tests.protocol.pump import (
    GONE,
    ID,
    ME,
    TAKEN_OVER,
    Entry,
    World,
    appends,
    cancelled_here,
    cancelled_text,
    close_everywhere,
    pauses,
    pump,
    queries,
    recorded,
    records_failure,
)

CHILD, STRANGER = UUID(int=0xC1), UUID(int=0xC2)
START = Start(CHILD, "ship", "{}", parent_id=ID)


def starts(answer: Any = ((str(CHILD), 5),)) -> Entry:
    return queries(START_CHILD, answer, {1: "ship", 5: CHILD, 19: ID, 20: "1", 22: ME, 23: 3, 24: "child"})


def has(status: str, output: str | None = None, error: str | None = None, reason: str | None = None) -> Entry:
    return queries(OUTCOME, [("ship", status, output, error, reason)], {1: CHILD})


def start_of(world: World) -> Flow[UUID]:
    return start_child(world.call(kind="child", name="ship"), START)


def nobody(_: UUID) -> Flow[bool]:
    return False
    yield


def takes(*answers: bool) -> Callable[[UUID], Flow[bool]]:
    """Runs the child here when told so; its own effects pass through its parent's flow."""
    left = list(answers)

    def run(id: UUID) -> Flow[bool]:
        yield from query(ADOPT_CHILD, id)
        return left.pop(0)

    return run


def ends(answer: Any = ((5,),), *, output: Any = ..., error: Any = ...) -> Entry:
    """The record of the outcome, fenced. `error` is the recorded type's name, or None."""
    entry = queries(END_WAIT, answer, {1: ID, 4: "join", 5: "ship", 6: ME, 7: 3, 9: output})

    def check(effect: Any) -> None:
        entry.check(effect)
        text = effect.params[9]
        assert error is ... or (text and json.loads(text)["type"]) == error, text

    return replace(entry, check=check)


ADOPTS = queries(ADOPT_CHILD, (), {1: CHILD})


def join_of(world: World, run: Any = nobody, timeout_s: float | None = None) -> Flow[Any]:
    return await_child(world.call(kind="join", name="ship", timeout_s=timeout_s), CHILD, run)


def child_record(**options: Any) -> Any:
    return recorded(f'"{CHILD}"', kind="child", name="ship", **options)


# ---- the start ---------------------------------------------------------------------------------------------


def test_the_start_and_its_record_are_one_statement() -> None:
    world = World([recorded("0", path="9", seq=7)])
    entry = starts()

    def check(effect: Any) -> None:
        entry.check(effect)
        assert effect.params[:18] == START.params
        assert effect.params[20] == 8, "seq"

    assert pump(start_of(world), Entry(entry.kind, entry.what, check, entry.answer)) == CHILD


def test_the_recorded_id_starts_nothing() -> None:
    assert pump(start_of(World([child_record()]))) == CHILD


def test_the_id_may_be_another_one_than_was_asked_for() -> None:
    """With a key, the one that holds it."""
    assert pump(start_of(World()), starts([(str(STRANGER), 5)])) == STRANGER


def test_a_start_whose_answer_was_lost_finds_its_record() -> None:
    lost = starts(ConnectionLost("reset")), pauses(at_most_s=2), starts(Transient("deadlock")), pauses()
    found = starts(Duplicate("step_pkey")), queries(READ_STEP, [child_record()], {1: ID, 2: "1"})
    assert pump(start_of(World()), *lost, *found) == CHILD


def test_a_start_where_another_call_is_recorded() -> None:
    with pytest.raises(Diverged):
        pump(start_of(World()), starts(Duplicate("")), queries(READ_STEP, [recorded("1")]))


def test_fenced_by_another_owner() -> None:
    with pytest.raises(LeaseLost):
        pump(start_of(World()), starts(Fenced("")), queries(OWNERSHIP, TAKEN_OVER))


def test_fenced_by_a_cancel() -> None:
    script = starts(Fenced("")), queries(OWNERSHIP, cancelled_here(4)), appends(error="Cancelled", epoch=4)
    with pytest.raises(Cancelled):
        pump(start_of(World()), *script)


def test_a_cancel_that_is_known_starts_nothing() -> None:
    with pytest.raises(Cancelled):
        pump(start_of(World(interrupt="late")), appends(error="Cancelled"))


@pytest.mark.parametrize(("event", "reason"), [(World.lose_lease, LeaseLost), (World.close, HandBack)])
def test_nothing_is_started_where_the_attempt_must_stop(event: Any, reason: type[BaseException]) -> None:
    world = World()
    event(world)
    with pytest.raises(reason):
        pump(start_of(world))


# ---- the outcome -------------------------------------------------------------------------------------------


def test_the_outcome_is_recorded() -> None:
    assert pump(join_of(World()), has("succeeded", "[1]"), ends(output="[1]", error=None)) == [1]


def test_a_recorded_outcome_is_not_asked_for() -> None:
    assert pump(join_of(World([recorded("[1]", kind="join", name="ship")]))) == [1]


def test_a_recorded_error_is_raised_again() -> None:
    with pytest.raises(KeyError):
        pump(join_of(World([recorded(kind="join", name="ship", error=KeyError())])))


def test_the_childs_error_is_recorded_and_says_where_it_comes_from() -> None:
    failed = has("failed", error=encode_failure(KeyError("sku")))
    with pytest.raises(KeyError, match="sku") as raised:
        pump(join_of(World()), failed, ends(error="KeyError", output=None))
    assert f"raised in workflow ship {CHILD}" in raised.value.__notes__


def test_a_child_that_was_cancelled() -> None:
    with pytest.raises(WorkflowCancelled, match=f"ship {CHILD} was cancelled: no stock"):
        pump(
            join_of(World()),
            has("cancelled", reason="no stock"),
            queries(OWNERSHIP, []),
            ends(error="WorkflowCancelled"),
        )


def test_a_child_that_is_gone() -> None:
    with pytest.raises(UnknownWorkflow):
        pump(join_of(World()), queries(OUTCOME, GONE), ends(error="UnknownWorkflow"))


def test_looks_grow_rarer() -> None:
    script, delay_s = [], LOOK_S_FIRST
    for _ in range(14):
        script += [has("running"), pauses(min(delay_s, PATIENT_LOOK_S_MAX))]
        delay_s = min(LOOK_S_MAX, delay_s * 2)
    assert delay_s == LOOK_S_MAX
    pump(join_of(World()), *script, has("succeeded", "1"), ends())


def test_what_takes_longer_is_left_and_noted() -> None:
    world = World(park_after_s=1.0)

    def much_later() -> None:
        world.now += world.frame.park_after_s

    with pytest.raises(Suspend):
        pump(join_of(world), has("running"), pauses().after(much_later), has("waiting"))
    assert [(wait.kind, wait.subject) for wait in world.frame.waits.values()] == [("result", str(CHILD))]


def test_an_outage_while_it_waits() -> None:
    away = queries(OUTCOME, ConnectionLost("reset"))
    assert pump(join_of(World()), away, pauses(), has("succeeded", "1"), ends()) == 1


def test_the_time_is_over() -> None:
    with pytest.raises(WaitTimeout, match=f"{CHILD} has not finished within 0 s"):
        pump(join_of(World(), timeout_s=0.0), has("waiting"), ends(error="WaitTimeout"))


def test_an_outcome_counts_though_the_time_is_over() -> None:
    assert pump(join_of(World(), timeout_s=0.0), has("succeeded", "1"), ends()) == 1


def test_another_attempts_outcome_is_adopted() -> None:
    theirs = queries(READ_STEP, [recorded("2", kind="join", name="ship")])
    assert pump(join_of(World()), has("succeeded", "1"), ends(()), theirs) == 2


# ---- running it here ---------------------------------------------------------------------------------------


def test_a_queued_child_is_run_here() -> None:
    assert pump(join_of(World(), takes(True)), has("queued"), ADOPTS, has("succeeded", "1"), ends()) == 1


def test_a_queued_child_that_somebody_else_took() -> None:
    script = has("queued"), ADOPTS, pauses(), has("running"), pauses(), has("succeeded", "1"), ends()
    assert pump(join_of(World(), takes(False)), *script) == 1


@pytest.mark.parametrize("status", ["running", "waiting", "paused", "blocked"])
def test_no_other_child_is_run_here(status: str) -> None:
    assert pump(join_of(World(), takes()), has(status), pauses(), has("succeeded", "1"), ends()) == 1


def test_a_child_that_gave_itself_back_is_run_here_again() -> None:
    script = has("queued"), ADOPTS, has("queued"), ADOPTS, has("succeeded", "1"), ends()
    assert pump(join_of(World(), takes(True, True)), *script) == 1


# ---- while it waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "reason"), [(World.lose_lease, LeaseLost), (World.close, HandBack)])
def test_the_wait_ends_where_the_attempt_must_stop(event: Any, reason: type[BaseException]) -> None:
    world = World()
    with pytest.raises(reason):
        pump(join_of(world), has("queued"), pauses().after(lambda: event(world)))


def test_a_cancel_ends_the_wait_and_is_recorded_as_its_outcome() -> None:
    world = World()
    script = has("running"), pauses().after(world.hear_of_cancel)
    told = appends(False, False, error="Cancelled", epoch=3), queries(OWNERSHIP, cancelled_here(4))
    with pytest.raises(Cancelled, match="changed my mind"):
        pump(join_of(world), *script, *told, appends(error="Cancelled", epoch=4))
    assert world.frame.line.heard


def test_a_clean_up_may_wait_for_a_child() -> None:
    world = World([recorded(error=cancelled_text(""))], interrupt="")
    with pytest.raises(Cancelled):
        pump(step(world.call()))
    assert pump(join_of(world), has("running"), pauses(), has("succeeded", "1"), ends()) == 1


# ---- both --------------------------------------------------------------------------------------------------


def call_of(world: World, run: Any = nobody) -> Flow[Any]:
    child, join = world.call(kind="child", name="ship"), world.call(kind="join", name="ship")
    return call_child(child, join, START, run)


def test_a_call_is_two_records() -> None:
    script = starts(), ADOPTS, has("succeeded", "1"), ends()
    assert pump(call_of(World(), takes(True)), *script) == 1


def test_a_new_child_that_others_have_taken_is_looked_at() -> None:
    script = starts(), ADOPTS, has("running"), pauses(), has("succeeded", "1"), ends()
    assert pump(call_of(World(), takes(False)), *script) == 1
    paused = starts(), ADOPTS, has("queued"), ADOPTS, pauses(), has("succeeded", "1"), ends()
    assert pump(call_of(World(), takes(False, False)), *paused) == 1


def test_a_call_that_was_started_before_is_waited_for() -> None:
    assert pump(call_of(World([child_record()])), has("succeeded", "1"), ends()) == 1


def test_a_call_that_was_recorded() -> None:
    assert pump(call_of(World([child_record(), recorded("1", path="2", kind="join", name="ship")]))) == 1


@pytest.mark.parametrize("length", [1])
def test_a_flow_can_be_closed_anywhere(length: int) -> None:
    gone = ConnectionLost("reset")
    script = [starts(gone), pauses(), starts(), ADOPTS, has("queued"), ADOPTS, pauses(), has("succeeded", "1")]
    script += [ends(gone), pauses(), ends(()), queries(READ_STEP)]
    assert close_everywhere(lambda: call_of(World(), takes(False, False)), script) == len(script)
    fenced = [starts(Fenced("")), queries(OWNERSHIP, cancelled_here()), appends()]
    assert close_everywhere(lambda: call_of(World()), fenced) == len(fenced)


# ---- found by pumping, and mended -----------------------------------------------------------------------------


def test_a_start_that_is_refused_is_recorded() -> None:
    # Else a replay may succeed where the body saw an error: the key is free again, the name registered.
    refused = starts(KeyConflict("key 'k' already started ship with other arguments"))
    with pytest.raises(KeyConflict):
        pump(start_of(World()), refused, records_failure(error="KeyConflict", attempts=1, epoch=3))
