"""The functions of one application, by name."""

from __future__ import annotations

import builtins
import logging
from typing import Any

from dbdurable._core.names import check_name
from dbdurable._executor.definition import Definition
from dbdurable.errors import BadConfiguration, DuplicateName

logger = logging.getLogger("dbdurable")


class Registry:
    """Names to definitions, and registered objects to the names of their methods."""

    def __init__(self) -> None:
        self.definitions: dict[str, Definition] = {}
        self.version = 0
        """Grows with every change: an executor that is open looks at it."""
        self.queues: dict[str, dict[str, Any]] = {}
        """What the code declares of queues, `durable.queue(...)`."""
        self._instances: dict[int, tuple[Any, str]] = {}

    def add_queue(self, name: str, settings: dict[str, Any]) -> None:
        """Declares a queue. Raises BadConfiguration when it was declared otherwise before."""
        known = self.queues.get(name)
        if known and settings and known != settings and not in_notebook():
            raise BadConfiguration(
                f"queue {name!r} is declared twice with different limits: {known} and {settings}; declare it once "
                "and pass the queue around"
            )
        if known != settings and not (known and not settings):
            self.queues[name] = settings
            self.version += 1

    def knows_queue(self, name: str) -> bool:
        """Whether the code names that queue: a start there is no slip of the pen."""
        return name == "default" or name in self.queues or any(d.queue == name for d in self.definitions.values())

    def add(self, definition: Definition) -> None:
        """Registers a function. Raises DuplicateName when another function has the name."""
        known = self.definitions.get(definition.name)
        if known is not None and not _same_function(known, definition):
            raise DuplicateName(
                f"two functions are named {definition.name!r}: {known.place} and {definition.place}; "
                "give one of them another name with name="
            )
        if known is not None and not in_notebook():
            logger.warning("%s %s was defined again at %s", definition.kind, definition.name, definition.place)
        self.definitions[definition.name] = definition
        self.version += 1

    def add_instance(self, instance: Any, name: str | None) -> None:
        """Registers the durable methods of an object under `name.method`."""
        prefix = check_name(name or type(instance).__qualname__.rpartition("<locals>.")[2], "the object's name")
        found = [
            member.definition
            for cls in reversed(type(instance).__mro__)
            for member in vars(cls).values()
            if isinstance(getattr(member, "definition", None), Definition)
        ]
        if not found:
            raise BadConfiguration(
                f"{type(instance).__name__} has no methods decorated as workflow, step or transaction"
            )
        for definition in found:
            method = definition.fn.__name__
            self.definitions[f"{prefix}.{method}"] = definition.bound_to(instance, f"{prefix}.{method}")
        self._instances[id(instance)] = (instance, prefix)
        self.version += 1

    def instance_definition(self, instance: Any, definition: Definition) -> Definition | None:
        """The definition of a method as registered for that very object."""
        known = self._instances.get(id(instance))
        return self.definitions.get(f"{known[1]}.{definition.fn.__name__}") if known else None

    def runnable(self) -> list[Definition]:
        """What an executor can claim: methods only once their object is registered."""
        return [d for d in list(self.definitions.values()) if not d.method or d.instance is not None]


def _same_function(a: Definition, b: Definition) -> bool:
    return (a.fn.__module__, a.fn.__qualname__) == (b.fn.__module__, b.fn.__qualname__)


def in_notebook() -> bool:
    """Whether this is a notebook's kernel: it runs every cell on its loop, and defines functions again and again."""
    shell = getattr(builtins, "get_ipython", None)
    return shell is not None and getattr(shell(), "kernel", None) is not None


__all__ = ["Registry", "in_notebook"]
