"""Where code stands: what only the body of a workflow may do asks here first."""

from __future__ import annotations

from dbdurable._protocol.frame import StepFrame, WorkflowFrame, current
from dbdurable.errors import NotInWorkflow


def body_frame(call: str, *, inside: str, outside: str) -> WorkflowFrame:
    """The workflow in whose body the code stands; raises NotInWorkflow elsewhere.

    `inside` goes on after "was called inside step charge", `outside` after "was called outside of a workflow".
    """
    frame = current.get()
    if isinstance(frame, WorkflowFrame):
        return frame
    if isinstance(frame, StepFrame):
        raise NotInWorkflow(f"{call} was called inside {frame.kind} {frame.name}{inside}")
    raise NotInWorkflow(f"{call} was called outside of a workflow{outside}")


__all__ = ["body_frame"]
