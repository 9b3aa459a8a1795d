"""Real processes that run the programs: forked from a small parent that has imported everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import ForkServerProcess
from typing import Any

import psycopg

from dbdurable.testing.crash import Faults, Point, cut, freeze, kill
from tests.support.processes import is_frozen
from tests.support.wait import wait_until

ACTIONS = {"kill": kill, "freeze": freeze, "cut": cut}
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Job:
    """What one process does: opens an executor, calls a program under each key, and says what came out."""

    url: str
    program: str
    runs: tuple[str, ...] = ()
    fault: tuple[Point, str] | None = None
    """Where, and which action."""
    mutant: str | None = None
    claims: tuple[str, ...] = ()
    """Runs whose queues it serves besides its own."""
    keyed: bool = True
    patience_s: float = 30.0
    """How long it waits for a result, and for idle queues."""
    stay: bool = False
    """Keep the executor open after the calls, until killed."""
    threads: int = 4
    idle: bool = False
    """Wait until the queues are empty before leaving."""
    environment: dict[str, str] = field(default_factory=dict)
    marked: bool = True
    """Whether others can tell its transactions, and end them once it is declared dead."""


@dataclass
class Report:
    """What a process said before it ended, and how it ended."""

    exitcode: int | None = None
    fired: Point | None = None
    happened: bool = False
    """The fault took place: an answer can only be lost if there is one."""
    points: list[Point] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    error: str | None = None


# -- in the child ---------------------------------------------------------------------------------------------


def act(job: Job, pipe: Pipe) -> None:
    """The process's whole life."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    os.environ.update(
        DBDURABLE_ENV_FILE=os.devnull,
        DBDURABLE_POLL_INTERVAL_S_MAX="0.05",
        DBDURABLE_PARK_AFTER_S="0.02",
        **job.environment,
    )
    from tests.crash import mutants, programs

    durable, program = programs.durable, programs.ALL[job.program]
    durable.configure(url=job.url, migrate=False)
    if job.mutant is not None:
        mutants.MUTANTS[job.mutant].apply()
    if not job.marked:
        mutants.unmark()
    at, action = job.fault or (None, "")

    def at_point(point: Point, connection: Any) -> None:
        pipe.send(("fired", point))
        if action == "lose":
            pipe.send(("lose", connection.info.backend_pid if connection is not None else 0))
            pipe.recv()  # the proxy is armed
        else:
            ACTIONS[action](point, connection)

    faults = Faults(at, at_point)
    faults.install(durable)
    try:
        if program.is_async:
            asyncio.run(_call_async(job, program, pipe))
        else:
            _call(job, program, pipe)
        pipe.send(("points", faults.points))
    except BaseException as error:
        import traceback

        pipe.send(("error", "".join(traceback.format_exception(error))))
        raise


def _call(job: Job, program: Any, pipe: Pipe) -> None:
    with program.durable.executor(queues=["default", *job.runs, *job.claims], threads=job.threads) as executor:
        for run in job.runs:
            try:
                said = repr(_run(job, program, run))
            except program.raises as error:
                said = f"{type(error).__name__}: {error}"
            pipe.send(("result", run, _without_chance(said, run)))
        if job.idle:
            executor.wait_idle(job.patience_s)
            _wait_ended(job)
        if job.stay:
            pipe.send(("staying",))
            signal.pause()


def _wait_ended(job: Job) -> None:
    """Until the children of its runs have ended, too: parked ones are idle."""
    unfinished = """
        select name from dbdurable.workflow
         where input::json ->> 'run' = any(%s) and status not in ('succeeded', 'failed', 'cancelled')
    """
    with psycopg.connect(job.url, autocommit=True) as connection:
        wait_until(lambda: not connection.execute(unfinished, [list(job.runs)]).fetchall(), what="all to end")


def _run(job: Job, program: Any, run: str) -> Any:
    bound = getattr(program.workflow, "sync", program.workflow).options(**_options(job, program, run))
    args = program.arguments(run)
    return bound.start(*args).result(timeout=job.patience_s) if program.queued else bound(*args)


_CHANCE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\d [\d:.]+\+\d\d")


def _without_chance(said: str, run: str) -> str:
    """What came out, without names, ids and times, so that runs can be compared."""
    return _CHANCE.sub("...", said.replace(run, "*"))


def _options(job: Job, program: Any, run: str) -> dict[str, Any]:
    """A queue of its own for each run, so that no victim claims what another one left."""
    return ({"key": run} if job.keyed else {}) | ({"queue": run} if program.queued else {})


async def _call_async(job: Job, program: Any, pipe: Pipe) -> None:
    async with program.durable.executor(queues=["default", *job.runs, *job.claims], threads=job.threads) as executor:
        for run in job.runs:
            bound = getattr(program.workflow, "aio", program.workflow).options(**_options(job, program, run))
            args = program.arguments(run)
            try:
                if program.queued:
                    value = await (await bound.start(*args)).result(timeout=job.patience_s)
                else:
                    value = await bound(*args)
                said = repr(value)
            except program.raises as error:
                said = f"{type(error).__name__}: {error}"
            pipe.send(("result", run, _without_chance(said, run)))
        if job.idle:
            await executor.await_idle(job.patience_s)
            await asyncio.to_thread(_wait_ended, job)
        if job.stay:
            pipe.send(("staying",))
            await asyncio.Event().wait()


