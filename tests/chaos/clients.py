"""Clients that start workflows all the time, and write down what they were told, where no database can lose it."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from dbdurable.errors import DatabaseUnavailable
from tests.chaos import flows

PAUSE_S = 0.02
"""Between two starts of one client."""

PARTITIONS, IN_LINE, AT_ONCE = 3, 4, 8


class Journal:
    """What was asked and what was acknowledged, each line on the disk before the client goes on."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self.path = path
        self.acknowledged = 0

    def asks(self, name: str, key: str | None, **input: Any) -> str:
        """About to start a workflow; the id of this line."""
        asked = uuid4().hex
        self._write({"asked": asked, "name": name, "key": key, "input": input})
        return asked

    def told(self, asked: str, id: UUID) -> None:
        """The start was acknowledged."""
        self._write({"told": asked, "id": str(id)})
        with self._lock:
            self.acknowledged += 1

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._descriptor, (json.dumps(line) + "\n").encode())
        os.fdatasync(self._descriptor)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """For the table chaos.asked."""
        asked: dict[str, dict[str, Any]] = {}
        for text in self.path.read_text().splitlines():
            line = json.loads(text)
            if "asked" in line:
                asked[line["asked"]] = line
            else:
                asked[line["told"]]["id"] = line["id"]
        for id, line in asked.items():
            yield id, line["name"], line["key"], json.dumps(line["input"]), line.get("id"), "id" in line

    def close(self) -> None:
        os.close(self._descriptor)


class Client:
    """One thread that starts workflows of all kinds, until it is told to stop."""

    def __init__(self, number: int, seed: int, url: str, journal: Journal) -> None:
        self.number, self.url, self.journal = number, url, journal
        self.refused = 0
        """Starts that the database was too far away for."""
        self.failed: BaseException | None = None
        self._chance = random.Random(f"{seed} client {number}")
        self._stopping = threading.Event()
        self._resting = False
        self._next = dict.fromkeys(range(PARTITIONS), 0)
        self._thread = threading.Thread(target=self._run, name=f"client-{number}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping.set()
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    def rest(self, resting: bool) -> None:
        """Starts nothing new for a while, or goes on."""
        self._resting = resting

    def _run(self) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._plain, 5),
            (self._keyed, 4),
            (self._delayed, 1),
            (self._with_a_booking, 2),
            (self._in_line, 2),
            (self._at_once, 1),
            (self._many, 1),
        ]
        choices, weights = zip(*kinds, strict=True)
        try:
            while not self._stopping.wait(PAUSE_S):
                if self._resting:
                    continue
                try:
                    self._chance.choices(choices, weights)[0]()
                except (DatabaseUnavailable, psycopg.Error):
                    self.refused += 1
        except BaseException as error:
            self.failed = error

    def _pick(self) -> tuple[Any, str]:
        name = self._chance.choice(["order", "trip", "family", "narrow", "narrow", "rated", "failing", "child"])
        function = getattr(flows, name)
        return getattr(function, "sync", function), name

    def _size(self) -> int:
        return self._chance.randint(1, 4)

    def _plain(self, **options: Any) -> None:
        workflow, name = self._pick()
        size = self._size()
        asked = self.journal.asks(name, None, size=size)
        self.journal.told(asked, workflow.options(**options).start(size).id)

    def _delayed(self) -> None:
        self._plain(delay=flows.DELAY)

    def _keyed(self) -> None:
        """Asks until it is told, and then once more."""
        workflow, name = self._pick()
        size, key = self._size(), uuid4().hex
        for _ in range(2):
            self._insist(workflow, name, key, {"size": size}, (size,))

    def _insist(self, workflow: Any, name: str, key: str, input: dict[str, Any], args: tuple[Any, ...]) -> bool:
        while not self._stopping.is_set():
            asked = self.journal.asks(name, key, **input)
            try:
                self.journal.told(asked, workflow.options(key=key).start(*args).id)
                return True
            except (DatabaseUnavailable, psycopg.Error):
                self.refused += 1
                self._stopping.wait(0.1)
        return False

    def _in_line(self) -> None:
        """The next ones of a partition that only this client feeds, each when the last one is acknowledged."""
        lane = self._chance.randrange(PARTITIONS)
        partition, workflow = f"{self.number}-{lane}", flows.line.sync
        for _ in range(IN_LINE):
            number = self._next[lane]
            args = {"partition": partition, "number": number}
            told = self._insist(
                workflow.options(partition=partition), "line", f"{partition} {number}", args, (partition, number)
            )
            if not told:
                return
            self._next[lane] = number + 1

    def _at_once(self) -> None:
        """More of a limited queue than it takes at once."""
        workflow = self._chance.choice([flows.narrow, flows.rated])
        for _ in range(AT_ONCE):
            asked = self.journal.asks(workflow.name, None, size=1)
            self.journal.told(asked, workflow.start(1).id)

    def _with_a_booking(self) -> None:
        """In the client's own transaction: the workflow exists if and only if the booking does."""
        booking, size = uuid4().hex, self._size()
        asked = self.journal.asks("order", f"booking {booking}", size=size)
        with psycopg.connect(self.url) as connection:
            handle = flows.order.options(tx=connection, key=f"booking {booking}").start(size)
            connection.execute("insert into chaos.booking values (%s, %s)", [booking, handle.id])
            if self._chance.random() < 0.2:
                connection.rollback()
                return
        self.journal.told(asked, handle.id)

    def _many(self) -> None:
        """A few one-step workflows in one statement."""
        calls = [flows.write.bind("alone", number) for number in range(5)]
        asked = [self.journal.asks("write", None, size=1) for _ in calls]
        for line, handle in zip(asked, flows.durable.client.start_many(calls), strict=True):
            self.journal.told(line, handle.id)
