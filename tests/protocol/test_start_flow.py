"""Starting from outside, direct calls, and waiting for a result."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from dbdurable._core.codec import ValueCodec
from dbdurable._core.control import ConnectionLost, Transient
from dbdurable._core.failure import encode_failure
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.start import (
    CLAIM_WARNING_S,
    POLL_GROWTH,
    POLL_S_FIRST,
    RESENDS_MAX,
    Start,
    result,
    start,
    start_here,
    unkeyed_start,
)
from dbdurable._sql.start import BORN_HERE, FIND_BY_KEY, START, START_HERE, START_HERE_TIMED, START_HERE_UNKEYED
from dbdurable._sql.workflow import OUTCOME
from dbdurable.errors import (
    DatabaseUnavailable,
    KeyConflict,
    UnknownWorkflow,
    WaitTimeout,
    WorkflowBlocked,
    WorkflowCancelled,
)
from tests.protocol.pump import GONE, ID, ME, OTHER, Entry, close_everywhere, pauses, pump, queries

STRANGER = UUID(int=0xF2)
LOST = ConnectionLost("reset")
PLAIN, KEYED = Start(ID, "checkout", '{"id":1}'), Start(ID, "checkout", '{"id":1}', key="order-1")


# ---- in the background -------------------------------------------------------------------------------------


def test_a_start() -> None:
    found = queries(START, [(ID,)], dict(enumerate(PLAIN.params, 1)))
    assert pump(start(PLAIN), found) == ID


def test_the_holder_of_the_key() -> None:
    assert pump(start(KEYED), queries(START, [(STRANGER,)], {3: "order-1"})) == STRANGER


def test_a_start_whose_answer_was_lost_is_sent_again_under_the_same_id() -> None:
    again = queries(START, LOST, {5: ID}), pauses(0.05), queries(START, Transient("deadlock"), {5: ID}), pauses(0.1)
    assert pump(start(PLAIN), *again, queries(START, [(ID,)], {5: ID})) == ID


def test_a_database_that_does_not_come_back() -> None:
    script = []
    for tries in range(RESENDS_MAX):
        script += [queries(START, LOST), pauses(0.05 * 2**tries)]
    with pytest.raises(DatabaseUnavailable, match="reset"):
        pump(start(PLAIN), *script, queries(START, LOST))


def test_a_key_conflict_is_the_callers() -> None:
    with pytest.raises(KeyConflict):
        pump(start(KEYED), queries(START, KeyConflict("key 'order-1'")))


# ---- here and now ------------------------------------------------------------------------------------------


def here(this: Start = KEYED) -> Flow[UUID | None]:
    return start_here(this, ME, 7, 5)


def born(answer: Any = ((7,),), key: str | None = "order-1") -> Entry:
    return queries(START_HERE, answer, {1: ID, 6: ME, 7: 7, 8: key, 10: '{"id":1}'})


def holder(id: UUID, same: bool) -> Entry:
    return queries(FIND_BY_KEY, [(id, same)], {1: "checkout", 2: "order-1", 3: '{"id":1}'})


def test_born_here() -> None:
    assert pump(here(), born()) is None


def mine(answer: bool) -> Entry:
    return queries(BORN_HERE, [(answer,)], {1: ME, 2: 7, 3: ID})


def test_somebody_else_holds_the_key() -> None:
    assert pump(here(), born([]), mine(False), holder(STRANGER, True)) == STRANGER


def test_somebody_else_holds_the_key_for_other_arguments() -> None:
    with pytest.raises(KeyConflict, match=f"'order-1' already started checkout with other arguments.*{STRANGER}"):
        pump(here(), born([]), mine(False), holder(STRANGER, False))


def test_our_own_start_holds_the_key() -> None:
    assert pump(here(), born(LOST), pauses(), born([]), mine(True)) is None


def test_a_holder_that_was_rolled_back() -> None:
    assert pump(here(), born([]), mine(False), queries(FIND_BY_KEY, GONE), born()) is None


def test_born_here_and_only_the_answer_was_lost() -> None:
    assert pump(here(PLAIN), born(LOST, None), pauses(), born([], None), mine(True)) is None


def test_the_id_is_somebody_elses() -> None:
    assert pump(here(PLAIN), born([], None), mine(False)) == ID


def test_the_start_that_rides_a_commit_has_the_same_columns() -> None:
    whole = Start(ID, "checkout", "{}", None, "slow", timeout_s=5.0, attributes="[]", max_attempts=3, parent_id=OTHER)
    assert unkeyed_start(replace(whole, timeout_s=None), ME, 7, 5).statement is START_HERE_UNKEYED
    query = unkeyed_start(whole, ME, 7, 5)
    assert query.statement is START_HERE_TIMED
    assert query.params == (ID, "checkout", "slow", 3, 5.0, ME, "[]", "{}", OTHER, 7, 5)


# ---- the result --------------------------------------------------------------------------------------------


class Watch:
    """A clock that goes on with each pause."""

    def __init__(self) -> None:
        self.now = 100.0
        self.warnings: list[str] = []

    def flow(self, timeout_s: float | None = None) -> Flow[Any]:
        return result(ID, ValueCodec(), timeout_s, lambda: self.now, self.warnings.append)

    def pauses(self, delay_s: Any = ..., passes_s: float = 0.0) -> Entry:
        def pass_() -> None:
            self.now += passes_s

        return pauses(delay_s).after(pass_)


def has(status: str, output: str | None = None, error: str | None = None, reason: str | None = None) -> Entry:
    return queries(OUTCOME, [("checkout", status, output, error, reason)], {1: ID})


def test_a_value() -> None:
    assert pump(Watch().flow(), has("succeeded", "[1]")) == [1]


def test_an_error_says_where_it_comes_from() -> None:
    with pytest.raises(KeyError, match="sku") as raised:
        pump(Watch().flow(), has("failed", error=encode_failure(KeyError("sku"))))
    assert raised.value.__notes__ == [f"raised in workflow checkout {ID}"]


@pytest.mark.parametrize(("reason", "text"), [("no stock", "was cancelled: no stock"), (None, "was cancelled$")])
def test_a_cancelled_one(reason: str | None, text: str) -> None:
    with pytest.raises(WorkflowCancelled, match=text):
        pump(Watch().flow(), has("cancelled", reason=reason))


def test_a_blocked_one() -> None:
    with pytest.raises(WorkflowBlocked, match="is blocked: another call"):
        pump(Watch().flow(), has("running"), pauses(), has("blocked", reason="another call"))


def test_an_unknown_one() -> None:
    with pytest.raises(UnknownWorkflow, match="tx="):
        pump(Watch().flow(), queries(OUTCOME, GONE))


def test_looks_grow_rarer() -> None:
    script = [has("running"), pauses(POLL_S_FIRST), has("paused"), pauses(POLL_S_FIRST * POLL_GROWTH)]
    assert pump(Watch().flow(), *script, has("succeeded", "1")) == 1


def test_the_time_is_over() -> None:
    watch = Watch()
    script = has("running"), watch.pauses(POLL_S_FIRST, passes_s=0.999), has("running")
    with pytest.raises(WaitTimeout, match="within 1 s: it is running; it goes on"):
        pump(watch.flow(1.0), *script, watch.pauses(pytest.approx(0.001), passes_s=0.001), has("running"))


def test_no_time_at_all_is_one_look() -> None:
    assert pump(Watch().flow(0.0), has("succeeded", "1")) == 1
    with pytest.raises(WaitTimeout):
        pump(Watch().flow(0.0), has("queued"))


def test_one_warning_when_nobody_claims_it() -> None:
    watch = Watch()
    script = [has("queued"), watch.pauses(passes_s=CLAIM_WARNING_S), has("queued"), watch.pauses(passes_s=1)]
    script += [has("queued"), watch.pauses(passes_s=1), has("queued"), watch.pauses(), has("succeeded", "1")]
    pump(watch.flow(), *script)
    assert watch.warnings == [f"workflow checkout {ID} has been queued for 6 s and nobody has claimed it"]


def test_an_outage_while_it_waits() -> None:
    assert pump(Watch().flow(), queries(OUTCOME, LOST), pauses(0.05), has("succeeded", "1")) == 1


# ---- closing the flow --------------------------------------------------------------------------------------


def test_flows_can_be_closed_anywhere() -> None:
    close_everywhere(lambda: start(PLAIN), [queries(START, LOST), pauses(), queries(START)])
    close_everywhere(here, [born(LOST), pauses(), born([]), queries(BORN_HERE, LOST), pauses()])
    close_everywhere(here, [born([]), mine(False), queries(FIND_BY_KEY), born()])
    close_everywhere(Watch().flow, [queries(OUTCOME, LOST), pauses(), has("queued"), pauses(), has("running")])
