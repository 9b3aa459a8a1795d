"""Statements of the test harness."""

from __future__ import annotations

from typing import Final

from dbdurable._sql.statement import Statement

EXPIRE_ALL: Final = Statement(
    "expire_all",
    # Every executor counts as dead: its process was killed.
    "update {schema}.executor set expires_at = clock_timestamp() - interval '1 s'",
)

EVERY_JOURNAL: Final = Statement(
    "every_journal",
    # What must be the same after a crash: no ids, times or payloads.
    """
    select w.name, w.status::text, s.path, s.kind::text, s.name
      from {schema}.workflow w left join {schema}.step s on s.workflow_id = w.id
    """,
)
