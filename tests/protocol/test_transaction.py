"""Transactional steps, pumped by hand: each outcome of the commit, and of what comes before it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, LeaseLost, Torn, Transient
from dbdurable._protocol.effects import Append, Appended, Begin, Call, Commit, Pause, Rollback
from dbdurable._protocol.transaction import RERUNS_MAX, transaction
from dbdurable._sql.step import END_BACKEND, READ_STEP, RECORD_FENCED, RECORD_IN_TRANSACTION
from dbdurable._sql.workflow import OWNERSHIP
from dbdurable.errors import BadArgument, Cancelled, NonRetryable, NotInTransaction, RetryAfter, StepTimeout
from dbdurable.types import Retry
from tests.protocol.pump import EPOCH, ME, OTHER, RUN, Clock, call_of, frame_of, play, raises_again, recorded

ROW = ("1", 1, "transaction", "reserve", "5", None, 1)
SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SOON = Retry(3, initial=1, factor=2, jitter=0)


class Serialization(Exception):
    """psycopg's, as far as the protocol looks at it."""

    sqlstate = "40001"


def flow_of(frame: Any, fn: Any = lambda n, handle: n + 4, **kwargs: Any) -> Any:
    return transaction(call_of(frame, fn, "transaction", **kwargs))


def raising(*errors: Exception) -> Any:
    def run(attempt: int, handle: Any) -> int:
        if attempt <= len(errors):
            raise errors[attempt - 1]
        return attempt

    return run


def test_writes_and_record_go_in_one_commit_and_nothing_is_looked_up_before() -> None:
    seen: list[Any] = []
    frame = frame_of()
    assert play(flow_of(frame, lambda n, handle: seen.append(handle) or 5), (Begin, "tx"), (Call, RUN), (Commit, None)) == 5
    assert seen == ["tx"]


def test_the_record_says_who_wrote_it_under_which_epoch() -> None:
    flow = flow_of(frame_of())
    next(flow)
    effect = flow.send("tx")
    effect = flow.send(effect.function())
    assert isinstance(effect, Commit)
    assert effect.record.statement is RECORD_IN_TRANSACTION
    assert effect.record.params[-3:] == (ME, EPOCH, "5")


def test_a_record_is_replayed_without_a_transaction() -> None:
    assert play(flow_of(frame_of(recorded("5", kind="transaction")))) == 5


def test_fenced_by_a_new_owner_it_stops_for_good() -> None:
    frame = frame_of()
    with pytest.raises(LeaseLost):
        play(
            flow_of(frame),
            (Begin, None),
            (Call, RUN),
            (Commit, Fenced("taken over")),
            (Rollback, True),
            (OWNERSHIP, [("running", OTHER, EPOCH + 2, None)]),
        )
    assert raises_again(frame, [flow_of(frame, path="2")])


def test_fenced_by_a_cancel_it_sees_the_cancel_and_none_of_its_writes_count() -> None:
    frame = frame_of()
    with pytest.raises(Cancelled, match="no more"):
        play(
            flow_of(frame),
            (Begin, None),
            (Call, RUN),
            (Commit, Fenced("cancelled")),
            (Rollback, True),
            (OWNERSHIP, [("running", ME, EPOCH + 1, "no more")]),
            (Append, Appended(mine=True, wrote=True)),
        )
    assert frame.epoch == EPOCH + 1
    assert play(flow_of(frame, path="2"), (Begin, None), (Call, RUN), (Commit, None)) == 5


def test_cancelled_twice_it_stops() -> None:
    frame = frame_of()
    frame.interrupted = True
    with pytest.raises(LeaseLost):
        play(
            flow_of(frame),
            (Begin, None),
            (Call, RUN),
            (Commit, Fenced("cancelled again")),
            (Rollback, True),
            (OWNERSHIP, [("running", ME, EPOCH + 1, "again")]),
        )


def test_a_record_that_is_there_already_is_adopted() -> None:
    turns = [(Begin, None), (Call, RUN), (Commit, Duplicate("key")), (Rollback, True), (READ_STEP, [ROW])]
    assert play(flow_of(frame_of()), *turns) == 5


