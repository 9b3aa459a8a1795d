"""What a workflow's body waits for and says to others: sleep, messages, events, promises, progress.

Each comes twice under one name: here for `def` code, in `dbdurable.aio` for `async def` code (`asleep` and so on
below). A call takes its place in the workflow when it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Generic, TypeVar, cast, overload
from uuid import UUID

from dbdurable._core import limits
from dbdurable._core.codec import UNTYPED, ValueCodec
from dbdurable._core.names import check_name
from dbdurable._core.plain import plain_json, receiver
from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._core.whole import whole_number
from dbdurable._executor.exchange import NOTHING, heard
from dbdurable._executor.runtime import runtime_of
from dbdurable._executor.starts import workflow_id
from dbdurable._executor.talk import adrive, drive, note_event, note_progress, place, speaker
from dbdurable._io.borrow import arun_in, run_in
from dbdurable._protocol import message, wait
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.frame import StepFrame
from dbdurable._sql.message import PUT_EVENT
from dbdurable.errors import BadArgument
from dbdurable.handle import AsyncHandle, Handle
from dbdurable.types import Duration

D = TypeVar("D")
T = TypeVar("T")

__all__ = [
    "AsyncPromise",
    "Promise",
    "apromise",
    "arecv",
    "asend",
    "aset_event",
    "asleep",
    "asleep_until",
    "progress",
    "promise",
    "recv",
    "send",
    "set_event",
    "sleep",
    "sleep_until",
]


def sleep(duration: Duration, /) -> None:
    """Waits for `duration` (a timedelta or seconds) without a thread, connection or memory, however long.

    It ends when it would have ended without a crash. Up to a second (`DBDURABLE_PARK_AFTER_S`) it stays in memory.

    Raises:
        BadArgument: Negative, NaN or longer than a hundred years.
        NotInWorkflow: It was called outside of a workflow's body.

    Example:
        >>> sleep(timedelta(days=30))               # doctest: +SKIP
    """
    this_s = duration_s(duration, "the duration of sleep()")
    this = place("sleep", "sleep", "sleep")
    drive(this, wait.sleep(this, this_s), "sleep")


def asleep(duration: Duration, /) -> Awaitable[None]:
    """The same for `async def` code; `dbdurable.aio.sleep`."""
    this_s = duration_s(duration, "the duration of aio.sleep()")
    this = place("aio.sleep", "sleep", "sleep")
    return adrive(this, wait.sleep(this, this_s), "sleep")


def sleep_until(when: datetime, /) -> None:
    """Waits until `when`, an aware datetime, by the database's clock; a time that is over does not wait.

    Raises:
        BadArgument: No aware datetime, or more than a hundred years from now.
        NotInWorkflow: It was called outside of a workflow's body.
    """
    until = _aware(when, "sleep_until")
    this = place("sleep_until", "sleep", "sleep_until")
    drive(this, wait.sleep(this, None, _by_the_database(this, until)), "sleep_until")


def asleep_until(when: datetime, /) -> Awaitable[None]:
    """The same for `async def` code; `dbdurable.aio.sleep_until`."""
    until = _aware(when, "aio.sleep_until")
    this = place("aio.sleep_until", "sleep", "sleep_until")
    return adrive(this, wait.sleep(this, None, _by_the_database(this, until)), "sleep_until")


def _by_the_database(this: DurableCall, when: datetime) -> datetime:
    """The same time by the database's clock, of which a test's is ahead."""
    return when - runtime_of(this.frame).passed.total


def _aware(when: object, call: str) -> datetime:
    if not isinstance(when, datetime):
        raise BadArgument(f"{call}() takes an aware datetime, not {shown(when)}")
    if when.utcoffset() is None:
        raise BadArgument(f"{call}({when!r}) has no time zone: pass an aware datetime, datetime(..., tzinfo=UTC)")
    # Only mistakes of units are meant, so that this machine's clock will do.
    if when.timestamp() - datetime.now(when.tzinfo).timestamp() > limits.duration_s_max:
        raise BadArgument(f"{call}({when!r}) is more than a hundred years away")
    return when


# -- messages ------------------------------------------------------------------------------------------------


@overload
def recv(name: str, type: type[T], /, *, timeout: Duration | None = None) -> T: ...
@overload
def recv(name: str, type: type[T], /, *, timeout: Duration | None = None, default: D) -> T | D: ...
@overload
def recv(name: str, type: Any = ..., /, *, timeout: Duration | None = None, default: Any = ...) -> Any: ...
def recv(name: str, type: Any = Any, /, *, timeout: Duration | None = None, default: Any = NOTHING) -> Any:
    """The next message on topic `name`, read as `type`; waits for one, however long, without a thread.

    Each message is received once, those of one sender in the order in which they were sent; what came before
    the call has waited for it. Two calls that wait on one topic at once, in branches, get a message each.
    Without a type: JSON as it came.

    Raises:
        WaitTimeout: None came within `timeout` (seconds or timedelta), and there is no `default`.
        BadArgument: The message does not fit `type`; it counts as received.
        NotInWorkflow: It was called outside of a workflow's body.

    Example:
        >>> recv("approval", bool, timeout=timedelta(days=7), default=False)    # doctest: +SKIP
    """
    what = heard("topic", name, type, timeout, default)
    this = place("recv", "recv", what.name, what.codec)
    return drive(this, message.receive(this, what.timeout_s, what.default), "recv")


@overload
def arecv(name: str, type: type[T], /, *, timeout: Duration | None = None) -> Awaitable[T]: ...
@overload
def arecv(name: str, type: type[T], /, *, timeout: Duration | None = None, default: D) -> Awaitable[T | D]: ...
@overload
def arecv(name: str, type: Any = ..., /, *, timeout: Duration | None = None, default: Any = ...) -> Awaitable[Any]: ...
def arecv(name: str, type: Any = Any, /, *, timeout: Duration | None = None, default: Any = NOTHING) -> Awaitable[Any]:
    """The same for `async def` code; `dbdurable.aio.recv`."""
    what = heard("topic", name, type, timeout, default)
    this = place("aio.recv", "recv", what.name, what.codec)
    return adrive(this, message.receive(this, what.timeout_s, what.default), "recv")


def send(to: Handle[Any] | UUID | str, topic: str, value: object, /, *, idempotency_key: str | None = None) -> None:
    """Sends a message to another workflow, from a workflow's body, step or transaction; see `Handle.send`.

    Raises:
        NotInWorkflow: It was called elsewhere: there, `handle.send(...)`.
        WorkflowFinished, UnknownWorkflow: Nobody would read the message.

    Example:
        >>> send(order_id, "paid", 12.5)                                        # doctest: +SKIP
    """
    Handle(speaker("send"), *_receiver(to)).send(topic, value, idempotency_key=idempotency_key)


def asend(
    to: AsyncHandle[Any] | UUID | str, topic: str, value: object, /, *, idempotency_key: str | None = None
) -> Awaitable[None]:
    """The same for `async def` code; `dbdurable.aio.send`."""
    return AsyncHandle(speaker("aio.send"), *_receiver(to)).send(topic, value, idempotency_key=idempotency_key)


def _receiver(to: object) -> tuple[UUID, str, ValueCodec]:
    if isinstance(to, (Handle, AsyncHandle)):
        return to.id, to.name, UNTYPED
    return workflow_id(cast("UUID | str", to)), "workflow", UNTYPED


# -- events and progress -------------------------------------------------------------------------------------


def set_event(name: str, value: object, /) -> None:
    """Says something about this workflow to whoever asks: `handle.get_event(name, type)`; the latest value counts.

    In a workflow's body it is recorded; in a transaction it is said if and only if that commits.

    Raises:
        NotInWorkflow: It was called in a step, which may run twice, or outside of a workflow.
        BadArgument: A name or value that cannot be used.

    Example:
        >>> set_event("state", "shipped")                                       # doctest: +SKIP
    """
    checked, text = check_name(name, "event"), plain_json(value, f"the value of event {name!r}")
    inside = note_event(checked)
    if isinstance(inside, StepFrame):
        run_in(inside.handle, *_put(inside, checked, text))
        return
    this = place("set_event", "event", checked)
    drive(this, message.set_event(this, text), "set_event")


def aset_event(name: str, value: object, /) -> Awaitable[None]:
    """The same for `async def` code; `dbdurable.aio.set_event`."""
    checked, text = check_name(name, "event"), plain_json(value, f"the value of event {name!r}")
    inside = note_event(checked)
    if isinstance(inside, StepFrame):
        return _aput(inside, checked, text)
    this = place("aio.set_event", "event", checked)
    return adrive(this, message.set_event(this, text), "set_event")


async def _aput(inside: StepFrame, name: str, text: str) -> None:
    await arun_in(inside.handle, *_put(inside, name, text))


def _put(inside: StepFrame, name: str, text: str) -> tuple[str, tuple[Any, ...], str]:
    assert inside.workflow is not None
    database = runtime_of(inside.workflow).database
    return database.text(PUT_EVENT), (inside.workflow_id, name, text), database.schema


def progress(done: int, total: int | None = None, text: str = "") -> None:
    """Says how far this workflow is, for people to see: `dbdurable list` and `show`, the view `workflows`.

    It costs nothing by itself: it travels with the next record. In steps and transactions it may be called, too.

    Raises:
        NotInWorkflow: It was called outside of a workflow.
        BadArgument: Numbers below 0, or a text of more than 1,000 characters.
    """
    for what, number in (("done", done), ("total", total)):
        if number is not None or what == "done":
            whole_number(number, f"progress({what}=...)", 0, 2**63 - 1)
    if not isinstance(text, str) or len(text) > limits.progress_chars_max:
        raise BadArgument(
            f"progress: text is a str of at most {limits.progress_chars_max} characters, got {shown(text)}"
        )
    note_progress(plain_json({"done": done, "total": total, "text": text}, "progress"))


# -- promises ------------------------------------------------------------------------------------------------


class _Promise:
    """What both colours share."""

    __slots__ = ("_codec", "_name", "token")

    def __init__(self, name: str, token: str, codec: ValueCodec) -> None:
        self._name = name
        self._codec = codec
        self.token = token
        """For the outside world: `client.resolve(token, value)`. Whoever has it can complete the promise."""

    def __repr__(self) -> str:
        return f"<promise {self._name}>"  # never the token: it is a secret


class Promise(_Promise, Generic[T]):
    """Something that the outside world will complete, by its `token`: a payment, a signature, a callback.

    Example:
        >>> signature = promise("signature", str)                               # doctest: +SKIP
        >>> mail(legal, signature.token); signature.result(timeout=86400)       # doctest: +SKIP
    """

    __slots__ = ()

    def result(self, timeout: Duration | None = None) -> T:
        """Waits for it, however long, without a thread; may be asked any number of times.

        Raises:
            WaitTimeout: It was not completed within `timeout` (seconds or timedelta); it may still be.
            PromiseRejected: Somebody rejected it; the message is the reason.
            BadArgument: The value does not fit the promise's type.
            NotInWorkflow: It was called outside of the workflow's body.
        """
        timeout_s = None if timeout is None else duration_s(timeout, "timeout=")
        this = place("promise.result", "recv", self._name, self._codec)
        return cast(T, drive(this, message.promised(this, self.token, timeout_s), "promise.result"))


class AsyncPromise(_Promise, Generic[T]):
    """The same for `async def` code."""

    __slots__ = ()

    async def result(self, timeout: Duration | None = None) -> T:
        """Waits for it, however long, without memory; see `Promise.result`."""
        timeout_s = None if timeout is None else duration_s(timeout, "timeout=")
        this = place("promise.result", "recv", self._name, self._codec)
        return cast(T, await adrive(this, message.promised(this, self.token, timeout_s), "promise.result"))


def promise(name: str, type: type[T], /) -> Promise[T]:
    """Makes a promise, recorded with its token: complete it from anywhere with `client.resolve(token, value)`,
    `dbdurable resolve TOKEN VALUE` or `select dbdurable.resolve(token, '"json"')`.

    Raises:
        NotInWorkflow: It was called outside of a workflow's body.
        BadConfiguration: `type` has no JSON form.
    """
    checked, codec = check_name(name, "promise"), receiver(type, f"the type of promise {name!r}")
    this = place("promise", "promise", checked)
    return Promise(checked, drive(this, message.promise(this), "promise"), codec)


def apromise(name: str, type: type[T], /) -> Awaitable[AsyncPromise[T]]:
    """The same for `async def` code; `dbdurable.aio.promise`."""
    checked, codec = check_name(name, "promise"), receiver(type, f"the type of promise {name!r}")
    this = place("aio.promise", "promise", checked)
    return _apromise(checked, adrive(this, message.promise(this), "promise"), codec)


async def _apromise(name: str, token: Awaitable[str], codec: ValueCodec) -> AsyncPromise[Any]:
    return AsyncPromise(name, await token, codec)
