"""One attempt of a workflow, pumped by hand: how it ends, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import ConnectionLost, Diverged, HandBack, LeaseLost
from dbdurable._protocol.effects import Call, Pause
from dbdurable._protocol.step import step
from dbdurable._protocol.transaction import transaction
from dbdurable._protocol.workflow import Outcome, attempt
from dbdurable._sql.workflow import BLOCK, FINISH, HAND_BACK, OWNERSHIP
from dbdurable.errors import BadArgument, Cancelled
from dbdurable.types import Status
from tests.protocol.pump import EPOCH, ME, OTHER, RUN, WORKFLOW, Clock, call_of, frame_of, play, recorded

DONE = [(WORKFLOW,)]


def run(frame: Any, body: Any, *turns: Any) -> Outcome:
    codec = ValueCodec.for_annotation(Any, "the result")
    outcome: Outcome = play(attempt(frame, body, codec, "v1"), (Call, RUN), *turns)
    return outcome


def raiser(error: BaseException) -> Any:
    def body() -> None:
        raise error

    return body


def test_it_succeeds_with_its_value() -> None:
    assert run(frame_of(), lambda: 5, (FINISH, DONE)) == Outcome(Status.SUCCEEDED, 5)


def test_it_fails_with_its_error() -> None:
    outcome = run(frame_of(), raiser(ValueError("no")), (FINISH, DONE))
    assert outcome.status == Status.FAILED
    assert isinstance(outcome.error, ValueError)


def test_a_result_that_cannot_be_stored_fails_it() -> None:
    assert isinstance(run(frame_of(), lambda: float("nan"), (FINISH, DONE)).error, BadArgument)


def test_a_call_that_was_never_awaited_fails_it() -> None:
    frame = frame_of()
    frame.unawaited["1"] = "reserve"
    assert "never awaited reserve" in str(run(frame, lambda: 5, (FINISH, DONE)).error)


def test_a_finish_whose_answer_was_lost_knows_itself() -> None:
    outcome = run(
        frame_of(),
        lambda: 5,
        (FINISH, ConnectionLost("lost")),
        (Pause, None),
        (FINISH, []),
        (OWNERSHIP, [("succeeded", ME, EPOCH, None)]),
    )
    assert outcome == Outcome(Status.SUCCEEDED, 5)


@pytest.mark.parametrize("rows", [[("running", OTHER, EPOCH + 2, None)], [("paused", None, EPOCH + 1, None)], []])
def test_a_finish_that_is_refused_leaves_it_to_others(rows: list[Any]) -> None:
    outcome = run(frame_of(), lambda: 5, (FINISH, []), (OWNERSHIP, rows), (OWNERSHIP, rows))
    assert outcome.status is None


def test_cancelled_after_its_last_call_it_ends_cancelled() -> None:
    cancelled = [("running", ME, EPOCH + 1, "no more")]
    outcome = run(frame_of(), lambda: 5, (FINISH, []), (OWNERSHIP, cancelled), (OWNERSHIP, cancelled), (FINISH, DONE))
    assert outcome.status == Status.CANCELLED


def test_a_body_that_lets_the_cancel_through_ends_cancelled() -> None:
    assert run(frame_of(), raiser(Cancelled("no more")), (FINISH, DONE)).status == Status.CANCELLED


def test_a_body_that_cleans_up_and_returns_succeeds() -> None:
    def body() -> str:
        try:
            raise Cancelled("no more")
        except Cancelled:
            return "refunded"

    assert run(frame_of(), body, (FINISH, DONE)) == Outcome(Status.SUCCEEDED, "refunded")


def test_records_that_the_code_never_asked_for_block_it() -> None:
    outcome = run(frame_of(recorded("1")), lambda: 5, (BLOCK, DONE))
    assert outcome.status == Status.BLOCKED
    assert "(the workflow ended)" in str(outcome.error)


def test_an_error_with_records_left_over_is_its_own_outcome() -> None:
    """Only a line that ran to its end has left records over; this one was left by its error."""
    assert run(frame_of(recorded("1")), raiser(ValueError()), (FINISH, DONE)).status == Status.FAILED


def test_another_call_than_recorded_blocks_it() -> None:
    frame = frame_of(recorded("1"))
    outcome = run(frame, lambda: play(step(call_of(frame, lambda n: n, name="charge"))), (BLOCK, DONE))
    assert outcome.status == Status.BLOCKED


def test_a_lost_lease_writes_nothing_more() -> None:
    clock = Clock()
    frame = frame_of(clock=clock)
    clock.now = 20.0
    assert run(frame, lambda: play(step(call_of(frame, lambda n: n)))).status is None


def test_closing_hands_it_back() -> None:
    frame = frame_of()
    frame.lease.closing = True
    assert run(frame, lambda: play(step(call_of(frame, lambda n: n))), (HAND_BACK, DONE)).status is None


def test_ctrl_c_hands_it_back_and_goes_to_the_caller() -> None:
    outcome = run(frame_of(), raiser(KeyboardInterrupt()), (HAND_BACK, DONE))
    assert outcome.status is None
    assert isinstance(outcome.error, KeyboardInterrupt)


@pytest.mark.parametrize("reason", [LeaseLost("gone"), HandBack("closing"), Diverged("differs")])
def test_a_body_that_swallows_the_end_of_its_attempt_gets_no_outcome_and_no_further_call(reason: Any) -> None:
    frame = frame_of()
    seen: list[str] = []

    def body() -> str:
        for path, flow in (("1", step), ("2", transaction), ("3", step)):
            frame.unwind(reason)
            try:
                play(flow(call_of(frame, lambda *a: seen.append("ran"), "step" if flow is step else "transaction", path=path)))
            except BaseException as raised:
                assert raised is reason
        return "pretends that nothing happened"

    turns = {LeaseLost: [], HandBack: [(HAND_BACK, DONE)], Diverged: [(BLOCK, DONE)]}[type(reason)]
    outcome = run(frame, body, *turns)
    assert outcome.status is (Status.BLOCKED if isinstance(reason, Diverged) else None)
    assert seen == []


def test_an_error_while_it_unwinds_is_no_outcome() -> None:
    frame = frame_of()

    def body() -> None:
        frame.unwind(LeaseLost("gone"))
        raise ValueError("the connection of mine is closed")

    assert run(frame, body).status is None


def test_handing_back_what_is_not_ours_any_more_does_nothing() -> None:
    assert run(frame_of(), raiser(HandBack("closing")), (HAND_BACK, [])).status is None
