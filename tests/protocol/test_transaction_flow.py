"""Transactions: writes and record commit together; whatever is in doubt is decided by the primary key."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dbdurable._core.control import ConnectionLost, Diverged, Duplicate, Fenced, HandBack, LeaseLost, Torn, Transient
from dbdurable._protocol.effects import Begin, Flow, Note
from dbdurable._protocol.transaction import RERUNS_MAX, transaction
from dbdurable._sql.start import START_HERE_UNKEYED
from dbdurable._sql.step import END_BACKEND, READ_STEP
from dbdurable._sql.workflow import OWNERSHIP
from dbdurable.errors import BadArgument, Cancelled, NonRetryable, NotInTransaction, RetryAfter, StepTimeout
from dbdurable.types import Retry
from tests.protocol.pump import (
    ENDED,
    GONE,
    ID,
    PAUSED,
    TAKEN_OVER,
    Body,
    Entry,
    World,
    appends,
    begins,
    calls,
    cancelled_here,
    cancelled_text,
    close_everywhere,
    commits,
    pauses,
    pump,
    queries,
    recorded,
    records_failure,
    rolls_back,
    runs,
)

BACKEND = (4711, datetime(2025, 1, 1, tzinfo=UTC))


def flow_of(world: World, body: Any = None, **options: Any) -> Flow[Any]:
    return transaction(world.call(body or Body(1), kind="transaction", name="save", **options))


def saved(output: str | None = "1", **options: Any) -> Any:
    return recorded(output, kind="transaction", name="save", **options)


class Conflict(Exception):
    sqlstate = "40001"


# ---- the outcome -------------------------------------------------------------------------------------------


def test_the_record_rides_the_commit() -> None:
    world, body = World([recorded("0", seq=7)]), Body([1, 2])
    world.call()
    script = begins("connection"), runs(), commits(output="[1,2]", attempts=1, epoch=3, seq=8)
    assert pump(flow_of(world, body), *script) == [1, 2]
    assert body.calls == [(1, "connection")]


def test_begin_gets_what_the_definition_says() -> None:
    world = World()
    this = world.call(Body(1), kind="transaction", name="save", timeout_s=2.5)
    this.source, this.isolation, this.row_factory = "source", "serializable", "rows"
    begun: list[Begin] = []
    note = Entry(Begin, "begin", begun.append, "connection")
    pump(transaction(this), note, runs(timeout_s=2.5), commits())
    assert begun == [Begin("source", "serializable", "rows", Note("1", world.frame.lease.mark), "save")]


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (saved("5"), 5),
        (saved(None, error=KeyError("sku")), KeyError),
        (saved(None, error=cancelled_text("")), Cancelled),
    ],
)
def test_replay(record: Any, outcome: Any) -> None:
    world, body = World([record]), Body()
    if isinstance(outcome, int):
        assert pump(flow_of(world, body)) == outcome
    else:
        with pytest.raises(outcome):
            pump(flow_of(world, body))
        assert world.frame.line.heard is (outcome is Cancelled)
    assert body.calls == []


@pytest.mark.parametrize(("event", "reason"), [(World.lose_lease, LeaseLost), (World.close, HandBack)])
def test_nothing_begins_where_the_attempt_must_stop(event: Any, reason: type[BaseException]) -> None:
    world = World()
    event(world)
    with pytest.raises(reason):
        pump(flow_of(world))
    with pytest.raises(reason):
        pump(flow_of(world))


@pytest.mark.parametrize(("event", "reason"), [(World.lose_lease, LeaseLost), (World.close, HandBack)])
def test_nothing_begins_again_where_the_attempt_must_stop(event: Any, reason: type[BaseException]) -> None:
    world = World()
    script = begins(), runs(), commits(Transient("deadlock")), rolls_back(), pauses().after(lambda: event(world))
    with pytest.raises(reason):
        pump(flow_of(world), *script)


def test_a_cancel_that_is_known_is_recorded_instead_of_the_call() -> None:
    with pytest.raises(Cancelled, match="too late"):
        pump(flow_of(World(interrupt="too late")), appends(error="Cancelled", epoch=3))


def test_another_call_than_history_has() -> None:
    with pytest.raises(Diverged, match=r"- +1 +step save +\(recorded\)\n +\+ +1 +transaction save"):
        pump(flow_of(World([recorded("1", name="save")])))


# ---- the fence ---------------------------------------------------------------------------------------------

FENCED = begins(), runs(), commits(Fenced("fenced")), rolls_back()


@pytest.mark.parametrize("rows", [TAKEN_OVER, PAUSED, ENDED, GONE])
def test_fenced_by_another_owner(rows: list[tuple[Any, ...]]) -> None:
    world = World()
    with pytest.raises(LeaseLost):
        pump(flow_of(world), *FENCED, queries(OWNERSHIP, rows, {1: ID}))
    assert isinstance(world.frame.unwinding, LeaseLost)
    assert world.frame.epoch == 3


def test_fenced_by_a_cancel() -> None:
    world = World()
    with pytest.raises(Cancelled, match="changed my mind"):
        pump(flow_of(world), *FENCED, queries(OWNERSHIP, cancelled_here(4)), appends(error="Cancelled", epoch=4))
    assert (world.frame.epoch, world.frame.line.heard, world.frame.unwinding) == (4, True, None)
    assert pump(flow_of(world, Body("undone")), begins(), runs(), commits(epoch=4)) == "undone"


def test_the_ownership_is_asked_for_until_there_is_an_answer() -> None:
    world = World()
    asked = queries(OWNERSHIP, ConnectionLost("reset"))
    cancelled = queries(OWNERSHIP, cancelled_here(4))
    with pytest.raises(Cancelled):
        pump(flow_of(world), *FENCED, asked, pauses(at_most_s=2), asked, pauses(), cancelled, appends())


def test_fenced_while_it_cleans_up() -> None:
    world = World([saved(None, error=cancelled_text(""))], interrupt="")
    with pytest.raises(Cancelled):
        pump(flow_of(world))
    with pytest.raises(LeaseLost, match="while it cleaned up"):
        pump(flow_of(world), *FENCED, queries(OWNERSHIP, cancelled_here(4)))


# ---- a record that is there already ------------------------------------------------------------------------

DUPLICATE = begins(), runs(), commits(Duplicate("step_pkey")), rolls_back()


def test_the_record_of_the_same_call_is_adopted() -> None:
    assert pump(flow_of(World()), *DUPLICATE, queries(READ_STEP, [saved("7")], {1: ID, 2: "1"})) == 7


def test_the_recorded_error_of_the_same_call_is_adopted() -> None:
    with pytest.raises(KeyError):
        pump(flow_of(World()), *DUPLICATE, queries(READ_STEP, [saved(None, error=KeyError("sku"))]))


def test_the_record_of_another_call_blocks() -> None:
    world = World()
    with pytest.raises(Diverged, match="recorded as step charge by another attempt"):
        pump(flow_of(world), *DUPLICATE, queries(READ_STEP, [recorded("7")]))
    assert isinstance(world.frame.unwinding, Diverged)


def test_a_record_that_went_away_with_its_workflow() -> None:
    with pytest.raises(LeaseLost, match="ended elsewhere"):
        pump(flow_of(World()), *DUPLICATE, queries(READ_STEP))


# ---- not the body's fault ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["begin", "call", "commit"])
def test_transient_runs_the_body_again_and_charges_nothing(where: str) -> None:
    transient = Transient("could not serialize access")
    first = {
        "begin": [begins(transient)],
        "call": [begins(), calls(transient)],
        "commit": [begins(), runs(), commits(transient)],
    }[where]
    body = Body("first", "second")
    again = [begins(), runs(), commits(attempts=1)]
    pump(flow_of(World(), body), *first, rolls_back(), pauses(at_most_s=2), *again)
    assert {call[0] for call in body.calls} == {1}
    assert len(body.calls) == (2 if where == "commit" else 1)


def test_a_serialization_failure_inside_the_body_charges_nothing() -> None:
    body = Body(Conflict("again"), "second")
    script = begins(), runs(), rolls_back(), pauses(at_most_s=2), begins(), runs(), commits(attempts=1)
    assert pump(flow_of(World(), body), *script) == "second"
    assert body.calls == [(1, "handle"), (1, "handle")]


def test_an_error_on_a_dead_connection_charges_nothing() -> None:
    body = Body(ValueError("whatever the driver made of it"), "second")
    script = begins(), runs(), rolls_back(alive=False), pauses(), begins(), runs(), commits(attempts=1)
    assert pump(flow_of(World(), body), *script) == "second"


def test_conflicts_without_end_become_the_bodys_own() -> None:
    body = Body(*[Conflict("again")] * (RERUNS_MAX + 2))
    again = [begins(), runs(), rolls_back(), pauses()]
    flow = flow_of(World(), body, retry=Retry(2))
    with pytest.raises(Conflict):
        pump(flow, *again * (RERUNS_MAX + 1), *again[:3], records_failure(error="Conflict", attempts=2))


# ---- a commit without an answer ----------------------------------------------------------------------------


def lost_commit(backend: Any = None) -> list[Entry]:
    return [begins(), runs(), commits(ConnectionLost("reset", backend)), rolls_back(alive=False)]


def test_the_record_is_there_and_the_body_does_not_run_again() -> None:
    body = Body(1)
    ended = queries(END_BACKEND, [(True,)], {1: BACKEND[0], 2: BACKEND[1]})
    script = *lost_commit(BACKEND), ended, queries(READ_STEP, [saved("1")], {1: ID, 2: "1"})
    assert pump(flow_of(World(), body), *script) == 1
    assert len(body.calls) == 1


def test_the_record_is_not_there_and_the_body_runs_again() -> None:
    body = Body(1, 2)
    script = *lost_commit(BACKEND), queries(END_BACKEND), queries(READ_STEP), pauses(at_most_s=2)
    assert pump(flow_of(World(), body), *script, begins(), runs(), commits(attempts=1, output="2")) == 2


def test_a_backend_that_is_not_known_cannot_be_ended() -> None:
    script = *lost_commit(), queries(READ_STEP), pauses()
    assert pump(flow_of(World(), Body(1, 2)), *script, begins(), runs(), commits()) == 2


def test_it_committed_after_it_was_looked_for() -> None:
    script = *lost_commit(), queries(READ_STEP), pauses(), *DUPLICATE, queries(READ_STEP, [saved("1")])
    assert pump(flow_of(World(), Body(1, 2)), *script) == 1


def test_a_record_of_a_cancel_that_is_found_counts_as_delivered() -> None:
    world = World()
    with pytest.raises(Cancelled):
        pump(flow_of(world), *lost_commit(), queries(READ_STEP, [saved(None, error=cancelled_text("late"))]))
    assert world.frame.line.heard


def test_the_connection_can_be_lost_over_and_over() -> None:
    gone = ConnectionLost("reset")
    script = [*lost_commit(BACKEND), queries(END_BACKEND, gone), pauses(), queries(END_BACKEND)]
    script += [queries(READ_STEP, gone), pauses(), queries(READ_STEP), pauses()]
    script += [begins(gone), rolls_back(), queries(READ_STEP), pauses(), begins(), runs(), commits()]
    assert pump(flow_of(World(), Body(1, 2)), *script) == 2


def test_an_outage_longer_than_the_lease() -> None:
    world = World()
    gone = queries(READ_STEP, ConnectionLost("reset"))
    with pytest.raises(LeaseLost, match="longer than the lease"):
        pump(flow_of(world), *lost_commit(), gone, pauses(), gone.after(world.lose_lease))


# ---- the body's own errors ---------------------------------------------------------------------------------


def test_an_error_rolls_back_and_is_recorded() -> None:
    world = World()
    script = begins(), runs(), rolls_back(), records_failure(error="KeyError", attempts=1, epoch=3, seq=1)
    with pytest.raises(KeyError, match="sku") as raised:
        pump(flow_of(world, Body(KeyError("sku"))), *script)
    assert "__call__" in [entry.name for entry in raised.traceback], "the live traceback is kept"


def test_retries_and_their_delays() -> None:
    body = Body(ValueError(), RetryAfter(77), "ok")
    retry = Retry(3, initial=2, jitter=0)
    script = [begins(), runs(), rolls_back(), pauses(2.0), begins(), runs(), rolls_back(), pauses(77.0)]
    assert pump(flow_of(World(), body, retry=retry), *script, begins(), runs(), commits(attempts=3)) == "ok"
    assert [call[0] for call in body.calls] == [1, 2, 3]


def test_the_error_is_recorded_after_its_retries() -> None:
    failed = [begins(), runs(), rolls_back()]
    script = [*failed, pauses(1.0), *failed, records_failure(error="KeyError", attempts=2)]
    with pytest.raises(KeyError):
        pump(flow_of(World(), Body(ValueError(), KeyError()), retry=Retry(2, jitter=0)), *script)


FIRST_ERROR_IS_FINAL = [
    pytest.param(NonRetryable("no"), Retry(5), id="NonRetryable"),
    pytest.param(KeyError("no"), Retry(5, non_retryable=(LookupError,)), id="non_retryable"),
    pytest.param(KeyError("no"), Retry(5, on=lambda error: False), id="predicate"),
    pytest.param(NotInTransaction("no"), Retry(5), id="NotInTransaction"),
]


@pytest.mark.parametrize(("error", "retry"), FIRST_ERROR_IS_FINAL)
def test_final_errors(error: Exception, retry: Retry) -> None:
    script = begins(), runs(), rolls_back(), records_failure(error=type(error).__name__, attempts=1)
    with pytest.raises(type(error), match="no"):
        pump(flow_of(World(), Body(error), retry=retry), *script)


def test_a_transaction_that_postgresql_aborted_is_the_steps_error() -> None:
    aborted = NotInTransaction("transaction save: the body caught a database error")
    failure = records_failure(error="NotInTransaction", attempts=1)
    with pytest.raises(NotInTransaction):
        pump(flow_of(World(), retry=Retry(5)), begins(), runs(), commits(aborted), rolls_back(), failure)
    with pytest.raises(NotInTransaction):
        pump(flow_of(World(), retry=Retry(5)), begins(), calls(aborted), rolls_back(), failure)


def test_a_result_without_a_json_form_rolls_back_and_is_not_tried_again() -> None:
    script = begins(), runs(), rolls_back(), records_failure(error="BadArgument", attempts=1)
    with pytest.raises(BadArgument, match="the result of transaction save"):
        pump(flow_of(World(), Body(object()), retry=Retry(5)), *script)


@pytest.mark.parametrize("alive", [True, False])
def test_a_timeout_is_charged_though_it_ends_the_connection(alive: bool) -> None:
    late = begins(), calls(StepTimeout("late")), rolls_back(alive)
    script = [*late, pauses(1.0), *late, records_failure(error="StepTimeout", attempts=2)]
    with pytest.raises(StepTimeout):
        pump(flow_of(World(), retry=Retry(2, jitter=0), timeout_s=1), *script)


FAILED = begins(), runs(), rolls_back()


def test_the_error_of_a_workflow_that_is_not_ours_any_more() -> None:
    with pytest.raises(LeaseLost):
        pump(flow_of(World(), Body(KeyError())), *FAILED, records_failure(Fenced("")), queries(OWNERSHIP, TAKEN_OVER))


def test_the_error_of_a_workflow_that_was_cancelled() -> None:
    script = records_failure(Fenced("")), queries(OWNERSHIP, cancelled_here(4)), appends(error="Cancelled", epoch=4)
    with pytest.raises(Cancelled):
        pump(flow_of(World(), Body(KeyError())), *FAILED, *script)


def test_an_error_where_an_earlier_run_had_committed_after_all() -> None:
    script = records_failure(Duplicate("")), queries(READ_STEP, [saved("5")])
    assert pump(flow_of(World(), Body(KeyError())), *FAILED, *script) == 5


def test_the_record_of_an_error_is_sent_until_there_is_an_answer() -> None:
    again = records_failure(ConnectionLost("reset")), pauses(at_most_s=2)
    theirs = records_failure(Duplicate("")), queries(READ_STEP, [saved(None, error=KeyError("sku"))])
    with pytest.raises(KeyError):
        pump(flow_of(World(), Body(KeyError("sku"))), *FAILED, *again, *theirs)


# ---- COMMIT as SQL -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["call", "commit"])
def test_a_body_that_ended_its_transaction_blocks_the_workflow(where: str) -> None:
    world, torn = World(), Torn("")
    script = [begins(), calls(torn)] if where == "call" else [begins(), runs(), commits(torn)]
    with pytest.raises(Diverged, match=rf"save \(path 1\) ended its own transaction(.|\n)*dbdurable resume {ID}"):
        pump(flow_of(world, retry=Retry(5)), *script, rolls_back())
    assert isinstance(world.frame.unwinding, Diverged)


# ---- closing the flow --------------------------------------------------------------------------------------


def flows() -> dict[str, tuple[Any, list[Entry]]]:
    gone = ConnectionLost("reset", BACKEND)
    lost = [begins(), runs(), commits(gone), rolls_back(False)]
    looked = [queries(END_BACKEND, gone), pauses(), queries(END_BACKEND), queries(READ_STEP), pauses()]
    cancelled = [queries(OWNERSHIP, gone), pauses(), queries(OWNERSHIP, cancelled_here()), appends()]
    failed = [*FAILED, pauses(), *FAILED, records_failure(gone), pauses(), records_failure(Fenced("")), *cancelled]
    return {
        "ok": (lambda: flow_of(World()), [begins(), runs(), commits()]),
        "fenced": (lambda: flow_of(World()), [*FENCED, *cancelled]),
        "adopted": (lambda: flow_of(World()), [*DUPLICATE, queries(READ_STEP)]),
        "lost": (lambda: flow_of(World(), Body(1, 2)), [*lost, *looked, begins(), runs(), commits()]),
        "error": (lambda: flow_of(World(), Body(KeyError(), KeyError()), retry=Retry(2)), failed),
        "torn": (lambda: flow_of(World()), [begins(), calls(Torn("")), rolls_back()]),
        "cancelled": (lambda: flow_of(World(interrupt="")), [appends(False, False), *cancelled]),
    }


@pytest.mark.parametrize("name", flows())
def test_a_flow_can_be_closed_anywhere(name: str) -> None:
    make, script = flows()[name]
    assert close_everywhere(make, script) == len(script)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), HandBack("")])
def test_what_is_no_exception_of_the_body_leaves_at_once(stop: BaseException) -> None:
    world = World()
    with pytest.raises(type(stop)):  # the driver rolls back what is open
        pump(flow_of(world, retry=Retry(5)), begins(), calls(stop))


# ---- a start that waits for the first commit ----------------------------------------------------------------

START = "start_here_unkeyed"


def test_a_deferred_start_rides_the_first_commit_and_no_other() -> None:
    world = World(epoch=1)
    world.defer_start()
    assert pump(flow_of(world, Body(1)), begins(), runs(), commits(carries=(START,))) == 1
    assert pump(flow_of(world, Body(2)), begins(), runs(), commits()) == 2


def test_a_deferred_start_rides_again_when_its_commit_was_rolled_back() -> None:
    world = World(epoch=1)
    world.defer_start()
    first = begins(), runs(), commits(Transient("deadlock"), carries=(START,)), rolls_back(), pauses()
    assert pump(flow_of(world, Body(1, 2)), *first, begins(), runs(), commits(carries=(START,))) == 2


def test_a_deferred_start_is_written_before_an_error_is_recorded() -> None:
    world = World(epoch=1)
    world.defer_start()
    with pytest.raises(KeyError):
        pump(flow_of(world, Body(KeyError())), *FAILED, queries(START_HERE_UNKEYED), records_failure(epoch=1))


def test_a_deferred_start_is_written_before_a_lost_commit_is_looked_for() -> None:
    world = World(epoch=1)
    world.defer_start()
    lost = begins(), runs(), commits(ConnectionLost("reset"), carries=(START,)), rolls_back(False)
    assert pump(flow_of(world), *lost, queries(START_HERE_UNKEYED), queries(READ_STEP, [saved("1")])) == 1
    assert world.frame.pending is None


# ---- found by pumping, and mended -----------------------------------------------------------------------------

TOLD = (
    appends(False, False, error="Cancelled", epoch=3),
    queries(OWNERSHIP, cancelled_here(4)),
    appends(error="Cancelled", epoch=4),
)


def test_a_cancel_heard_of_while_the_body_runs_does_not_open_the_fence() -> None:
    world = World()
    pump(flow_of(world), begins(), runs().after(world.hear_of_cancel), commits(epoch=3))


def test_a_cancel_heard_of_between_two_runs_is_delivered() -> None:
    world, body = World(), Body(1)
    first = begins(), runs(), commits(Transient("")), rolls_back(), pauses().after(world.hear_of_cancel)
    with pytest.raises(Cancelled):
        pump(flow_of(world, body), *first, *TOLD)
    assert len(body.calls) == 1


def test_a_cancel_ends_retries() -> None:
    world = World()
    script = *FAILED, pauses().after(world.hear_of_cancel), *TOLD
    with pytest.raises(Cancelled):
        pump(flow_of(world, Body(KeyError()), retry=Retry()), *script)


def test_a_lost_commit_that_took_effect_before_the_cancel() -> None:
    # The old session commits between the look for its record and the cancel; the second run is fenced.
    script = *lost_commit(), queries(READ_STEP), pauses(), *FENCED, queries(OWNERSHIP, cancelled_here(4))
    refused = appends(mine=True, wrote=False, error="Cancelled", epoch=4)
    assert pump(flow_of(World(), Body(1, 2)), *script, refused, queries(READ_STEP, [saved("1")])) == 1


def test_the_old_session_is_ended_before_the_start_is_written_again() -> None:
    # The old session may hold the workflow's key: an insert of the same row waits for it, and never gets to end it.
    world = World(epoch=1)
    world.defer_start()
    lost = begins(), runs(), commits(ConnectionLost("reset", BACKEND), carries=(START,)), rolls_back(False)
    pump(flow_of(world), *lost, queries(END_BACKEND), queries(START_HERE_UNKEYED), queries(READ_STEP, [saved("1")]))
