"""Log lines of workflows: written once, though bodies are replayed, and with the workflow's id on them."""

from __future__ import annotations

import logging

from dbdurable._protocol.frame import StepFrame, current, is_replaying, workflow_here

__all__ = ["WorkflowFilter", "get_logger"]


class WorkflowFilter(logging.Filter):
    """Drops what a body logs while it is replayed, and says on each record where it comes from.

    A record gets `workflow_id`, `workflow_name` and `step_path` ("3", "4.1"; empty in a body); all are empty
    outside of workflows, so that one format serves the whole program. Add it to a handler, and it works for
    every logger of the program; `get_logger` adds it to one logger. What a body, or a branch of it, logged after
    its last record is logged again by a replay: nothing tells that it was there.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(WorkflowFilter())
        >>> handler.setFormatter(logging.Formatter("%(levelname)s %(workflow_id)s %(step_path)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        frame, workflow = current.get(), workflow_here()
        record.workflow_id = str(workflow.id) if workflow is not None else ""
        record.workflow_name = workflow.name if workflow is not None else ""
        record.step_path = frame.path if isinstance(frame, StepFrame) else ""
        return not is_replaying()


_FILTER = WorkflowFilter()


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, with a `WorkflowFilter`: its lines in a body are written once.

    Example:
        >>> logger = get_logger("shop.flows")
        >>> logger is logging.getLogger("shop.flows")
        True
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)  # once, however often it is asked for
    return logger