# -- in the test ----------------------------------------------------------------------------------------------

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.crash.actors", "tests.crash.programs", "tests.crash.mutants", "pytest"])


class Ended(AssertionError):
    """It has ended without saying what was waited for."""


class Actor:
    """A process under test, as the test sees it."""

    def __init__(self, job: Job, proxy: Any = None) -> None:
        self.job = job
        self.report = Report()
        self._proxy = proxy
        self._doomed: int | None = None
        self._pipe, theirs = _context.Pipe()
        self.process: ForkServerProcess = _context.Process(target=act, args=(job, theirs), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def hear(self, wanted: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        """Takes what it says until it has said `wanted`; without that, until it has ended."""
        while self._pipe.poll(min(timeout_s, self.job.patience_s + 5)):
            try:
                word, *rest = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                if wanted is not None:
                    raise Ended(f"{self.job} ended without saying {wanted}: {self.report}") from None
                return
            self._note(word, rest)
            if word == wanted:
                return
        raise AssertionError(f"{self.job} said nothing for {timeout_s:g} s: {self.report}")

    def _note(self, word: str, rest: list[Any]) -> None:
        match word, rest:
            case "result", [run, said]:
                self.report.results[run] = said
            case "points", [points]:
                self.report.points = points
            case "fired", [point]:
                self.report.fired, self.report.happened = point, True
            case "error", [text]:
                self.report.error = text
            case "lose", [backend_pid]:
                self._doomed = backend_pid
                self._proxy.lose_next_answer(backend_pid)
                self._pipe.send("armed")

    def comes_to_its_fault(self) -> bool:
        """Waits until it has; False: it has ended without."""
        with contextlib.suppress(Ended):
            self.hear("fired")
        return self.report.fired is not None

    def end(self, timeout_s: float = TIMEOUT_S) -> Report:
        """Waits for its end; how it ended is in the report."""
        self.hear(timeout_s=timeout_s)
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"{self.job} does not end"
        self.report.exitcode = self.process.exitcode
        if self._doomed is not None:
            self.report.happened = self._proxy.has_lost(self._doomed)
        return self.report

    def kill(self) -> None:
        """SIGKILL from outside."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(TIMEOUT_S)

    def freeze(self) -> None:
        """SIGSTOP from outside."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_frozen()

    def wait_frozen(self) -> None:
        """Until the kernel says that it is stopped."""
        wait_until(lambda: is_frozen(self.pid), what=f"{self.job} to be frozen")

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def acting(job: Job, proxy: Any = None) -> Iterator[Actor]:
    """An actor that never outlives its test."""
    actor = Actor(job, proxy)
    try:
        yield actor
    finally:
        if actor.process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(actor.pid, signal.SIGKILL)
        actor.process.join(TIMEOUT_S)


def run(job: Job, proxy: Any = None) -> Report:
    """One process from its beginning to its end."""
    with acting(job, proxy) as actor:
        return actor.end()


TRIES = 5


@dataclass(frozen=True)
class Injected:
    """A run in which its fault has happened."""

    at: Point
    run: str
    report: Report


def inject(job: Job, points: Sequence[Point], action: str, at_once: int = 2, proxy: Any = None) -> list[Injected]:
    """One run of `job` for each point, with the fault there.

    A workflow that waits may do so in place in one run and park in the next one. A run that did not come to
    its point is void and is done again, under another name; void `TRIES` times is a failure, unless runs without
    a fault do not always come to that point either.
    """
    done: list[Injected] = []
    left = {f"run-{n:03}": at for n, at in enumerate(points)}
    for _ in range(TRIES):
        jobs = [replace(job, runs=(name,), fault=(at, action)) for name, at in left.items()]
        tried = [Injected(*it) for it in zip(left.values(), left, run_all(jobs, at_once, proxy), strict=True)]
        done += [it for it in tried if it.report.happened]
        left = {f"{it.run}-again": it.at for it in tried if not it.report.happened}
    if left:  # of several workflows at once, which of them parks once more is left to chance: a point may be rare
        plain = [replace(job, runs=(f"plain-{n}",), fault=None) for n in range(TRIES)]
        sure = set.intersection(*(set(report.points) for report in run_all(plain, at_once, proxy)))
        left = {name: at for name, at in left.items() if at in sure}
    assert not left, f"void: {[str(at) for at in left.values()]} not reached in {TRIES} runs each"
    assert 2 * len(done) >= len(points), f"void: only {len(done)} of {len(points)} points were reached"
    return done


def run_all(jobs: Sequence[Job], at_once: int = 2, proxy: Any = None) -> list[Report]:
    """Many, a few at a time."""
    reports: list[Report] = []
    with contextlib.ExitStack() as stack:
        waiting: list[Actor] = []
        for job in jobs:
            if len(waiting) == at_once:
                reports.append(waiting.pop(0).end())
            waiting.append(stack.enter_context(acting(job, proxy)))
        reports += [actor.end() for actor in waiting]
    return reports
