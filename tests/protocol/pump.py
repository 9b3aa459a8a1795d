"""Protocols driven by hand: a script says which effects they must ask for, and what each is answered.

    pump(flow, begins(), runs(), commits(output="3"))

An entry checks one effect and answers it. An answer that is an exception is thrown into the flow, as a
driver does. `pump` returns what the flow returns and raises what it raises; an effect that the script does
not foresee, or an entry that the flow never asks for, fails the test and names the place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.failure import encode_failure
from dbdurable._core.journal import Journal, Record
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Append, Appended, Begin, Call, Commit, Effect, Flow, Pause, Query, Rollback
from dbdurable._protocol.frame import WorkflowFrame
from dbdurable._protocol.lease import Lease
from dbdurable._protocol.start import Start, unkeyed_start
from dbdurable._sql.statement import Statement
from dbdurable._sql.step import RECORD_FENCED, RECORD_IN_TRANSACTION
from dbdurable.types import Retry

ME, OTHER = UUID(int=0xE1), UUID(int=0xE2)
ID = UUID(int=0xF1)
TTL_S = 15.0

RUN = object()
"""The answer of a `Call` that is really made."""


@dataclass(frozen=True)
class _End:
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Entry:
    """One effect that a flow must ask for, and its answer."""

    kind: type
    what: str
    check: Callable[[Any], None]
    answer: Any = None
    before: Callable[[], object] | None = None

    def after(self, event: Callable[[], object]) -> Entry:
        """The same, with something that happens while the effect is performed: a cancel, the lease's end."""
        return replace(self, before=event)


def pump(flow: Flow[Any], *script: Entry) -> Any:
    """Drives `flow` through the whole script to its end."""
    return _finish(flow, len(script), _drive(flow, script))


def prefix(flow: Flow[Any], script: Iterable[Entry]) -> None:
    """Drives `flow` to where it waits for the answer of the last entry's effect."""
    *answered, last = script
    _check(last, len(answered), _drive(flow, answered))


def _drive(flow: Flow[Any], script: Iterable[Entry]) -> Effect | _End:
    asked = _step(lambda: next(flow))
    for position, entry in enumerate(script):
        asked = _answer(flow, entry, position, asked)
    return asked


def _step(advance: Callable[[], Effect]) -> Effect | _End:
    try:
        return advance()
    except StopIteration as stop:
        return _End(stop.value)
    except BaseException as error:
        return _End(error=error)


def _check(entry: Entry, position: int, asked: Effect | _End) -> None:
    if isinstance(asked, _End):
        raise AssertionError(f"entry {position}, {entry.what}: the flow has ended: {asked}") from asked.error
    assert isinstance(asked, entry.kind), f"entry {position} expects {entry.what}, the flow asks for {asked}"
    try:
        entry.check(asked)
    except AssertionError as error:
        raise AssertionError(f"entry {position}, {entry.what}: {error}; the flow asks for {asked}") from None


def _answer(flow: Flow[Any], entry: Entry, position: int, asked: Effect | _End) -> Effect | _End:
    _check(entry, position, asked)
    if entry.before is not None:
        entry.before()
    answer = entry.answer
    if answer is RUN:
        assert isinstance(asked, Call)
        made = _step(asked.function)
        answer = made.error if isinstance(made, _End) else made
    if isinstance(answer, BaseException):
        return _step(lambda: flow.throw(answer))
    return _step(lambda: flow.send(answer))


def _finish(flow: Flow[Any], entries: int, asked: Effect | _End) -> Any:
    if not isinstance(asked, _End):
        flow.close()
        raise AssertionError(f"after {entries} entries the flow asks for {asked}")
    if asked.error is not None:
        raise asked.error
    return asked.value


def close_everywhere(make: Callable[[], Flow[Any]], script: Iterable[Entry]) -> int:
    """Closes a fresh flow at every effect of the script: none may refuse, nor ask for more."""
    entries = list(script)
    unstarted = make()
    unstarted.close()
    for length in range(1, len(entries) + 1):
        flow = make()
        prefix(flow, entries[:length])
        flow.close()  # RuntimeError, if it yields
        assert next(flow, "ended") == "ended"
    return len(entries)


# ---- entries -----------------------------------------------------------------------------------------------


def _same(name: str, found: object, wanted: object) -> None:
    assert wanted is ... or found == wanted, f"{name} is {found!r}, not {wanted!r}"


def queries(statement: Statement, answer: Any = (), has: dict[int, Any] | None = None) -> Entry:
    """A statement in a transaction of its own. `has`: its parameters, by number as in the text ($1 is 1)."""

    def check(effect: Query) -> None:
        _same("statement", effect.statement, statement)
        for number, wanted in (has or {}).items():
            _same(f"${number}", effect.params[number - 1], wanted)

    return Entry(Query, f"query {statement.name}", check, answer if isinstance(answer, BaseException) else list(answer))


def begins(answer: Any = "handle") -> Entry:
    return Entry(Begin, "begin", lambda _: None, answer)


def runs(timeout_s: Any = ...) -> Entry:
    """The user's function is called, really."""
    return calls(RUN, timeout_s)


def calls(answer: Any = None, timeout_s: Any = ...) -> Entry:
    """The user's function is called, and this comes of it."""
    return Entry(Call, "call", lambda effect: _same("timeout_s", effect.timeout_s, timeout_s), answer)


