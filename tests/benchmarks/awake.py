"""Processors that do not sleep while times are taken.

On a virtual machine a processor that has nothing to do is given back to the host, and how long it takes to come
back depends on how it was used just before: whoever waits for a round trip is measured with what the host does, and
not like the one whose turn was before. A process of the lowest class on each processor keeps it awake; it gets only
the time that nobody else wants, and is left at once for anybody who does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
print("awake", flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextmanager
def awake() -> Iterator[int]:
    """Keeps every processor that this process may use awake; how many, 0 where the system cannot."""
    if not hasattr(os, "SCHED_IDLE"):
        yield 0
        return
    spinners = list[subprocess.Popen[bytes]]()
    try:
        for cpu in sorted(os.sched_getaffinity(0)):
            spinner = subprocess.Popen([sys.executable, "-c", _SPIN, str(cpu)], stdout=subprocess.PIPE)
            spinners.append(spinner)
            assert spinner.stdout is not None
            if spinner.stdout.readline() != b"awake\n":
                break  # it has said why
        yield sum(spinner.poll() is None for spinner in spinners)
    finally:
        for spinner in spinners:
            with suppress(ProcessLookupError):
                spinner.kill()
            spinner.communicate()
