"""Wrong versions of the library, put in place in a child process only: tests of the tests.

Each is a mistake that somebody could make in good faith. A mutant that no test notices means that the tests
are blind there, so `test_mutants` demands a failure for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbdurable._io import opening, source
from dbdurable._sql import claim, step, upkeep
from dbdurable._sql.parts import fence
from dbdurable._sql.statement import Statement

FENCE = fence("$7", "$8")
NO_FENCE = "coalesce($8::int, ($7::uuid is null)::int)"


@dataclass(frozen=True)
class Mutant:
    """One mistake, and the promise that it breaks."""

    breaks: str
    apply: Callable[[], None]


def replace(statement: Statement, old: str, new: str) -> None:
    """Changes a statement's text; a mutant that changes nothing is no mutant."""
    assert old in statement.text, f"{statement} has changed: correct the mutant"
    statement.text = statement.text.replace(old, new)  # type: ignore[assignment]


def remove_fence() -> None:
    replace(step.RECORD_IN_TRANSACTION, FENCE, NO_FENCE)


def record_after_commit() -> None:
    """Two transactions instead of one: the step's writes first, its record after them."""

    def commit(self: Any, records: Any) -> None:
        connection = self.connection
        connection.execute("commit")
        if connection.seam is not None:
            connection.seam.reached("between commit and record", connection)
        connection.execute("begin deferrable")
        for _, text, params in records:
            source.psycopg.RawCursor(connection).execute(text, params)
        connection.execute("commit")
        self._release()

    source._SyncPsycopgUnit.commit = commit  # type: ignore[method-assign]


def drop_owner_and_epoch_of_recovery() -> None:
    replace(step.RECORD_IN_TRANSACTION, "and w.executor_id = $7::uuid", "and ($7::uuid is not null)")
    keep_epoch()


def keep_epoch() -> None:
    replace(upkeep.RECOVER, "set epoch = w.epoch + 1, executor_id = null", "set epoch = w.epoch, executor_id = null")
    for statement in (claim.CLAIM, claim.CLAIM_AHEAD):
        replace(statement, "status = 'running', epoch = w.epoch + 1", "status = 'running', epoch = w.epoch")


def overwrite_records() -> None:
    """Whoever writes last is right: the primary key decides nothing any more."""
    remove_fence()
    overwrite = "on conflict (workflow_id, path) do update set output = excluded.output returning"
    replace(step.RECORD_IN_TRANSACTION, "    returning", overwrite)


def ignore_status() -> None:
    replace(step.RECORD_IN_TRANSACTION, "and w.status = 'running'", "")
    replace(
        step.RECORD_IN_TRANSACTION, "w.executor_id = $7::uuid and w.epoch = $8::int", "($7::uuid, $8::int) is not null"
    )


def keep_errors_of_zombies() -> None:
    replace(step.APPEND, "where mine or error is null", "where true")


def forget_recovery() -> None:
    """Recovery that finds the dead and takes nothing over."""
    replace(upkeep.RECOVER, "limit 8 for update of l skip locked", "limit 0 for update of l skip locked")


def unmark() -> None:
    """Not wrong: as if it had another role than those who would end its transactions. The fence is all there is."""
    replace(step.MARK, "pg_try_advisory_lock_shared($1::bigint)", "$1::bigint")
    opening._MARK = ("", step.MARK.text)  # type: ignore[misc]


MUTANTS = {
    "no fence": Mutant("P2", remove_fence),
    "record after commit": Mutant("P1", record_after_commit),
    "no owner, no new epoch": Mutant("P2", drop_owner_and_epoch_of_recovery),
    "no new epoch": Mutant("P2", keep_epoch),
    "overwritten records": Mutant("P1", overwrite_records),
    "status ignored": Mutant("P2", ignore_status),
    "errors of zombies": Mutant("P3", keep_errors_of_zombies),
    "no recovery": Mutant("P5", forget_recovery),
}
