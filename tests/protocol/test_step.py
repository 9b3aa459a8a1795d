"""Outside steps, pumped by hand: each outcome of section 6 of the design."""

from __future__ import annotations

from typing import Any

import pytest

from dbdurable._core.control import ConnectionLost, Diverged, HandBack, LeaseLost, Transient
from dbdurable._core.failure import encode_failure
from dbdurable._protocol.effects import Append, Appended, Call, Pause
from dbdurable._protocol.step import step
from dbdurable._sql.step import READ_STEP
from dbdurable._sql.workflow import OWNERSHIP
from dbdurable.errors import BadArgument, Cancelled, NonRetryable, NotInTransaction, RetryAfter
from dbdurable.types import Retry
from tests.protocol.pump import EPOCH, ME, OTHER, RUN, Clock, call_of, frame_of, play, raises_again, recorded

OK = Appended(mine=True, wrote=True)
NOT_MINE = Appended(mine=False, wrote=False)
LATE_SUCCESS = Appended(mine=False, wrote=True)
SOON = Retry(3, initial=1, factor=2, jitter=0)


def raising(*errors: Exception) -> Any:
    """A function that raises one of these at each attempt, then returns the attempt's number."""

    def run(attempt: int) -> int:
        if attempt <= len(errors):
            raise errors[attempt - 1]
        return attempt

    return run


def test_it_runs_and_returns_only_once_it_is_a_row() -> None:
    frame = frame_of()
    assert play(step(call_of(frame, lambda n: {"a": n})), (Call, RUN), (Append, OK)) == {"a": 1}


def test_the_body_sees_what_a_replay_would_see() -> None:
    value = play(step(call_of(frame_of(), lambda n: 1, returns=float)), (Call, RUN), (Append, OK))
    assert (value, type(value)) == (1.0, float)


def test_a_record_is_replayed_without_running() -> None:
    assert play(step(call_of(frame_of(recorded("[1,2]")), lambda n: n))) == [1, 2]


def test_a_recorded_error_is_raised_again() -> None:
    with pytest.raises(ValueError, match="no money"):
        play(step(call_of(frame_of(recorded(error=encode_failure(ValueError("no money")))), lambda n: n)))


def test_an_error_is_the_outcome_after_its_retries() -> None:
    errors = [KeyError("one"), KeyError("two"), KeyError("three")]
    pauses: list[float] = []
    flow = step(call_of(frame_of(), raising(*errors), retry=SOON))
    effect = next(flow)
    with pytest.raises(KeyError, match="three"):
        while True:
            if isinstance(effect, Call):
                try:
                    effect.function()
                except KeyError as error:
                    effect = flow.throw(error)
            elif isinstance(effect, Pause):
                pauses.append(effect.delay_s)
                effect = flow.send(None)
            else:
                assert isinstance(effect, Append)
                assert effect.record.attempts == 3
                assert effect.record.error is not None
                effect = flow.send(OK)
    assert pauses == [1.0, 2.0]


def test_retries_pass_the_attempt_and_the_last_one_counts() -> None:
    flow = step(call_of(frame_of(), raising(OSError(), OSError()), retry=SOON))
    assert play(flow, (Call, RUN), (Pause, None), (Call, RUN), (Pause, None), (Call, RUN), (Append, OK)) == 3


def test_retry_after_brings_its_own_delay() -> None:
    flow = step(call_of(frame_of(), raising(RetryAfter(42)), retry=SOON))
    effect = next(flow)
    try:
        effect.function()  # type: ignore[union-attr]
    except RetryAfter as error:
        paused = flow.throw(error)
    assert paused == Pause(42.0)


@pytest.mark.parametrize("error", [NonRetryable("final"), BadArgument("wrong"), NotInTransaction("lost")])
def test_what_no_retry_mends_is_not_retried(error: Exception) -> None:
    with pytest.raises(type(error)):
        play(step(call_of(frame_of(), raising(error), retry=SOON)), (Call, RUN), (Append, OK))


def test_a_result_that_cannot_be_stored_is_the_steps_error() -> None:
    with pytest.raises(BadArgument, match="the result of step reserve"):
        play(step(call_of(frame_of(), lambda n: float("nan"))), (Call, RUN), (Append, OK))


@pytest.mark.parametrize("lost", [ConnectionLost("away"), Transient("deadlock")])
def test_the_record_is_sent_until_there_is_an_answer_and_the_step_runs_once(lost: Exception) -> None:
    calls: list[int] = []
    flow = step(call_of(frame_of(), lambda n: calls.append(n)))
    play(flow, (Call, RUN), (Append, lost), (Pause, None), (Append, lost), (Pause, None), (Append, OK))
    assert calls == [1]


def test_a_record_that_was_written_before_its_answer_was_lost_is_adopted() -> None:
    row = ("1", 1, "step", "reserve", "5", None, 1)
    flow = step(call_of(frame_of(), lambda n: 4))
    assert (
        play(
            flow,
            (Call, RUN),
            (Append, ConnectionLost("lost")),
            (Pause, None),
            (Append, Appended(mine=True, wrote=False)),
            (READ_STEP, [row]),
        )
        == 5
    )


