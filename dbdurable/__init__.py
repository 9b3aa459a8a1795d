"""Durable execution for Python applications with PostgreSQL.

Decorate functions as workflows, steps and transactions; whatever crashes, each workflow runs to its end,
and each transaction's result commits in the same PostgreSQL transaction as its own writes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dbdurable.__about__ import __version__

if TYPE_CHECKING:
    from dbdurable import aio, errors
    from dbdurable._executor.executor import Executor
    from dbdurable._io.source import Source
    from dbdurable.client import AsyncClient, Client
    from dbdurable.context import (
        CurrentStep,
        CurrentWorkflow,
        current_step,
        current_workflow,
        now,
        rng,
        run_step,
        shield,
        timeout,
        uuid4,
    )
    from dbdurable.definitions import (
        AsyncCall,
        AsyncFunction,
        AsyncStep,
        AsyncTransaction,
        AsyncWorkflow,
        Call,
        Function,
        Step,
        Transaction,
        Workflow,
    )
    from dbdurable.durable import Config, Durable
    from dbdurable.errors import Cancelled, DurableError, NonRetryable, RetryAfter
    from dbdurable.handle import AsyncHandle, Handle
    from dbdurable.logs import WorkflowFilter, get_logger
    from dbdurable.parallel import fan_out, gather, race
    from dbdurable.sagas import Saga, saga
    from dbdurable.types import (
        Batch,
        Completion,
        Duration,
        Options,
        Queue,
        QueueInfo,
        Rate,
        Retry,
        Status,
        StepInfo,
        WorkflowInfo,
    )
    from dbdurable.waiting import (
        AsyncPromise,
        Promise,
        progress,
        promise,
        recv,
        send,
        set_event,
        sleep,
        sleep_until,
    )

__all__ = [
    "AsyncCall",
    "AsyncClient",
    "AsyncFunction",
    "AsyncHandle",
    "AsyncPromise",
    "AsyncStep",
    "AsyncTransaction",
    "AsyncWorkflow",
    "Batch",
    "Call",
    "Cancelled",
    "Client",
    "Completion",
    "Config",
    "CurrentStep",
    "CurrentWorkflow",
    "Durable",
    "DurableError",
    "Duration",
    "Executor",
    "Function",
    "Handle",
    "NonRetryable",
    "Options",
    "Promise",
    "Queue",
    "QueueInfo",
    "Rate",
    "Retry",
    "RetryAfter",
    "Saga",
    "Source",
    "Status",
    "Step",
    "StepInfo",
    "Transaction",
    "Workflow",
    "WorkflowFilter",
    "WorkflowInfo",
    "__version__",
    "aio",
    "current_step",
    "current_workflow",
    "errors",
    "fan_out",
    "gather",
    "get_logger",
    "now",
    "progress",
    "promise",
    "race",
    "recv",
    "rng",
    "run_step",
    "saga",
    "send",
    "set_event",
    "shield",
    "sleep",
    "sleep_until",
    "timeout",
    "uuid4",
]

# Where each name comes from. A name is imported when it is first asked for: `import dbdurable` costs a
# millisecond instead of half a second, and `dbdurable --help` loads no database driver. The imports above
# say the same to type checkers; a test compares the two.
_MODULES = {
    "_executor.executor": "Executor",
    "_io.source": "Source",
    "client": "AsyncClient Client",
    "context": "CurrentStep CurrentWorkflow current_step current_workflow now rng run_step shield timeout uuid4",
    "definitions": "AsyncCall AsyncFunction AsyncStep AsyncTransaction AsyncWorkflow "
    "Call Function Step Transaction Workflow",
    "durable": "Config Durable",
    "errors": "Cancelled DurableError NonRetryable RetryAfter",
    "handle": "AsyncHandle Handle",
    "logs": "WorkflowFilter get_logger",
    "parallel": "fan_out gather race",
    "sagas": "Saga saga",
    "types": "Batch Completion Duration Options Queue QueueInfo Rate Retry Status StepInfo WorkflowInfo",
    "waiting": "AsyncPromise Promise progress promise recv send set_event sleep sleep_until",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in ("aio", "errors"):
        return import_module(f"dbdurable.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dbdurable' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"dbdurable.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