def test_a_record_of_another_call_at_this_place_is_no_outcome() -> None:
    other = ("1", 1, "transaction", "charge", "5", None, 1)
    turns = [(Begin, None), (Call, RUN), (Commit, Duplicate("key")), (Rollback, True), (READ_STEP, [other])]
    with pytest.raises(Diverged, match="transaction charge by another attempt"):
        play(flow_of(frame_of()), *turns)


def test_a_serialization_failure_runs_the_body_again_and_charges_no_attempt() -> None:
    attempts: list[int] = []
    turns = [
        *[(Begin, None), (Call, RUN), (Commit, Transient("40001")), (Rollback, True), (Pause, None)] * 2,
        *[(Begin, None), (Call, RUN), (Rollback, True), (Pause, None)],
        *[(Begin, None), (Call, RUN), (Commit, None)],
    ]

    def run(attempt: int, handle: Any) -> str:
        attempts.append(attempt)
        if len(attempts) == 3:
            raise Serialization
        return "done"

    assert play(flow_of(frame_of(), run), *turns) == "done"
    assert attempts == [1, 1, 1, 1]


def test_reruns_end_and_count_as_its_own_error() -> None:
    turns = [
        *[(Begin, None), (Call, Serialization()), (Rollback, True), (Pause, None)] * RERUNS_MAX,
        *[(Begin, None), (Call, Serialization()), (Rollback, True), (RECORD_FENCED, [])],
    ]
    with pytest.raises(Serialization):
        play(flow_of(frame_of()), *turns)


@pytest.mark.parametrize("backend", [(4711, SINCE), None])
def test_after_a_lost_commit_the_old_session_is_ended_and_the_row_decides(backend: Any) -> None:
    lost = ConnectionLost("gone", backend)
    end = [(END_BACKEND, [])] if backend else []
    turns = [(Begin, None), (Call, RUN), (Commit, lost), (Rollback, False), *end]
    assert play(flow_of(frame_of()), *turns, (READ_STEP, [ROW])) == 5
    again = [(READ_STEP, []), (Pause, None), (Begin, None), (Call, RUN), (Commit, None)]
    assert play(flow_of(frame_of()), *turns, *again) == 5


def test_a_lost_commit_that_took_effect_late_is_refused_by_the_key_and_adopted() -> None:
    turns = [
        *[(Begin, None), (Call, RUN), (Commit, ConnectionLost("gone")), (Rollback, False), (READ_STEP, [])],
        *[(Pause, None), (Begin, None), (Call, RUN), (Commit, Duplicate("late")), (Rollback, True), (READ_STEP, [ROW])],
    ]
    assert play(flow_of(frame_of()), *turns) == 5


def test_a_connection_that_broke_before_the_commit_runs_the_body_again() -> None:
    turns = [
        *[(Begin, ConnectionLost("gone")), (Rollback, True), (READ_STEP, []), (Pause, None)],
        *[(Begin, None), (Call, OSError("broken in a statement of the body")), (Rollback, False), (Pause, None)],
        *[(Begin, None), (Call, RUN), (Commit, None)],
    ]
    assert play(flow_of(frame_of()), *turns) == 5


def test_the_lease_ends_between_two_runs() -> None:
    clock = Clock()

    def run(attempt: int, handle: Any) -> int:
        clock.now = 20.0
        return 1

    with pytest.raises(LeaseLost):
        play(
            flow_of(frame_of(clock=clock), run),
            (Begin, None),
            (Call, RUN),
            (Commit, Transient("deadlock")),
            (Rollback, True),
            (Pause, None),
        )


def test_a_commit_that_answers_rollback_is_an_error_and_not_a_success() -> None:
    with pytest.raises(NotInTransaction):
        play(
            flow_of(frame_of(), retry=SOON),
            (Begin, None),
            (Call, RUN),
            (Commit, NotInTransaction("aborted")),
            (Rollback, True),
            (RECORD_FENCED, []),
        )


