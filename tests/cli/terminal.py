"""The command line on a terminal of its own: what it shows, and keys, Ctrl-C included."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

from tests.support.wait import wait_until

__all__ = ["Terminal"]


class Terminal:
    """A process on a pseudo-terminal, and all that it has shown."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (40, 110), cwd: Path | None = None, **env: str) -> None:
        self.shown = ""
        self.master, slave = pty.openpty()
        environment = {**os.environ, "LINES": str(size[0]), "COLUMNS": str(size[1]), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dbdurable", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, **env},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_as_a_terminal_does,
        )
        os.close(slave)

    def says(self, *texts: str) -> None:
        wait_until(lambda: all(text in _plain(self.read()) for text in texts), 20, f"{texts} on the screen")

    def press(self, key: str) -> None:
        """A key, or a control character."""
        os.write(self.master, key.encode())

    def ended(self) -> int:
        wait_until(lambda: (self.read(), self.process.poll())[1] is not None, 20, "the end of the process")
        return self.process.returncode

    def read(self) -> str:
        while select.select([self.master], [], [], 0)[0]:
            try:
                read = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            self.shown += read.decode(errors="replace")
        return self.shown

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.master)


def _as_a_terminal_does() -> None:
    """Ctrl-C reaches the process, and means something: a shell's background jobs inherit that it does not."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
