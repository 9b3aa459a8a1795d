"""Durable execution for Python applications with PostgreSQL.

Decorate functions as workflows, steps and transactions; whatever crashes, each workflow runs to its end,
and each transaction's result commits in the same PostgreSQL transaction as its own writes.
"""

from dbdurable import aio, errors
from dbdurable.__about__ import __version__
from dbdurable._executor.executor import Executor
from dbdurable._io.source import Source
from dbdurable.client import AsyncClient, Client
from dbdurable.context import CurrentStep, CurrentWorkflow, current_step, current_workflow, run_step
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
from dbdurable.types import Duration, Options, Queue, Retry, Status, StepInfo, WorkflowInfo

__all__ = [
    "AsyncCall",
    "AsyncClient",
    "AsyncFunction",
    "AsyncHandle",
    "AsyncStep",
    "AsyncTransaction",
    "AsyncWorkflow",
    "Call",
    "Cancelled",
    "Client",
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
    "Queue",
    "Retry",
    "RetryAfter",
    "Source",
    "Status",
    "Step",
    "StepInfo",
    "Transaction",
    "Workflow",
    "WorkflowInfo",
    "__version__",
    "aio",
    "current_step",
    "current_workflow",
    "errors",
    "run_step",
]
