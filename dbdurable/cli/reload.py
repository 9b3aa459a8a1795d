"""`worker --reload`: a parent that starts the worker again whenever a source file changes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["supervise"]

logger = logging.getLogger("dbdurable")

POLL_S = 0.3
STOP_S = 3.0
"""So long may the old worker finish what it runs; then it is stopped, and the new one recovers that."""


def supervise(command_line: Sequence[str]) -> int:
    """Runs the same command without --reload, again and again; the status of the last one."""
    arguments = [argument for argument in command_line[1:] if argument != "--reload"]
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))
    while True:
        seen = _sources(Path.cwd())
        child = _start(arguments)
        passed = 0
        while seen == (now := _sources(Path.cwd())):
            while passed < len(asked):  # each signal goes on to the child: the second one ends it
                child.send_signal(asked[passed])
                passed += 1
            if child.poll() is not None and (asked or child.returncode == 0):
                return _status(child)  # told to stop, or done (--until-idle)
            time.sleep(POLL_S)  # a child that failed waits for its mended source
        changed = sorted({os.path.relpath(path) for path, _ in now.items() ^ seen.items()})
        logger.info("changed: %s; starting again", ", ".join(changed[:5]))
        _stop(child)
        if asked:
            return _status(child)


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    # A process group of its own: Ctrl-C reaches the child once, through us, and not twice.
    return subprocess.Popen([sys.executable, "-m", "dbdurable", *arguments], process_group=0)  # noqa: S603 - our own program


def _status(child: subprocess.Popen[bytes]) -> int:
    """As a shell has it: 128 and the signal's number for a child that a signal ended."""
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _stop(child: subprocess.Popen[bytes]) -> None:
    for _ in range(2):
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return
    child.kill()
    child.wait()


def _sources(root: Path) -> dict[str, int]:
    """The Python files below `root` with their times; environments and hidden directories are left out."""
    found = {}
    for directory, names, files in os.walk(root):
        names[:] = [
            name
            for name in names
            if name[0] != "."
            and name not in ("__pycache__", "node_modules")
            and not os.path.exists(os.path.join(directory, name, "pyvenv.cfg"))
        ]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:
                    continue  # deleted just now
    return found
