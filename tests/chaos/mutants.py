"""Wrong versions of the library, put in place in worker processes only: tests of the oracle."""

from __future__ import annotations

from collections.abc import Callable

from dbdurable._sql import claim, step, upkeep, workflow
from tests.crash.mutants import replace


def count_without_a_lock() -> None:
    """Claims look at what is taken and do not hold on to it."""
    replace(claim.CLAIM_LIMITED, "for update of k skip locked", "")


def any_order() -> None:
    """Tickets of a partition are taken as they come."""
    replace(claim.CLAIM_LIMITED, "order by r.queue, r.partition, r.rank, r.at limit l.n", "order by random() limit l.n")


def keep_slots() -> None:
    """An executor's death gives nothing back."""
    replace(upkeep.RECOVER, "set used = l.used - n.slots", "set used = l.used")


def no_fence() -> None:
    replace(step.RECORD_IN_TRANSACTION, "and w.epoch = $8::int and w.status = 'running'", "and $8::int is not null")
    replace(step.RECORD_IN_TRANSACTION, "w.executor_id = $7::uuid", "$7::uuid is not null")


def ignore_the_rate() -> None:
    replace(claim.CLAIM_LIMITED, ">= least(cost, q.rate_burst) as goes_too", "> -1000 as goes_too")


def finish_whoever_owns_it() -> None:
    for statement in (workflow.FINISH, workflow.FINISH_SUCCEEDED):
        replace(
            statement,
            "where id = $1::uuid and executor_id = $2::uuid and epoch = $3::int and status = 'running'",
            "where id = $1::uuid and $2::uuid is not null and $3::int > 0",
        )


MUTANTS: dict[str, Callable[[], None]] = {
    "count without a lock": count_without_a_lock,
    "any order": any_order,
    "keep slots": keep_slots,
    "no fence": no_fence,
    "ignore the rate": ignore_the_rate,
    "finish whoever owns it": finish_whoever_owns_it,
}
