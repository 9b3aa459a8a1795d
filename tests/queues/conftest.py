"""An application with a queue, and a gate at which its workflows stop so that a test can look."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dbdurable import Durable
from tests.support.wait import wait_until


class Gate:
    """Counts the workflows inside, and how many there were at most; lets them out one by one or all."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.entered: list[tuple[str, int]] = []
        self._out = threading.Semaphore(0)

    def open(self, many: int = 10_000) -> None:
        for _ in range(many):
            self._out.release()

    def __call__(self, group: str, n: int) -> None:
        with self.lock:
            self.entered.append((group, n))
            self.inside[group] += 1
            self.most[group] = max(self.most[group], self.inside[group])
        assert self._out.acquire(timeout=30), "the test never opened the gate"
        with self.lock:
            self.inside[group] -= 1

    def of(self, group: str) -> list[int]:
        with self.lock:
            return [n for name, n in self.entered if name == group]

    def wait_inside(self, many: int) -> None:
        wait_until(lambda: self.inside.total() == many, 20, f"{many} workflows inside, there are {self.inside}")


class Shop:
    """`job(group, n)` stops at the gate."""

    def __init__(self, url: str, connection: psycopg.Connection[Any], gate: Gate | None = None) -> None:
        self.durable, self.connection, self.gate = Durable(url), connection, gate or Gate()
        gate = self.gate

        @self.durable.workflow
        def job(group: str, n: int) -> int:
            gate(group, n)
            return n

        self.job = job

    def one(self, query: str, *params: Any) -> Any:
        row = self.connection.execute(query, params).fetchone()  # type: ignore[arg-type]
        return row and row[0]

    def used(self, queue: str) -> dict[str, int]:
        rows = self.connection.execute("select partition, used from dbdurable.limit_key where queue = %s", [queue])
        return dict(rows.fetchall())

    def check_nothing_is_held(self) -> None:
        """After everything has ended: exact limits are all given back, and no ticket or slot is left."""
        rows = self.connection.execute("select queue, partition, used from dbdurable.limit_key where used <> 0")
        assert rows.fetchall() == []
        assert self.one("select count(*) from dbdurable.ready") == 0
        assert self.one("select count(*) from dbdurable.workflow where slots is not null") == 0


@pytest.fixture
def shop(database_url: str, connection: psycopg.Connection[Any]) -> Iterator[Shop]:
    shop = Shop(database_url, connection)
    yield shop
    shop.gate.open()
    shop.durable.close()
