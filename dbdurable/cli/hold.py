"""Keeps an embedded server up without a program that uses it.

A server runs while any process holds a shared lock on `<data>.users`. `hold` leaves such a process behind: it
inherits the open lock files and sleeps. `<data>.holder` is locked by it too and has its pid inside, so that
`let_go` finds it; whatever becomes of it, the kernel gives both locks back.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dbdurable._embedded import keeper

__all__ = ["hold", "let_go", "share"]

SUFFIX = "holder"
PROGRAM = "import signal; signal.pause()"


def share(data: Path) -> int:
    """A shared lock of our own on a running server, as a descriptor that children and exec inherit."""
    descriptor = keeper.open_lock(data, "users")
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # whoever calls this holds the server already: no wait
    os.set_inheritable(descriptor, True)
    return descriptor


def hold(data: Path) -> None:
    """Keeps the running server up until `let_go`; harmless to repeat."""
    own = keeper.open_lock(data, SUFFIX)
    try:
        if not keeper.try_lock(own, fcntl.LOCK_EX):
            return  # it is held already
        users = share(data)
        try:
            # The locks belong to the open files, which the child shares with us and keeps.
            holder = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", "-c", PROGRAM, f"dbdurable keeps {data} up"],
                cwd="/",
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(own, users),
                start_new_session=True,
            )
        finally:
            os.close(users)
        os.ftruncate(own, 0)
        os.pwrite(own, str(holder.pid).encode(), 0)
        holder.returncode = 0  # left behind on purpose: no ResourceWarning
    finally:
        os.close(own)


def let_go(data: Path) -> bool:
    """Ends the process that `hold` left behind; whether there was one."""
    try:
        own = os.open(keeper.beside(data, SUFFIX), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if keeper.try_lock(own, fcntl.LOCK_SH):
            return False
        pid = int(os.read(own, 20) or 0)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            fcntl.flock(own, fcntl.LOCK_SH)  # until it has ended
        return bool(pid)
    finally:
        os.close(own)