def test_an_error_rolls_back_and_is_recorded_in_a_transaction_of_its_own() -> None:
    turns = [(Begin, None), (Call, RUN), (Rollback, True), (RECORD_FENCED, [])]
    with pytest.raises(ValueError, match="no money"):
        play(flow_of(frame_of(), raising(ValueError("no money"))), *turns)


def test_an_error_is_recorded_after_its_retries() -> None:
    once = [(Begin, None), (Call, RUN), (Rollback, True)]
    errors = [ValueError(f"{n}") for n in range(3)]
    with pytest.raises(ValueError, match="2"):
        play(
            flow_of(frame_of(), raising(*errors), retry=SOON),
            *[*once, (Pause, None), *once, (Pause, None), *once, (RECORD_FENCED, [])],
        )
    fine = [(Begin, None), (Call, RUN), (Commit, None)]
    assert play(flow_of(frame_of(), raising(errors[0]), retry=SOON), *once, (Pause, None), *fine) == 2


def test_the_delays_are_those_of_the_policy() -> None:
    flow, pauses = flow_of(frame_of(), retry=SOON), []
    answers: dict[type, Any] = {Begin: None, Call: RetryAfter(7), Rollback: True, Pause: None}
    effect = next(flow)
    while len(pauses) < 2:
        answer = answers[type(effect)]
        if isinstance(effect, Pause):
            pauses.append(effect.delay_s)
            answers[Call] = OSError()
        effect = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
    assert pauses == [7.0, 2.0]


@pytest.mark.parametrize("error", [NonRetryable("final"), BadArgument("wrong")])
def test_what_no_retry_mends_is_recorded_at_once(error: Exception) -> None:
    turns = [(Begin, None), (Call, error), (Rollback, True), (RECORD_FENCED, [])]
    with pytest.raises(type(error)):
        play(flow_of(frame_of(), retry=SOON), *turns)


def test_a_timeout_is_an_error_of_its_own_although_its_connection_is_gone() -> None:
    turns = [(Begin, None), (Call, StepTimeout("too long")), (Rollback, False), (RECORD_FENCED, [])]
    with pytest.raises(StepTimeout):
        play(flow_of(frame_of()), *turns)


def test_a_result_that_cannot_be_stored_leaves_nothing_behind() -> None:
    turns = [(Begin, None), (Call, RUN), (Rollback, True), (RECORD_FENCED, [])]
    with pytest.raises(BadArgument):
        play(flow_of(frame_of(), lambda n, handle: float("inf")), *turns)


def test_the_record_of_an_error_is_fenced_too() -> None:
    turns = [
        *[(Begin, None), (Call, RUN), (Rollback, True), (RECORD_FENCED, Fenced("taken over"))],
        (OWNERSHIP, [("queued", None, EPOCH + 1, None)]),
    ]
    with pytest.raises(LeaseLost):
        play(flow_of(frame_of(), raising(ValueError())), *turns)


def test_the_record_of_an_error_whose_answer_was_lost_finds_itself() -> None:
    stored = ("1", 1, "transaction", "reserve", None, '{"type": "ValueError", "module": "builtins", "args": ["x"]}', 1)
    turns = [
        *[(Begin, None), (Call, RUN), (Rollback, True), (RECORD_FENCED, ConnectionLost("lost")), (Pause, None)],
        *[(RECORD_FENCED, Duplicate("mine")), (READ_STEP, [stored])],
    ]
    with pytest.raises(ValueError):  # noqa: PT011
        play(flow_of(frame_of(), raising(ValueError("x"))), *turns)


def test_a_body_that_ends_its_own_transaction_blocks_the_workflow() -> None:
    frame = frame_of()
    with pytest.raises(Diverged, match="ended its own transaction"):
        play(flow_of(frame), (Begin, None), (Call, RUN), (Commit, Torn("path differs")), (Rollback, True))
    assert raises_again(frame, [flow_of(frame, path="2")])


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit()])
def test_what_ends_the_program_is_no_outcome(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        play(flow_of(frame_of(), retry=SOON), (Begin, None), (Call, stop))
