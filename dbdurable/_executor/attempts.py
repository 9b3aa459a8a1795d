"""The attempts that run in this process: their frames, their lease batches, and how each body is run."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dbdurable._executor.branches import end_branches
from dbdurable._executor.calls import run_definition
from dbdurable._executor.definition import Definition
from dbdurable._executor.runs import TaskRun, ThreadRun
from dbdurable._executor.undo import aroll_back, roll_back, run_alone
from dbdurable._io.inflight import InFlight
from dbdurable._io.watch import Watch
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame, branch, current
from dbdurable._protocol.workflow import Outcome, attempt

if TYPE_CHECKING:
    from dbdurable._executor.executor import Executor

CLAIM_MAX = 64
"""Workflows of one claim."""

ENDING_MAX = 128
"""So many attempts of `def` bodies may wait for their outcomes to be written, or as many as there are threads; more of
them take slots."""


class Attempts:
    """What runs here now. Thread-safe."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._frames: dict[UUID, WorkflowFrame] = {}
        # By frame, not by id: a workflow that was handed back may be claimed again before its last frame is gone.
        self._batch_of: dict[WorkflowFrame, int] = {}
        self._left: dict[int, int] = {}
        self._done: list[int] = []
        self._ended: list[UUID] = []
        self._children: list[UUID] = []
        self._doubts: set[tuple[UUID, int]] = set()
        self._beginning: list[tuple[Definition, WorkflowFrame, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._batch = 0
        self._running = {True: 0, False: 0}  # by "takes a slot of async tasks"
        self._running_of: Counter[str] = Counter()  # by queue
        self._ending = 0
        """Attempts that have given their slot back, and whose outcome is on its way to the database."""

    def next_batch(self) -> int:
        """A number for a lease row that is about to be written."""
        return self.next_batches(1)

    def next_batches(self, many: int) -> int:
        """The first of so many numbers in a row."""
        with self._lock:
            first = self._batch + 1
            self._batch += many
            return first

    def free(self, is_async: bool) -> int:
        """How many more workflows of that colour may be claimed.

        Where outcomes are not written as fast as bodies run, what waits to be written counts, too.
        """
        if is_async:
            return self._executor.tasks - self._running[True]
        threads = self._executor.threads
        with self._lock:
            return threads - self._running[False] - max(0, self._ending - max(threads, ENDING_MAX))

    def largest(self, is_async: bool) -> int:
        """How many workflows of that colour one claim takes at the most."""
        return min(self._executor.tasks if is_async else self._executor.threads, CLAIM_MAX)

    def running_of(self, queue: str) -> int:
        """How many claimed workflows of a queue run here."""
        with self._lock:
            return self._running_of[queue]

    def add(self, frame: WorkflowFrame, batch: int, claimed: bool) -> None:
        """An attempt begins; direct calls take no slot."""
        frame.park_after_s = self._executor.runtime.settings.park_after_s
        frame.in_flight = InFlight()
        frame.tell = self._executor.runtime.notifier.requeued
        with self._lock:
            self._frames[frame.id] = frame
            self._batch_of[frame] = batch
            self._left[batch] = self._left.get(batch, 0) + 1
            if claimed:
                self._running[frame.is_async] += 1
                self._running_of[frame.queue or ""] += 1

    def give_slot_back(self, frame: WorkflowFrame) -> None:
        """No code of the user's runs any more, whatever the database takes for what is left."""
        with self._lock:
            frame.gave_slot_back = True
            self._running[frame.is_async] -= 1
            self._running_of[frame.queue or ""] -= 1
            self._ending += 1

    def remove(self, frame: WorkflowFrame, claimed: bool, ended: bool) -> None:
        """An attempt is gone. `ended`: its outcome is in the database.

        If not, this process only believes that it is over (its lease looked lost, it failed itself, or it gave the
        workflow away): the lease row stays until a beat has seen that the database thinks so too, or has handed
        the workflow back.
        """
        with self._lock:
            if self._frames.get(frame.id) is frame:
                del self._frames[frame.id]
            batch = self._batch_of.pop(frame)
            if ended:
                self._ended.append(frame.id)
                if frame.parent_id is not None:
                    self._children.append(frame.id)
                self._count_out(batch)
            else:
                self._doubts.add((frame.id, batch))
            if frame.gave_slot_back:
                self._ending -= 1
            elif claimed:
                self._running[frame.is_async] -= 1
                self._running_of[frame.queue or ""] -= 1
            if not self._batch_of:
                self._empty.notify_all()
        if ended:
            self._executor.runtime.waiters.wake(frame.id)
        for wait in frame.waits.values():
            if wait.until is not None:
                self._executor.control.timers.expect(wait.until)
        if frame.woken:
            self._executor.hint()
        frame.forget()

    def doubts(self) -> list[tuple[UUID, int]]:
        """Attempts that are gone from here, and of which the database may think otherwise: workflow and lease batch."""
        with self._lock:
            return list(self._doubts)

    def settle(self, doubts: list[tuple[UUID, int]], held: set[UUID]) -> None:
        """Of those, the ones that the database does not say to be held here are over."""
        with self._lock:
            for doubt in doubts:
                id, batch = doubt
                if id not in held:
                    self._doubts.remove(doubt)
                    self._count_out(batch)

    def _count_out(self, batch: int) -> None:
        """One workflow less of a lease row; the last one lets it go."""
        self._left[batch] -= 1
        if self._left[batch] == 0:
            del self._left[batch]
            self._done.append(batch)

    def take_done(self) -> tuple[list[int], list[UUID]]:
        """Lease rows all of whose workflows have ended here; and the workflows that have ended since the last time."""
        with self._lock:
            done, self._done, ended, self._ended = self._done, [], self._ended, []
            return done, ended

    def take_children(self) -> list[UUID]:
        """Children that have ended since the last time: their parents may wait for them. The beat tells them, too."""
        with self._lock:
            children, self._children = self._children, []
            return children

    def put_back(self, done: list[int], ended: list[UUID]) -> None:
        """What was not confirmed."""
        with self._lock:
            self._done.extend(done)
            self._ended.extend(ended)

    def find(self, id: UUID) -> WorkflowFrame | None:
        """The attempt of a workflow in this process."""
        with self._lock:
            return self._frames.get(id)

    def names(self) -> list[str]:
        """What runs, for messages."""
        with self._lock:
            return [f"{frame.name} {frame.id}" for frame in self._batch_of]

    def wait_empty(self, timeout_s: float) -> bool:
        """Waits until nothing runs here; False when time ran out."""
        with self._lock:
            return self._empty.wait_for(lambda: not self._batch_of, timeout_s)

    # -- running a claimed workflow --------------------------------------------------------------------

    def launch(self, definition: Definition, frame: WorkflowFrame, batch: int, input: str) -> None:
        """Begins a claimed workflow in its own colour, on its own thread or task."""
        self.add(frame, batch, claimed=True)
        executor = self._executor
        if definition.is_async:
            self._begin_soon(definition, frame, input)
        else:
            executor.body_threads.begin(ThreadRun(executor, frame, self.flow(definition, frame, input)).run)

    def _begin_soon(self, definition: Definition, frame: WorkflowFrame, input: str) -> None:
        """On the loop. It is woken once for all of a claim: that costs more than a workflow's share of the claim."""
        loop = self._executor.loop
        with self._lock:
            self._beginning.append((definition, frame, input))
            told = len(self._beginning) > 1
        if told and not loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._begin_async)
        except RuntimeError:  # the loop is closed: the heartbeat hands back what is unknown here
            for _, left, _ in self._take_beginning():
                self.remove(left, claimed=True, ended=False)

    def _take_beginning(self) -> list[tuple[Definition, WorkflowFrame, str]]:
        with self._lock:
            begin, self._beginning = self._beginning, []
            return begin

    def _begin_async(self) -> None:
        for definition, frame, input in self._take_beginning():
            # A task and no more: what would carry its result to another thread is a twelfth of a workflow's memory.
            run = TaskRun(self._executor, frame, self.flow(definition, frame, input))
            self.keep(self._executor.loop.create_task(run.run()))

    def keep(self, task: asyncio.Task[None]) -> None:
        """Until it has ended: the loop itself holds its tasks only weakly."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def flow(self, definition: Definition, frame: WorkflowFrame, input: str) -> Flow[Outcome]:
        """The protocol of one attempt, with the body in its frame."""
        return attempt(
            frame, self.body(definition, frame, input), definition.result, self.version, self.undo(definition, frame)
        )

    @property
    def version(self) -> str:
        """The code's version, as the settings name it."""
        return self._executor.runtime.settings.code_version

    def body(self, definition: Definition, frame: WorkflowFrame, input: str) -> Callable[[], Any]:
        """The user's function, called with the recorded arguments inside the frame."""
        around = self._executor.runtime.configuration.around or nullcontext

        def invoke() -> Any:
            args, kwargs = definition.arguments.decode(input)
            if definition.instance is not None:
                args = (definition.instance, *args)
            if definition.compensate is not None:
                return run_alone(self._executor.runtime, definition, frame, args, kwargs)
            return run_definition(self._executor.runtime, definition, frame, args, kwargs)

        if definition.is_async:
            return lambda: _ain_frame(frame, invoke, around)
        return lambda: _in_frame(frame, invoke, around)

    def undo(self, definition: Definition, frame: WorkflowFrame) -> Callable[[BaseException], Any]:
        """How the compensations that a body has left are run, in its frame."""
        around = self._executor.runtime.configuration.around or nullcontext
        if definition.is_async:
            return lambda error: _ain_frame(frame, lambda: aroll_back(frame, frame.undos, error), around)
        return lambda error: _in_frame(frame, lambda: roll_back(frame, frame.undos, error), around)


def _in_frame(frame: WorkflowFrame, invoke: Callable[[], Any], around: Callable[[], Any]) -> Any:
    tokens = current.set(frame), branch.set(None)
    frame.line.thread = threading.get_ident()
    try:
        with around():
            return invoke()
    finally:
        if frame.turns is not None:
            frame.turns.close()
        branch.reset(tokens[1])
        current.reset(tokens[0])


async def _ain_frame(
    frame: WorkflowFrame, invoke: Callable[[], Any], around: Callable[[], AbstractContextManager[object]]
) -> Any:
    tokens = current.set(frame), branch.set(None)
    frame.root = asyncio.current_task()
    watch = frame.watch = Watch(frame)
    try:
        with around():
            value = await invoke()
    except GeneratorExit:
        raise  # collected after its loop has ended: nothing can be awaited
    except BaseException as error:
        by_others = watch.was_cancelled_by_others()
        await end_branches(frame)
        if isinstance(error, asyncio.CancelledError) and not by_others and frame.unwinding is not None:
            raise frame.unwinding from None
        raise
    else:
        watch.was_cancelled_by_others()  # a body that swallows the end of its attempt
        await end_branches(frame)
        return value
    finally:
        if frame.root_cancelled:
            frame.root.uncancel()
        with suppress(ValueError):  # closed by the garbage collector, after its loop has ended
            branch.reset(tokens[1])
            current.reset(tokens[0])
