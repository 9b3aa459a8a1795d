"""The free functions for `async def` code, under the names that `def` code uses."""

from dbdurable.context import arun_step as run_step
from dbdurable.parallel import afan_out as fan_out
from dbdurable.parallel import agather as gather
from dbdurable.parallel import arace as race

__all__ = ["fan_out", "gather", "race", "run_step"]
