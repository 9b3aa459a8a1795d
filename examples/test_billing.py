"""A year of billing in a second: `python -m pytest examples/test_billing.py`."""

from billing import Declined, charge, durable, mail, subscription

from dbdurable.testing import Harness


def test_a_year(durable_harness: Harness) -> None:
    with durable_harness.run(durable):
        handle = subscription.start("ann", 900)
        durable_harness.advance(days=29)
        assert handle.get_event("paid", int) == 1
        durable_harness.advance(days=1)
        assert handle.get_event("paid", int) == 2
        durable_harness.advance(days=330)
        assert handle.result(timeout=0) == "12 months paid"
        assert [step.name for step in handle.steps()].count("charge") == 12


def test_a_card_that_is_declined_is_tried_again_three_days_later(durable_harness: Harness) -> None:
    durable_harness.mock(mail, returns=None)
    with durable_harness.run(durable):
        handle = subscription.start("ann", 900)
        durable_harness.advance(days=29)
        durable_harness.fail(charge, Declined("expired"), times=2)
        durable_harness.advance(days=1)
        assert handle.get_event("paid", int) == 1
        durable_harness.advance(days=6)
        assert handle.get_event("paid", int) == 2


def test_three_refusals_end_it(durable_harness: Harness) -> None:
    durable_harness.fail(charge, Declined("expired"), times=3)
    with durable_harness.run(durable):
        handle = subscription.start("ann", 900)
        durable_harness.advance(days=6)
        assert handle.result(timeout=0) == "ended: payment 1 failed"


def test_a_message_ends_it(durable_harness: Harness) -> None:
    with durable_harness.run(durable):
        handle = subscription.start("ann", 900)
        durable_harness.advance(days=100)
        handle.send("cancel", "too dear")
        assert handle.result(timeout=30) == "cancelled after 4: too dear"


def test_an_outage_of_the_payment_service_is_no_refusal(durable_harness: Harness) -> None:
    durable_harness.fail(charge, ConnectionError("down"), times=1)
    with durable_harness.run(durable):
        handle = subscription.start("ann", 900)
        assert handle.get_event("paid", int, timeout=30) == 1
        assert handle.steps()[0].attempts == 2
