"""Group commit: whoever finds no flush under way leads one, with everything that has gathered; the others wait.

There is no timer: an idle system waits for nothing. A leader writes the batch that holds its own item, then hands
over to the first that waits, so that nobody works for others for long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Final, NamedTuple, TypeVar

from dbdurable._core.control import ConnectionLost
from dbdurable._io.threads import DaemonThreads
from dbdurable._protocol.effects import Query, Row
from dbdurable._protocol.ride import BATCH_CHARS_MAX, BATCH_MAX, Answer, weight

logger = logging.getLogger("dbdurable")

FLUSHES_MAX: Final = 2
"""Flushes under way at once: while the server commits one, the next is made ready."""

THREADS_MAX: Final = 64
"""Threads that lead for those who do not wait themselves. More than two are needed only beside rows that are held."""

PATIENCE_S: Final = 0.1
"""Who has waited so long for a flush to begin begins one more: one that is under way waits for a row that a
stranger holds, it seems, and his open transaction is to keep nobody else."""


Answered = Callable[[Answer], None]
"""Gets the rows of an item, what it raised, or None: it has to be asked alone."""


class _Rider:
    """One item, on its way: a thread waits for its answer, or `answered` gets it."""

    __slots__ = ("answer", "answered", "batch", "gate", "item")

    def __init__(self, item: Query, answered: Answered | None = None) -> None:
        self.item = item
        self.answer: Answer = None
        self.answered = answered
        self.batch: list[_Rider] = []
        """What its thread has to write, itself included, once it is its turn to lead."""
        if answered is None:
            self.gate = threading.Lock()  # held until there is an answer or a batch to lead
            self.gate.acquire()

    def tell(self) -> None:
        """The answer is there."""
        if self.answered is None:
            self.gate.release()
        else:
            _tell(self.answered, self.answer)


class Riders:
    """The items of threads. `flush` writes a batch and answers each item."""

    def __init__(self, flush: Callable[[Sequence[Query]], list[Answer]]) -> None:
        self._flush = flush
        self._lock = threading.Lock()
        self._waiting: deque[_Rider] = deque()
        self._flushes = 0
        self._taken = 0
        """Batches that flushes have taken along."""
        self._watched = False
        self._threads = DaemonThreads(THREADS_MAX, "dbdurable-commit")

    def ride(self, item: Query) -> list[Row] | None:
        """The rows of the item's statement, once they are committed, or raises what it raised.

        None: it has to be asked alone.
        """
        rider = _Rider(item)
        with self._lock:
            self._waiting.append(rider)
            if self._flushes < FLUSHES_MAX:
                self._flushes += 1
                self._hand_over()
        try:
            while not rider.gate.acquire(timeout=PATIENCE_S):
                self._one_more(rider)
        except BaseException:  # KeyboardInterrupt: nobody may be left to wait for this thread
            with self._lock:
                if rider in self._waiting:
                    self._waiting.remove(rider)
            if rider.batch:
                self._lead(rider.batch)
            raise
        if rider.batch:
            self._lead(rider.batch)
        answer = rider.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def ride_on(self, item: Query, answered: Answered) -> None:
        """The same without waiting: `answered` gets the answer, on some thread."""
        with self._lock:
            self._waiting.append(_Rider(item, answered))
            if self._flushes < FLUSHES_MAX:
                self._flushes += 1
                self._hand_over()
            elif not self._watched:
                self._watched = True
                self._threads.begin(partial(self._watch, self._taken))

    def _watch(self, taken: int) -> None:
        """The patience of those for whom no thread waits."""
        while True:
            time.sleep(PATIENCE_S)
            with self._lock:
                if not self._waiting:
                    self._watched = False
                    return
                if self._taken == taken:
                    self._flushes += 1
                    self._hand_over()
                taken = self._taken

    def _one_more(self, rider: _Rider) -> None:
        """Begins another flush if nobody has taken this rider along yet."""
        with self._lock:
            if rider in self._waiting:
                self._flushes += 1
                self._hand_over()

    def _lead(self, batch: list[_Rider]) -> None:
        answers: list[Answer] = []
        try:
            answers = self._flush([rider.item for rider in batch])
        finally:
            # Interrupted (KeyboardInterrupt): whether it was committed is not known; each sends its item again.
            for number, rider in enumerate(batch):
                rider.answer = answers[number] if answers else _lost()
            with self._lock:
                self._hand_over()
            led = batch[0].answered is None  # by the first of them: it has its answer
            for rider in batch[led:]:
                rider.tell()
            batch.clear()  # the leader's own list, with itself in it

    def _hand_over(self) -> None:
        """The first that waits writes what has gathered; or there is one flush less."""
        if not self._waiting:
            self._flushes -= 1
            return
        leader, batch = self._waiting[0], _next_batch(self._waiting)
        self._taken += 1
        if leader.answered is None:
            leader.batch = batch
            leader.gate.release()
        else:
            self._threads.begin(partial(self._lead, batch))


class _AsyncRider(NamedTuple):
    """The same of a task."""

    item: Query
    answered: Answered


R = TypeVar("R", _Rider, _AsyncRider)


class AsyncRiders:
    """The same for the tasks of one loop. Flushes are tasks of their own: no caller's cancel reaches them."""

    def __init__(self, flush: Callable[[Sequence[Query]], Awaitable[list[Answer]]]) -> None:
        self._flush = flush
        self._waiting: deque[_AsyncRider] = deque()
        self._flushes: set[asyncio.Task[None]] = set()
        self._taken = 0
        """Batches that flushes have taken along."""
        self._timer: asyncio.TimerHandle | None = None

    async def ride(self, item: Query) -> list[Row] | None:
        """The same as `Riders.ride`."""
        future: asyncio.Future[list[Row] | None] = asyncio.get_running_loop().create_future()
        self.ride_on(item, partial(_settle, future))
        return await future

    def ride_on(self, item: Query, answered: Answered) -> None:
        """The same as `Riders.ride_on`, on the loop."""
        loop = asyncio.get_running_loop()
        self._waiting.append(_AsyncRider(item, answered))
        if len(self._flushes) < FLUSHES_MAX:
            self._begin(loop)
        else:
            self._be_patient(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # In a context of its own: it is no branch of the workflow that happens to begin it.
        task = loop.create_task(self._lead(), context=Context())
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    def _be_patient(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE_S, self._one_more, loop, self._taken, context=Context())

    def _one_more(self, loop: asyncio.AbstractEventLoop, taken: int) -> None:
        """Begins another flush if nobody has been taken along since."""
        self._timer = None
        if self._waiting:
            if self._taken == taken:
                self._begin(loop)
            self._be_patient(loop)

    async def _lead(self) -> None:
        while self._waiting:
            self._taken += 1
            batch = _next_batch(self._waiting)
            answers: list[Answer] = []
            try:
                answers = await self._flush([rider.item for rider in batch])
            finally:
                for number, rider in enumerate(batch):
                    _tell(rider.answered, answers[number] if answers else _lost())


def _next_batch(waiting: deque[R]) -> list[R]:
    """Who rides together next, from the front; one at least."""
    batch = [waiting.popleft()]
    chars = weight(batch[0].item)
    while waiting and len(batch) < BATCH_MAX:
        chars += weight(waiting[0].item)
        if chars > BATCH_CHARS_MAX:
            break
        batch.append(waiting.popleft())
    return batch


def _lost() -> ConnectionLost:
    return ConnectionLost("the commit was interrupted")


def _tell(answered: Answered, answer: Answer) -> None:
    try:
        answered(answer)
    except Exception:  # its neighbours are still to be told
        logger.exception("what came behind a shared commit failed")


def _settle(future: asyncio.Future[list[Row] | None], answer: Answer) -> None:
    if future.done():  # whoever asked was cancelled
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