def commits(
    answer: Any = None,
    *,
    output: Any = ...,
    attempts: Any = ...,
    epoch: Any = ...,
    seq: Any = ...,
    carries: tuple[str, ...] = (),
) -> Entry:
    """The record and COMMIT. `carries`: names of the statements that ride in front of the record."""

    def check(effect: Commit) -> None:
        *before, query = effect.records
        _same("statements before", [each.statement.name for each in before], list(carries))
        _same("statement", query.statement, RECORD_IN_TRANSACTION)
        for name, number, wanted in (("seq", 3, seq), ("attempts", 6, attempts), ("epoch", 8, epoch)):
            _same(name, query.params[number - 1], wanted)
        _same("executor", query.params[6], ME)
        _same("output", query.params[8], output)

    return Entry(Commit, "commit", check, answer)


def rolls_back(alive: bool = True) -> Entry:
    return Entry(Rollback, "rollback", lambda _: None, alive)


def appends(
    mine: bool = True,
    wrote: bool = True,
    *,
    fails: BaseException | None = None,
    output: Any = ...,
    error: Any = ...,
    attempts: Any = ...,
    epoch: Any = ...,
) -> Entry:
    """The record of an outside step. `error` is the recorded type's name, or None."""

    def check(effect: Append) -> None:
        record = effect.record
        _same("executor", effect.executor_id, ME)
        _same("output", record.output, output)
        _same("error", record.error and json.loads(record.error)["type"], error)
        _same("attempts", record.attempts, attempts)
        _same("epoch", record.epoch, epoch)

    return Entry(Append, "append", check, fails or Appended(mine, wrote))


def pauses(delay_s: Any = ..., at_most_s: float = 1e9) -> Entry:
    def check(effect: Pause) -> None:
        _same("delay_s", effect.delay_s, delay_s)
        assert effect.delay_s <= at_most_s, f"{effect.delay_s} s is longer than {at_most_s} s"

    return Entry(Pause, "pause", check)


def records_failure(
    answer: Any = (), *, error: Any = ..., attempts: Any = ..., epoch: Any = ..., seq: Any = ...
) -> Entry:
    """The error of a transaction, fenced, in a transaction of its own."""
    answer = answer if isinstance(answer, BaseException) else [(5,)]
    entry = queries(RECORD_FENCED, answer, {3: seq, 6: attempts, 7: ME, 8: epoch, 9: None})

    def check(effect: Query) -> None:
        entry.check(effect)
        _same("error", json.loads(effect.params[9])["type"], error)

    return replace(entry, check=check)


# ---- what flows need ---------------------------------------------------------------------------------------


@dataclass
class World:
    """A workflow that runs here, with a clock that only tests move."""

    records: list[Record] = field(default_factory=list)
    epoch: int = 3
    interrupt: str | None = None
    now: float = 1000.0
    park_after_s: float = 100.0

    def __post_init__(self) -> None:
        self.lease = Lease(ME, TTL_S, lambda: self.now)
        self.frame = WorkflowFrame(
            id=ID,
            name="checkout",
            key=None,
            epoch=self.epoch,
            attempt=1,
            lease=self.lease,
            journal=Journal(self.records),
            is_async=False,
            interrupt=self.interrupt,
            park_after_s=self.park_after_s,
        )

    def defer_start(self) -> None:
        """What a direct call without a key does: its start rides the first commit."""
        self.frame.pending = unkeyed_start(Start(ID, "checkout", "{}"), ME, 1, 0)

    def lose_lease(self) -> None:
        self.now += TTL_S

    def close(self) -> None:
        self.lease.closing = True

    def hear_of_cancel(self, reason: str = "changed my mind") -> None:
        """What the heartbeat does when its answer brings a cancel: the epoch stays that of what is open."""
        self.frame.interrupt = reason

    def call(
        self,
        run: Callable[..., Any] = lambda *_: None,
        *,
        kind: str = "step",
        name: str = "charge",
        retry: Retry | None = None,
        timeout_s: float | None = None,
        codec: ValueCodec | None = None,
    ) -> DurableCall:
        """The next call of the body."""
        return DurableCall(
            frame=self.frame,
            line=self.frame.line,
            path=self.frame.line.take(),
            kind=kind,
            name=name,
            run=run,
            codec=codec or ValueCodec(),
            retry=retry or Retry(1),
            timeout_s=timeout_s,
        )


class Body:
    """A user's function that notes how it was called; each outcome is returned or raised in turn."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def recorded(
    output: str | None = None,
    *,
    path: str = "1",
    kind: str = "step",
    name: str = "charge",
    seq: int = 1,
    error: BaseException | str | None = None,
) -> Record:
    text = encode_failure(error) if isinstance(error, BaseException) else error
    return Record(path, seq, kind, name, output, text)


def cancelled_text(reason: str) -> str:
    """How a cancel stands in the journal."""
    return json.dumps({"type": "Cancelled", "module": "dbdurable.errors", "message": reason})


def cancelled_here(epoch: int = 4) -> list[tuple[Any, ...]]:
    """The ownership of a workflow that was cancelled under us."""
    return [("running", ME, epoch, "changed my mind")]


TAKEN_OVER = [("running", OTHER, 5, None)]
PAUSED = [("paused", None, 4, None)]
ENDED = [("succeeded", OTHER, 5, None)]
GONE: list[tuple[Any, ...]] = []
