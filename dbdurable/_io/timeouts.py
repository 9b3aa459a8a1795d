"""A time limit for one attempt of a `def` step: Python cannot stop a thread, so it is left behind.

The function runs on a thread of its own in the caller's context. When its time is over the caller goes on
with `StepTimeout`; the late result is dropped, and a retry may overlap the thread that was left.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

from dbdurable.errors import StepTimeout

UNWIND_S = 1.0
"""How long a cancelled statement's thread may take to come back with its connection."""


class _Answer:
    value: Any = None
    error: BaseException | None = None


def call_within(function: Callable[[], Any], timeout_s: float, name: str, cancel: Callable[[], None] | None) -> Any:
    """What `function` returns or raises within `timeout_s` seconds; else raises StepTimeout.

    `cancel` ends the statement that a transaction runs, so that its thread comes back.
    """
    answer, context = _Answer(), contextvars.copy_context()

    def run() -> None:
        try:
            answer.value = context.run(function)
        except BaseException as error:
            answer.error = error

    thread = threading.Thread(target=run, name=f"dbdurable step {name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        if cancel is not None:
            cancel()
            thread.join(UNWIND_S)
        raise StepTimeout(f"step {name} took longer than {timeout_s:g} s")
    if answer.error is not None:
        raise answer.error
    return answer.value
