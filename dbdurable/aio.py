"""The free functions for `async def` code, under the names that `def` code uses."""

from dbdurable.context import arun_step as run_step

__all__ = ["run_step"]