def test_the_lease_ends_while_the_database_is_away() -> None:
    clock = Clock()
    frame = frame_of(clock=clock)

    def run(n: int) -> None:
        clock.now = 20.0

    with pytest.raises(LeaseLost):
        play(step(call_of(frame, run)), (Call, RUN), (Append, ConnectionLost("away")))
    assert raises_again(frame, [step(call_of(frame, lambda n: n, path="2"))])


def test_no_step_begins_once_the_lease_is_over() -> None:
    clock = Clock()
    frame = frame_of(clock=clock)
    clock.now = 13.5    # the margin before the database's own 15 s
    with pytest.raises(LeaseLost):
        play(step(call_of(frame, lambda n: n)))


def test_no_step_begins_while_the_executor_closes_but_recorded_ones_replay() -> None:
    frame = frame_of(recorded("1"))
    frame.lease.closing = True
    assert play(step(call_of(frame, lambda n: n))) == 1
    with pytest.raises(HandBack):
        play(step(call_of(frame, lambda n: n, path="2")))


@pytest.mark.parametrize("answer", [NOT_MINE, LATE_SUCCESS])
def test_a_zombies_success_may_be_kept_and_the_zombie_stops(answer: Appended) -> None:
    frame = frame_of()
    with pytest.raises(LeaseLost):
        play(
            step(call_of(frame, lambda n: 4)),
            (Call, RUN),
            (Append, answer),
            (OWNERSHIP, [("running", OTHER, EPOCH + 2, None)]),
        )
    assert raises_again(frame, [step(call_of(frame, lambda n: n, path="2"))])


@pytest.mark.parametrize("rows", [[], [("paused", None, EPOCH + 1, None)], [("cancelled", ME, EPOCH + 1, "no")]])
def test_what_is_gone_or_decided_elsewhere_is_left(rows: list[Any]) -> None:
    with pytest.raises(LeaseLost):
        play(step(call_of(frame_of(), lambda n: 4)), (Call, RUN), (Append, NOT_MINE), (OWNERSHIP, rows))


def test_a_success_under_a_cancel_counts_and_the_next_call_sees_the_cancel() -> None:
    frame = frame_of()
    cancelled = [("running", ME, EPOCH + 1, "no more")]
    assert play(step(call_of(frame, lambda n: 4)), (Call, RUN), (Append, LATE_SUCCESS), (OWNERSHIP, cancelled)) == 4
    assert (frame.epoch, frame.interrupt) == (EPOCH + 1, "no more")
    with pytest.raises(Cancelled, match="no more"):
        play(step(call_of(frame, lambda n: n, path="2")), (Append, OK))
    # It may clean up: only one call is told.
    assert play(step(call_of(frame, lambda n: 9, path="3")), (Call, RUN), (Append, OK)) == 9


def test_an_error_under_a_cancel_is_recorded_again_under_the_new_epoch() -> None:
    frame = frame_of()
    with pytest.raises(ValueError, match="x"):
        play(
            step(call_of(frame, raising(ValueError("x")))),
            (Call, RUN),
            (Append, NOT_MINE),
            (OWNERSHIP, [("running", ME, EPOCH + 1, "no more")]),
            (Append, OK),
        )


def test_a_cancel_is_seen_in_the_same_place_on_replay() -> None:
    live = frame_of(interrupt="no more")
    appended: list[Any] = []
    flow = step(call_of(live, lambda n: n))
    effect = next(flow)
    assert isinstance(effect, Append)
    appended.append(effect.record)
    with pytest.raises(Cancelled):
        flow.send(OK)
    again = frame_of(recorded(error=appended[0].error), interrupt="no more")
    with pytest.raises(Cancelled, match="no more"):
        play(step(call_of(again, lambda n: n)))
    assert play(step(call_of(again, lambda n: 3, path="2")), (Call, RUN), (Append, OK)) == 3


def test_another_call_at_a_recorded_place_shows_the_difference() -> None:
    frame = frame_of(recorded("1"), recorded("2", path="2", seq=2, name="charge"))
    assert play(step(call_of(frame, lambda n: n))) == 1
    with pytest.raises(Diverged) as diverged:
        play(step(call_of(frame, lambda n: n, path="2", name="refund")))
    text = str(diverged.value)
    assert "step charge    (recorded)" in text
    assert "step refund    (the code now)" in text
    assert str(frame.id) in text
    assert raises_again(frame, [step(call_of(frame, lambda n: n, path="3"))])


def test_a_record_of_another_kind_is_a_difference_too() -> None:
    with pytest.raises(Diverged, match="transaction reserve"):
        play(step(call_of(frame_of(recorded("1", kind="transaction")), lambda n: n)))


def test_somebody_elses_record_of_another_call_is_no_outcome() -> None:
    frame = frame_of()
    with pytest.raises(Diverged, match="recorded as step charge by another attempt"):
        play(
            step(call_of(frame, lambda n: 4)),
            (Call, RUN),
            (Append, Appended(mine=True, wrote=False)),
            (READ_STEP, [("1", 1, "step", "charge", "5", None, 1)]),
        )
    assert frame.unwinding is not None


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_ends_the_program_is_no_outcome(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        play(step(call_of(frame_of(), lambda n: n, retry=SOON)), (Call, stop))
