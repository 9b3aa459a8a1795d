"""Processes that take jobs from queues. They write a byte for each job, so nobody has to ask the database.

python -m tests.benchmarks.workers MODULE FUNCTION URL FD      # one of them; not for people
"""

from __future__ import annotations

import importlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import resident_kb

TICKS_S = os.sysconf("SC_CLK_TCK")
READY, TICK = b"R", b"."


class Shift:
    """What a worker process knows of the benchmark: when to begin, that a job ran, and when to end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ready(self) -> None:
        """Everything is imported. Returns when the work may begin."""
        os.write(self._fd, READY)
        sys.stdin.readline()

    def tick(self) -> None:
        """A job ran."""
        os.write(self._fd, TICK)

    def until_end(self) -> None:
        """Returns when the benchmark has seen enough."""
        sys.stdin.read()

    def end_with_input(self) -> None:
        """For libraries that cannot be stopped from outside: what they did is committed by then."""

        def wait() -> None:
            self.until_end()
            os._exit(0)

        threading.Thread(target=wait, daemon=True).start()


class Crew:
    """The worker processes, seen from outside."""

    def __init__(self, module: str, function: str, url: str, processes: int) -> None:
        self._read, write = os.pipe()
        command = [sys.executable, "-m", "tests.benchmarks.workers", module, function, url, str(write)]
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write], env=environment)
            for _ in range(processes)
        ]
        os.close(write)
        self._seen = 0
        self._ready = 0

    def wait_ready(self) -> None:
        while self._ready < len(self._processes):
            self._look(60)

    def go(self) -> None:
        """Lets all of them begin."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()

    def wait(self, jobs: int, timeout_s: float = 600) -> float:
        """Waits until so many jobs ran, in all of the processes together; says when that was."""
        deadline = time.monotonic() + timeout_s
        while self._seen < jobs:
            assert time.monotonic() < deadline, f"{self._seen} of {jobs} jobs ran in {timeout_s:g} s"
            self._look(deadline - time.monotonic())
        return time.perf_counter()

    def _look(self, timeout_s: float) -> None:
        if not select.select([self._read], [], [], max(0.0, timeout_s))[0]:
            raise AssertionError(f"nothing from the workers in {timeout_s:g} s ({self._seen} jobs ran)")
        said = os.read(self._read, 1 << 16)
        assert said, "the workers have ended"
        self._seen += said.count(TICK)
        self._ready += said.count(READY)

    @property
    def seen(self) -> int:
        return self._seen

    def cpu_s(self) -> float:
        """What they used so far."""
        return sum(cpu_of(process.pid) for process in self._processes)

    def memory_mb(self) -> float:
        """What they hold at the moment."""
        return sum(resident_kb(process.pid) for process in self._processes) / 1024

    def close(self) -> None:
        for process in self._processes:
            if process.stdin is not None and process.poll() is None:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(self._read)


@contextmanager
def crew(module: str, function: str, url: str, processes: int) -> Iterator[Crew]:
    """Started and ready; ended at the end."""
    workers = Crew(module, function, url, processes)
    try:
        workers.wait_ready()
        yield workers
    finally:
        workers.close()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process used, and those children of it that it has waited for; 0 where nobody tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS_S


if __name__ == "__main__":
    module, function, url, fd = sys.argv[1:]
    getattr(importlib.import_module(module), function)(url, Shift(int(fd)))
