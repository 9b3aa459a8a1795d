"""The journal and its paths: which call has which record, and what a difference looks like."""

import random

import pytest

from dbdurable._core.control import Diverged
from dbdurable._core.journal import CAUSES, SHOWN_MAX, Journal
from dbdurable._core.path import Line, sort_key
from tests.protocol.pump import recorded


def test_a_new_journal_is_past_its_history() -> None:
    journal = Journal()
    assert (len(journal), journal.is_ahead(Line()), journal.match("1", "step", "charge")) == (0, False, None)
    assert [journal.next_seq(), journal.next_seq()] == [1, 2]
    journal.check_complete()


def test_records_are_matched_by_path_and_seq_goes_on() -> None:
    second, first = recorded("2", path="2", seq=9), recorded("1", seq=4)
    journal = Journal([second, first])
    assert journal.match("1", "step", "charge") is first
    assert journal.match("2", "step", "charge") is second
    assert journal.next_seq() == 10


def test_a_line_is_replaying_while_records_are_ahead_on_it() -> None:
    journal = Journal([recorded("1"), recorded("1", path="2.1.3"), recorded("1", path="2.2"), recorded("1", path="3")])
    body = Line()
    seen = [journal.is_ahead(body)]
    body.take()
    branch = body.branch()
    seen.append(journal.is_ahead(body))
    inner = branch.branch()
    assert [journal.is_ahead(branch), journal.is_ahead(inner)] == [True, True]
    branch.take()
    assert [journal.is_ahead(branch), journal.is_ahead(inner)] == [False, True]
    for _ in range(3):
        inner.take()
    assert not journal.is_ahead(inner)
    body.take()
    assert [*seen, journal.is_ahead(body)] == [True, True, False]
    assert not journal.is_ahead(body.branch())


def test_the_difference_names_history_code_and_causes() -> None:
    journal = Journal([recorded("1"), recorded("2", path="2", name="ship", kind="transaction", seq=2)])
    journal.match("1", "step", "charge")
    with pytest.raises(Diverged) as raised:
        journal.match("2", "step", "refund")
    assert str(raised.value).removesuffix(CAUSES) == (
        "The code no longer fits the recorded steps at path 2:\n"
        "           1  step charge\n"
        "    -      2  transaction ship    (recorded)\n"
        "    +      2  step refund    (the code now)\n"
    )
    assert str(raised.value).endswith(CAUSES)
    assert "{id}" in CAUSES, "whoever raises it names the workflow"


def test_a_long_agreement_is_shortened() -> None:
    paths = [str(n) for n in range(1, SHOWN_MAX + 4)]
    journal = Journal([recorded("1", path=path, seq=int(path)) for path in paths])
    for path in paths[:-1]:
        journal.match(path, "step", "charge")
    with pytest.raises(Diverged) as raised:
        journal.match(paths[-1], "step", "refund")
    lines = str(raised.value).removesuffix(CAUSES).splitlines()
    assert lines[1] == "      ... 2 calls that agree"
    assert len(lines) == 1 + 1 + SHOWN_MAX + 2


def test_calls_past_the_history_are_no_agreement() -> None:
    journal = Journal([recorded("1", path="3")])
    journal.match("1", "step", "new")
    with pytest.raises(Diverged) as raised:
        journal.match("3", "step", "refund")
    assert "step new" not in str(raised.value)


def test_leftovers_are_named_in_program_order() -> None:
    journal = Journal([recorded("1", path=path, seq=n) for n, path in enumerate(["10", "2.10", "2.9"], 1)])
    with pytest.raises(Diverged, match=r"- +2\.9 +step charge +\(recorded\)\n +\+ +2\.9 +\(the workflow ended\)"):
        journal.check_complete()


def test_a_line_counts_for_itself() -> None:
    body = Line()
    first, left = body.take(), body.branch()
    right, below = body.branch(), left.branch()
    assert [first, right.take(), left.take(), below.take(), left.take(), right.take(), body.take()] == [
        "1", "3.1", "2.2", "2.1.1", "2.3", "3.2", "4",
    ]  # fmt: skip


def test_paths_sort_in_program_order() -> None:
    ordered = ["1", "2", "2.1", "2.1.1", "2.2", "2.10", "3", "9", "10", "10.1", "11", "100"]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=sort_key) == ordered
    assert sorted(shuffled) != ordered
