"""A statement: its name (for the fault seam, logs and tests) and its text with the schema's token."""

from __future__ import annotations

import hashlib
from typing import LiteralString

SCHEMA_TOKEN = "{schema}"  # noqa: S105  (a placeholder in SQL text, no password)

ALL: dict[str, Statement] = {}
"""Every statement by name: a test prepares each of them on the migrated database."""


def session_name(name: str, text: str) -> str:
    """What a session knows it by. Behind a pooler others may have prepared theirs: a hash tells the texts apart."""
    return f"{name}_{hashlib.blake2s(text.encode(), digest_size=6).hexdigest()}"


class Statement:
    """One SQL statement with native parameters ($1); compared and hashed by identity."""

    __slots__ = ("name", "text")

    def __init__(self, name: str, text: LiteralString) -> None:
        assert name not in ALL, name
        self.name = name
        self.text = text
        ALL[name] = self

    def __repr__(self) -> str:
        return f"<Statement {self.name}>"

    def render(self, schema: str) -> str:
        """The text for one schema, quoted as an identifier."""
        quoted = '"' + schema.replace('"', '""') + '"'
        return self.text.replace(SCHEMA_TOKEN, quoted)
