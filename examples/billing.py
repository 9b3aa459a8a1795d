"""A subscription: billed each month for a year; a payment that fails is tried again; a message ends it.

Here a month is a fraction of a second. test_billing.py runs the same workflow with real months, in no time.
"""

from datetime import timedelta

from dbdurable import Durable, NonRetryable, current_step, progress, recv, set_event, sleep

durable = Durable()
MONTHS = 12
TRIES = 3


class Declined(NonRetryable):
    """The card was refused: to ask again at once is of no use."""


@durable.step(retry=5)
def charge(customer: str, cents: int) -> str:
    """At least once, under one key for the payment service: its receipt."""
    return f"receipt {current_step().idempotency_key}: {cents} from {customer}"


@durable.step
def mail(customer: str, text: str) -> None:
    """At least once."""
    print(f"mail to {customer}: {text}")


def pay(customer: str, cents: int, pause: timedelta) -> bool:
    """One month's payment, tried again a few days later; a part of the workflow's body."""
    for number in range(1, TRIES + 1):
        try:
            charge(customer, cents)
        except Declined:
            mail(customer, f"your card was declined ({number} of {TRIES})")
            if number < TRIES:
                sleep(pause)
        else:
            return True
    return False


@durable.workflow
def subscription(customer: str, cents: int, month: timedelta = timedelta(days=30)) -> str:
    """A year of it: what became of it."""
    for paid in range(MONTHS):
        if not pay(customer, cents, month / 10):
            return f"ended: payment {paid + 1} failed"
        set_event("paid", paid + 1)
        progress(paid + 1, MONTHS, "months paid")
        why = recv("cancel", str, timeout=month, default=None)
        if why is not None:
            mail(customer, "goodbye")
            return f"cancelled after {paid + 1}: {why}"
    return f"{MONTHS} months paid"


def main() -> None:
    with durable.executor():
        year = subscription.options(key="ann").start("ann", 900, timedelta(seconds=0.03))
        moved = subscription.options(key="bob").start("bob", 900)  # a real month until the next payment
        moved.get_event("paid", int)  # the first one
        moved.send("cancel", "moved away")
        print("ann:", year.result())
        print("bob:", moved.result())


if __name__ == "__main__":
    main()
