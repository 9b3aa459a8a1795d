"""A registered function as an object: what both of its faces share, whatever the colour of the caller."""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

from dbdurable._core.codec import ValueCodec
from dbdurable._core.names import check_key
from dbdurable._executor.calls import (
    Invocation,
    durable_call,
    flow_of,
    place_of,
    refuse_connection,
    require_workflow,
)
from dbdurable._executor.definition import Definition, RemoteDefinition
from dbdurable._executor.direct import Direct, runner
from dbdurable._executor.exchange import Message, once
from dbdurable._executor.runtime import Runtime
from dbdurable._executor.starts import build_start, refuse_start_options, workflow_id
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.child import call_child, start_child
from dbdurable._protocol.effects import Flow
from dbdurable._protocol.frame import WorkflowFrame, ambient_tx, current
from dbdurable._protocol.start import Start, resend, start
from dbdurable._sql.start import START_AND_SEND
from dbdurable.errors import BadArgument, NotRunning
from dbdurable.types import Options


class Face:
    """What both faces share: the definition, the options they carry, and their life as a function object."""

    __slots__ = ("__dict__", "__weakref__")
    definition: Definition
    is_async: bool
    """The colour of the face, whatever the colour of the function."""

    def __init__(self, runtime: Runtime, definition: Definition, options: Options, tx: Any, self_: Any) -> None:
        self.runtime = runtime
        self.definition = definition
        self.carried = options
        self.tx = tx
        self.self_ = self_
        functools.update_wrapper(cast(Any, self), definition.fn)

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return self.definition.name

    @property
    def fn(self) -> Any:
        """The plain function, for unit tests; a transaction's takes the connection first."""
        fn = self.definition.fn
        return fn if self.self_ is None else functools.partial(fn, self.self_)

    @property
    def __signature__(self) -> inspect.Signature:
        return self.definition.signature

    @property
    def __globals__(self) -> dict[str, Any]:
        return cast(dict[str, Any], inspect.unwrap(self.definition.fn).__globals__)

    def __repr__(self) -> str:
        return f"<{self.definition.kind} {self.definition.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.carried or self.tx is not None or self.self_ is not None:
            raise TypeError(f"{self.definition.name} with options, or of an object, cannot be pickled")
        fn = self.definition.fn
        return find_function, (fn.__module__, fn.__qualname__, self.is_async)

    def with_options(self, face: type[Any], tx: Any, options: Options) -> Any:
        """A copy that carries options; those named now win."""
        unknown = set(options) - set(Options.__annotations__)
        if unknown:
            raise BadArgument(
                f"{self.name}.options() has no option {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(Options.__annotations__)} and tx"
            )
        merged = cast(Options, {**self.carried, **options})
        return face(self.runtime, self.definition, merged, tx if tx is not None else self.tx, self.self_)

    def bound(self, face: type[Any], instance: Any) -> Any:
        """The method of an object: under the object's own name once it is registered."""
        known = self.runtime.registry.instance_definition(instance, self.definition)
        return face(self.runtime, known or self.definition, self.carried, self.tx, instance)

    # -- calls, whatever the colour --------------------------------------------------------------------

    def invocation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invocation:
        """The call with self in front, as the function takes it."""
        if self.self_ is not None:
            args = (self.self_, *args)
        return Invocation(self.runtime, self.definition, args, kwargs, self.carried)

    def flow(self, call: Invocation) -> tuple[Flow[Any], bool | None, DurableCall | None]:
        """The protocol of a call that is not part of a step, its colour, and its place, which it takes now."""
        frame = current.get()
        if self.carried:
            refuse_start_options(self.carried, self.name, self.definition.kind)
        self._refuse_tx("call")
        if self.definition.kind == "workflow":
            executor = self.runtime.require_executor(self.definition)
            args = call.args[1:] if self.self_ is not None else call.args
            self._require_registered()
            start = build_start(self.runtime, self.definition, args, call.kwargs, self.carried)
            if not isinstance(frame, WorkflowFrame):
                return Direct(executor, self.definition, start).flow(), self.definition.is_async, None
            child = place_of(frame, self.name, "child", ValueCodec.for_annotation(str, "the id of a child"))
            join = place_of(frame, self.name, "join", self.definition.result)
            run = runner(executor, self.definition, frame)
            start = replace(start, parent_id=frame.id, parent_close=start.parent_close or "cancel")
            return call_child(child, join, start, run), None, join
        this = durable_call(call, require_workflow(self.definition, frame))
        return flow_of(this), self.definition.is_async, this

    def placed(self, call: Invocation) -> tuple[Flow[Any], bool | None, DurableCall]:
        """The same for a step."""
        flow, is_async, this = self.flow(call)
        assert this is not None
        return flow, is_async, this

    def start_of(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, own_id: bool = True) -> Start:
        """The start that `.start(...)` means."""
        self._require_registered()
        if self.definition.kind == "transaction":
            refuse_connection(self.definition, args)
        return build_start(
            self.runtime,
            self.definition,
            args,
            kwargs,
            self.carried,
            own_id=own_id,
            registered=not isinstance(self.definition, RemoteDefinition),
        )

    def start_flow(self, this: Start) -> tuple[Flow[UUID], None, DurableCall | None]:
        """How to start where the call is made: inside a workflow, as a record of it."""
        frame = current.get()
        if isinstance(frame, WorkflowFrame):
            place = place_of(frame, self.name, "start", ValueCodec.for_annotation(str, "the id of a child"))
            return start_child(place, replace(this, parent_id=frame.id)), None, place
        return start(this), None, None

    def start_and_send_flow(self, this: Start, message: Message) -> Flow[UUID]:
        """The same, and a message to it or to the one that holds its key: one commit."""
        frame = current.get()
        if isinstance(frame, WorkflowFrame):
            place = place_of(frame, self.name, "start", ValueCodec.for_annotation(str, "the id of a child"))
            return start_child(place, replace(this, parent_id=frame.id), message)
        return _start_and_send(this, message._replace(key=once(frame, "message")))

    def handle_of(self, face: type[Any], id: UUID | str | None, key: str | None) -> Any:
        """A handle to one that exists; no I/O."""
        if (id is None) == (key is None):
            raise BadArgument(f"{self.name}.handle() takes an id or key=, one of them")
        found = None if id is None else workflow_id(id)
        name = None if key is None else check_key(key)
        return face(self.runtime, found, self.name, self.definition.result, key=name)

    def ambient_tx(self) -> Any:
        """The transaction in which a start takes part: tx=, or that of the transaction around the call."""
        return ambient_tx(self.tx)

    def started(self, face: type[Any], this: Start, id: UUID, tx: Any) -> Any:
        """The handle of a start, of which those who can run it are told."""
        self.tell(this, id, tx)
        return face(self.runtime, id, self.name, self.definition.result)

    def tell(self, this: Start, id: UUID, tx: Any) -> None:
        """Whoever can run it looks at once, or as soon as `tx` has committed."""
        if this.delay_s is None and this.at is None:
            if tx is None:
                self.runtime.notifier.queued(self.name, this.queue)
            else:
                self.runtime.notifier.queued_in_transaction(self.name, id)

    def _refuse_tx(self, what: str) -> None:
        if self.tx is not None:
            raise BadArgument(
                f"{self.name}: tx= goes with start, `{self.name}.options(tx=...).start(...)`; a {what} runs now"
            )

    def _require_registered(self) -> None:
        definition = self.definition
        if definition.method and definition.instance is None:
            cls = definition.fn.__qualname__.rpartition("<locals>.")[2].partition(".")[0]
            raise NotRunning(
                f"{definition.name} is a method, and no executor could find its object: write "
                f'`orders = durable.register({cls}(...), name="orders")` once, and call it on that'
            )


def _start_and_send(this: Start, message: Message) -> Flow[UUID]:
    rows = yield from resend(START_AND_SEND, *this.params, *message)
    found: UUID = rows[0][0]
    return found


def find_function(module: str, qualname: str, is_async: bool) -> Any:
    """A registered function by its place: how functions and handles are unpickled."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if found.is_async is not is_async:
        found = found.aio if is_async else found.sync
    return found
