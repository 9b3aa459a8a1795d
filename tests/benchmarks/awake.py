"""Processors that do not sleep while times are taken.

A processor that has nothing to do goes to sleep; a virtual one is given back to the host. How long it takes to come
back depends on how it was used just before: whoever waits for a round trip is measured with the sleep that the one
before him has left behind. Linux lets a process say how much of that it bears, in microseconds: cyclictest says 0,
and so do we. https://docs.kernel.org/power/pm_qos_interface.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUEST = Path("/dev/cpu_dma_latency")


@contextmanager
def awake() -> Iterator[str]:
    """Holds the request while it is open; whether that was possible, in words."""
    try:
        held = REQUEST.open("wb", buffering=0)
    except OSError as error:
        yield f"no ({REQUEST}: {error.strerror})"
        return
    with held:
        held.write(struct.pack("i", 0))
        yield "yes"
