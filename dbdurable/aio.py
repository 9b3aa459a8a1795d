"""The free functions for `async def` code, under the names that `def` code uses."""

from dbdurable.context import arun_step as run_step
from dbdurable.parallel import afan_out as fan_out
from dbdurable.parallel import agather as gather
from dbdurable.parallel import arace as race
from dbdurable.sagas import asaga as saga
from dbdurable.waiting import apromise as promise
from dbdurable.waiting import arecv as recv
from dbdurable.waiting import asend as send
from dbdurable.waiting import aset_event as set_event
from dbdurable.waiting import asleep as sleep
from dbdurable.waiting import asleep_until as sleep_until

__all__ = [
    "fan_out",
    "gather",
    "promise",
    "race",
    "recv",
    "run_step",
    "saga",
    "send",
    "set_event",
    "sleep",
    "sleep_until",
]
