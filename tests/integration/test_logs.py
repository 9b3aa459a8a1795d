"""A body's log lines are written once, however often it is replayed; steps log whenever they run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest

from dbdurable import Durable, WorkflowFilter, get_logger


class Kept(logging.Handler):
    """Keeps what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A handler of one logger, which has no other."""
    handler, logger = Kept(), logging.getLogger("test.flows")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.filters.clear()


@pytest.mark.parametrize("by", ["logger", "handler"])
def test_lines_of_a_body_are_written_once(durable: Durable, kept: Kept, by: str) -> None:
    if by == "logger":
        logger = get_logger("test.flows")
        assert get_logger("test.flows") is logger
        assert len(logger.filters) == 1
    else:
        logger = logging.getLogger("test.flows")
        kept.addFilter(WorkflowFilter())
    attempts = []

    @durable.step
    def charge(number: int) -> None:
        logger.info("charging %d", number)

    @durable.workflow
    def checkout() -> None:
        attempts.append(1)
        logger.info("begins")
        charge(1)
        logger.info("half")
        charge(2)
        if len(attempts) < 3:
            raise KeyboardInterrupt
        logger.info("ends")

    with durable.executor(threads=1):
        handle = checkout.start()
        handle.result(timeout=30)
    assert len(attempts) == 3
    logger.info("outside")
    assert kept.lines == ["begins", "charging 1", "half", "charging 2", "ends", "outside"]
    places = [(r.workflow_id, r.workflow_name, r.step_path) for r in kept.records]  # type: ignore[attr-defined]
    id = str(handle.id)
    body = (id, "checkout", "")
    assert places == [body, (id, "checkout", "1"), body, (id, "checkout", "2"), body, ("", "", "")]


def test_each_branch_by_itself(durable: Durable, kept: Kept) -> None:
    logger, attempts = get_logger("test.flows"), []

    @durable.step
    async def charge(number: int) -> int:
        return number

    @durable.workflow
    async def checkout() -> None:
        attempts.append(1)

        async def branch(number: int) -> None:
            logger.info("branch %d begins", number)
            await charge(number)
            logger.info("branch %d goes on", number)
            if number == 2 and len(attempts) == 1:
                raise asyncio.CancelledError
            await charge(number)
            logger.info("branch %d ends", number)

        await asyncio.gather(branch(1))
        await asyncio.gather(branch(2))

    with durable.executor():
        checkout.sync.start().result(timeout=30)
    assert len(attempts) == 2
    written = [f"branch {n} {what}" for n in (1, 2) for what in ("begins", "goes on", "ends")]
    # What a branch logged behind its last record, a replay cannot know of.
    assert kept.lines == [*written[:5], "branch 1 ends", "branch 2 goes on", "branch 2 ends"]


def test_a_step_started_alone_has_its_path(durable: Durable, kept: Kept) -> None:
    logger = get_logger("test.flows")

    @durable.step
    def alone() -> None:
        logger.info("alone")

    with durable.executor():
        id = alone.options(id=uuid4()).start().id
        durable.client.handle(id).result(timeout=30)
    (record,) = kept.records
    assert (record.workflow_id, record.step_path) == (str(id), "1")  # type: ignore[attr-defined]
