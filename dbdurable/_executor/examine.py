"""Reads the bodies of workflows before they run: what would not be the same when they are replayed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from typing import Literal

from dbdurable._core.determinism import ALLOW, Sources, find
from dbdurable._executor.definition import Definition
from dbdurable.errors import NonDeterministic


def examine(definitions: Iterable[Definition], mode: Literal["warn", "raise", "off"]) -> None:
    """Warns of, or raises, `NonDeterministic` for what bodies must not call."""
    if mode == "off":
        return
    sources = Sources()
    for definition in definitions:
        if definition.kind != "workflow":
            continue
        findings = find(definition.fn, definition.name, sources)
        if findings and mode == "raise":
            lines = "".join(f"\n  {found.file}:{found.line}: {found.text}" for found in findings)
            raise NonDeterministic(f"calls that a replay would not repeat ({ALLOW!r} in a line allows it):{lines}")
        registry = inspect.unwrap(definition.fn).__globals__.setdefault("__warningregistry__", {})
        for found in findings:
            warnings.warn_explicit(found.text, NonDeterministic, found.file, found.line, registry=registry)
