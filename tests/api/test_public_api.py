"""What people import: a frozen list of names, each with a docstring whose examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import dbdurable
from dbdurable import aio, errors, types

PACKAGE = [
    "AsyncCall", "AsyncClient", "AsyncFunction", "AsyncHandle", "AsyncPromise", "AsyncStep", "AsyncTransaction",
    "AsyncWorkflow", "Batch", "Call", "Cancelled", "Client", "Completion", "Config", "CurrentStep", "CurrentWorkflow",
    "Durable", "DurableError", "Duration", "Executor", "Function", "Handle", "NonRetryable", "Options", "Promise",
    "Queue", "QueueInfo", "Rate", "Retry", "RetryAfter", "Saga", "Source", "Status", "Step", "StepInfo", "Transaction",
    "Workflow", "WorkflowFilter", "WorkflowInfo", "__version__", "aio", "current_step", "current_workflow", "errors",
    "fan_out", "gather", "get_logger", "now", "progress", "promise", "race", "recv", "rng", "run_step", "saga", "send",
    "set_event", "shield", "sleep", "sleep_until", "timeout", "uuid4",
]  # fmt: skip
ERRORS = [
    "AttemptsExhausted", "BadArgument", "BadConfiguration", "Cancelled", "DatabaseUnavailable", "DuplicateName",
    "DurableError", "KeyConflict", "NonDeterministic", "NonRetryable", "NotInTransaction", "NotInWorkflow",
    "NotRunning", "PromiseCompleted", "PromiseRejected", "QueueFull", "RemoteError", "RetryAfter", "SchemaMismatch",
    "StepTimeout", "UndoFailed", "UnknownPromise", "UnknownQueue", "UnknownWorkflow", "WaitTimeout",
    "WorkflowBlocked", "WorkflowCancelled", "WorkflowFinished", "WrongColour",
]  # fmt: skip
TYPES = [
    "AsyncTx", "Batch", "Completion", "Duration", "Options", "Queue", "QueueInfo", "Rate", "Retry", "Status",
    "StepInfo", "SyncTx", "WorkflowInfo",
]  # fmt: skip
AIO = [
    "fan_out", "gather", "promise", "race", "recv", "run_step", "saga", "send", "set_event", "sleep", "sleep_until",
]  # fmt: skip
ALIASES = {"Duration", "__version__"}  # values, not objects with a docstring of their own


@pytest.mark.parametrize(
    ("module", "names"),
    [(dbdurable, PACKAGE), (errors, ERRORS), (types, TYPES), (aio, AIO)],
    ids=["dbdurable", "errors", "types", "aio"],
)
def test_names_are_frozen(module: object, names: list[str]):
    assert sorted(module.__all__) == names  # type: ignore[attr-defined]
    for name in names:
        assert getattr(module, name) is not None


def public_objects() -> dict[str, object]:
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in (dbdurable, errors, types, aio)
        for name in module.__all__
        if name not in ALIASES
    }


@pytest.mark.parametrize("name", public_objects())
def test_every_public_name_and_method_has_a_docstring(name: str):
    thing = public_objects()[name]
    assert (inspect.getdoc(thing) or "").strip()
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert (inspect.getdoc(value) or "").strip(), f"{name}.{member}"


def test_errors_are_of_the_documented_families():
    outside = {"NonRetryable", "RetryAfter", "Cancelled", "DurableError"}
    for name in ERRORS:
        assert issubclass(getattr(errors, name), errors.DurableError) is (name not in outside - {"DurableError"})
    assert issubclass(errors.WaitTimeout, TimeoutError)
    assert issubclass(errors.BadArgument, TypeError)
    assert not issubclass(errors.Cancelled, Exception)  # `except Exception` in a body lets a cancel through


def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(dbdurable.__path__, "dbdurable.")]
    return ["dbdurable", *[name for name in found if not name.endswith("__main__")]]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str):
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures, _ = doctest.testmod(module, optionflags=flags)
    assert not failures
