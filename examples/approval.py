"""An expense waits for its approval: a reminder after a while, then somebody else decides; at last a signature.

Here the waits are fractions of a second. With days in their place the program is the same: a wait holds no
thread, survives every restart, and ends when it would have ended without one.
"""

from dataclasses import dataclass
from datetime import timedelta

from dbdurable import Durable, current_workflow, progress, promise, recv, set_event
from dbdurable.errors import WaitTimeout

durable = Durable()
PATIENCE = timedelta(seconds=0.4)


@dataclass
class Decision:
    """What somebody said."""

    approved: bool
    by: str


@durable.step
def mail(to: str, text: str) -> None:
    """Once more after a crash in here; everybody gets at least one."""
    print(f"mail to {to}: {text}")


@durable.workflow
def expense(amount: int, boss: str, deputy: str) -> str:
    """What became of it."""
    progress(0, 2, f"waits for {boss}")
    mail(boss, f"please approve {amount}")
    decision = recv("decision", Decision, timeout=PATIENCE, default=None)
    if decision is None:
        mail(boss, f"a reminder: {amount} waits for you")
        decision = recv("decision", Decision, timeout=PATIENCE, default=None)
    if decision is None:
        mail(deputy, f"{boss} does not answer: approve {amount}?")
        set_event("asked", deputy)
        decision = recv("decision", Decision)  # however long it takes
    if not decision.approved:
        return f"refused by {decision.by}"
    progress(1, 2, "waits for a signature")
    signature = promise("signature", str)
    set_event("token", signature.token)  # for a link in a mail, a callback of the service that signs, ...
    try:
        return f"approved by {decision.by}, signed {signature.result(timeout=60)}"
    except WaitTimeout:
        return f"approved by {decision.by}, but never signed ({current_workflow().id})"


def main() -> None:
    with durable.executor():
        quick = expense.start(120, "ann", "bob")
        quick.send("decision", Decision(False, "ann"))
        print("120:", quick.result())

        slow = expense.start(900, "ann", "bob")
        print("900: it is now up to", slow.get_event("asked", str))  # waits until there is one
        slow.send("decision", Decision(True, "bob"), idempotency_key="the form that bob sent")
        slow.send("decision", Decision(True, "bob"), idempotency_key="the form that bob sent")  # sent again: no matter
        durable.client.resolve(slow.get_event("token", str), "S-17")
        print("900:", slow.result())


if __name__ == "__main__":
    main()
