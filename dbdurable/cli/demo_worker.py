"""One worker process of the demo: runs workflows until the demo closes its standard input, or is gone."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys

from dbdurable.cli.demo_app import THREADS, durable

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ends this process at once when the demo ends, however it ends (Linux; elsewhere the pipe tells)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the demo has ended already")


def main() -> None:
    """Runs until standard input ends."""
    die_with(int(sys.argv[1]))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with durable.executor(threads=THREADS):
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
