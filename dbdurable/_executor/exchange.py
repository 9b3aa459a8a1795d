"""What is said to other workflows, wherever it is said: in a body, a step, a transaction, or outside of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4, uuid5

from dbdurable._core.codec import UNTYPED, ValueCodec
from dbdurable._core.names import check_key, check_name
from dbdurable._core.plain import plain_json, receiver
from dbdurable._core.retry import duration_s
from dbdurable._core.show import shown
from dbdurable._executor.calls import place_of
from dbdurable._protocol import message as protocol
from dbdurable._protocol.effects import Flow, Query, pause
from dbdurable._protocol.frame import Frame, StepFrame, WorkflowFrame, current
from dbdurable._protocol.start import POLL_S_FIRST, POLL_S_MAX, resend
from dbdurable._sql import message as sql
from dbdurable._sql.statement import Statement
from dbdurable.errors import BadArgument, WaitTimeout, WorkflowFinished
from dbdurable.types import Duration

NOTHING = protocol.NOTHING


class Message(NamedTuple):
    """What is sent, checked and encoded."""

    topic: str
    text: str
    key: str | None


def message_of(topic: object, value: object, key: object = None) -> Message:
    """Raises BadArgument for a topic, value or key that cannot be used."""
    name = check_name(topic, "topic")
    return Message(name, plain_json(value, f"the message on topic {name!r}"), None if key is None else check_key(key))


class Heard(NamedTuple):
    """How something is waited for."""

    name: str
    codec: ValueCodec
    timeout_s: float | None
    default: Any


def heard(what: str, name: object, type: Any, timeout: Duration | None, default: Any) -> Heard:
    """Raises BadArgument for a name or time-out, BadConfiguration for a type, that cannot be used."""
    checked = check_name(name, what)
    codec = receiver(type, f"the type of {what} {checked!r}")
    return Heard(checked, codec, None if timeout is None else duration_s(timeout, "timeout="), default)


def send_flow(to: Flow[UUID], message: Message) -> Flow[None]:
    """How to send where the call is made: recorded in a body; once, also when its step runs again."""
    frame = current.get()
    if isinstance(frame, WorkflowFrame):
        return protocol.send(place_of(frame, message.topic, "send", UNTYPED), to, message.text, message.key)
    if message.key is not None:
        return _send(to, sql.SEND, message)
    return _send(to, sql.SEND_ONCE, message._replace(key=once(frame, "message")))


def _send(to: Flow[UUID], statement: Statement, message: Message) -> Flow[None]:
    id = yield from to
    yield from resend(statement, id, *_row(message))


def send_in_tx(id: UUID, message: Message) -> Query:
    """A send in a transaction of the caller's."""
    return Query(sql.SEND, (id, *_row(message)))


def _row(message: Message) -> tuple[str, str, str | None]:
    return message.topic, message.text, message.key


def event_flow(of: Flow[UUID], what: Heard, clock: Callable[[], float]) -> Flow[Any]:
    """The value of an event, recorded where a workflow asks."""
    frame = current.get()
    if isinstance(frame, WorkflowFrame):
        place = place_of(frame, what.name, "get_event", what.codec)
        return protocol.get_event(place, of, what.timeout_s, what.default)
    return _poll_event(of, what, clock)


def _poll_event(of: Flow[UUID], what: Heard, clock: Callable[[], float]) -> Flow[Any]:
    id = yield from of
    begun, delay_s = clock(), POLL_S_FIRST
    while True:
        rows = yield from resend(sql.READ_EVENT, id, what.name)
        try:
            found, text = protocol.event_in(rows, id, what.name)
            if found:
                return what.codec.decode(text)
            waited_s = clock() - begun
            if what.timeout_s is not None and waited_s >= what.timeout_s:
                raise WaitTimeout(f"event {what.name!r} of workflow {id} was not set within {what.timeout_s:g} s")
        except (WaitTimeout, WorkflowFinished):
            if what.default is NOTHING:
                raise
            return what.default
        yield from pause(delay_s if what.timeout_s is None else min(delay_s, max(0.0, what.timeout_s - waited_s)))
        delay_s = min(POLL_S_MAX, delay_s * 1.5)


class Completion(NamedTuple):
    """What a promise ends with: a value as JSON, or the reason of a rejection."""

    token: str
    text: str | None
    reason: str | None

    def query(self, call: UUID | None) -> Query:
        """As the statement; `call` makes it known to itself when it is sent again."""
        if self.reason is None:
            return Query(sql.RESOLVE, (self.token, self.text, call))
        return Query(sql.REJECT, (self.token, self.reason, call))


def resolved(token: object, value: object) -> Completion:
    """A value for a promise. Raises BadArgument."""
    return Completion(_token(token), plain_json(value, "the value of a promise"), None)


def rejected(token: object, reason: object) -> Completion:
    """The reason why there is none. Raises BadArgument."""
    if not isinstance(reason, str) or "\0" in reason:
        raise BadArgument(f"the reason of a rejection is a str without NUL, got {shown(reason)}")
    return Completion(_token(token), None, reason)


def _token(token: object) -> str:
    if not isinstance(token, str) or "\0" in token:
        raise BadArgument(f"the token of a promise is a str, got {shown(token)}")
    return token


def complete_flow(this: Completion) -> Flow[None]:
    """How to complete a promise where the call is made."""
    frame = current.get()
    if isinstance(frame, WorkflowFrame):
        name = "resolve" if this.reason is None else "reject"
        return protocol.complete(place_of(frame, name, "send", UNTYPED), *this)
    call = uuid5(UUID(int=0), once(frame, "promise"))
    return _complete(this.query(call))


def _complete(query: Query) -> Flow[None]:
    yield from resend(query.statement, *query.params)


def once(frame: Frame | None, what: str) -> str:
    """A name for a call that may be sent again: in a step the same when the step runs again, elsewhere new."""
    if isinstance(frame, StepFrame) and frame.kind == "step":
        frame.starts += 1
        return f"{what} {frame.starts} of step {frame.idempotency_key()}"
    return f"{what} {uuid4()}"
