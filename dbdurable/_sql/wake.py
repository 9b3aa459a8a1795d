"""Statements of wake-ups: hints that work is there. Nothing depends on them."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.statement import Statement

NOTIFY: Final = Statement(
    "notify",
    # Alone in its transaction, which waits for no flush: NOTIFY locks all notifying commits of the server
    # until its own is over. While a listener that hangs fills the server's queue, nothing is added to it.
    """
    select pg_notify($1::text, $2::text), set_config('synchronous_commit', 'off', true)
     where pg_notification_queue_usage() < 0.5
    """,
)

COMMITTED: Final = Statement(
    "committed",
    # Which of these workflows, started in transactions of others, are there by now.
    "select id, queue, status = 'queued' from {schema}.workflow where id = any($1::uuid[])",
)
