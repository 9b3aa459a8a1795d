"""Values survive PostgreSQL's `json`, byte by byte."""

from __future__ import annotations

from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings

from tests.core.test_values import TYPED, codec, same, values


def test_every_value_through_the_database_and_back(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:

        def through(annotation: Any, value: Any) -> None:
            text, settled = codec(annotation).settle(value, "value")
            row = connection.execute("select %s::json::text", (text,)).fetchone()
            assert row is not None
            assert row[0] == text
            assert same(codec(annotation).decode(row[0]), settled)

        for annotation, value in TYPED:
            through(annotation, value)

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(values)
        def untyped(value: Any) -> None:
            through(Any, value)

        untyped()
