"""The demo's worker processes: start, watch, kill."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from typing import IO

from psycopg.conninfo import make_conninfo

__all__ = ["Fleet", "Worker"]

STARTS_MAX = 10
CLOSE_TIMEOUT_S = 30.0


class Worker:
    """One process of `dbdurable.cli.demo_worker`."""

    def __init__(self, number: int, url: str, said: queue.SimpleQueue[str]) -> None:
        self.number = number
        self.session_name = f"dbdurable-demo-{os.getpid()}-{number}"
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "dbdurable.cli.demo_worker", str(os.getpid())],
            env={
                **os.environ,
                "DBDURABLE_DATABASE_URL": make_conninfo(url, application_name=self.session_name),
                "DBDURABLE_EMBEDDED": "auto",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the demo, which then closes its workers
        )
        assert self.process.stderr is not None
        threading.Thread(target=self._listen, args=(self.process.stderr, said), daemon=True).start()

    def _listen(self, stream: IO[str], said: queue.SimpleQueue[str]) -> None:
        for line in stream:
            said.put(f"worker {self.number}: {line.rstrip()}")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed, no transaction is ended."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Lets it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()


class Fleet:
    """All workers of one run of the demo. A worker that died by itself is replaced, a few times."""

    def __init__(self, url: str, size: int) -> None:
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._url = url
        self._workers: list[Worker] = []
        for _ in range(size):
            self.start_one()

    def start_one(self) -> Worker:
        """One more worker."""
        if len(self._workers) >= STARTS_MAX:
            raise RuntimeError("the workers end again and again: see what they said above")
        worker = Worker(len(self._workers) + 1, self._url, self.said)
        self._workers.append(worker)
        return worker

    @property
    def alive(self) -> list[Worker]:
        """The workers that run."""
        return [worker for worker in self._workers if worker.alive]

    def by_pid(self, pid: int) -> Worker | None:
        """The worker that is this process."""
        return next((w for w in self.alive if w.process.pid == pid), None)

    def close(self) -> None:
        """Lets all workers end, and kills those that do not."""
        alive = self.alive
        for worker in alive:
            worker.close()
        for worker in alive:
            try:
                worker.process.wait(CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                worker.kill()
