"""A process that dies, without its process: from a chosen point on, nothing of a workflow reaches the database."""

from __future__ import annotations

import threading
from typing import Any

from dbdurable import Executor
from dbdurable._executor.runtime import boottime
from dbdurable._protocol.lease import Lease


class PowerCut(BaseException):
    """The process is gone."""


class Power:
    """A seam for `Database.seam`. Services go on: what they would do in another process they do here."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.fuse: int | None = None
        self.points = 0
        self.off = False

    def reached(self, name: str, connection: Any) -> None:
        thread = threading.current_thread().name
        if thread.startswith(("dbdurable-control", "dbdurable-heartbeat", "dbdurable-notif", "MainThread", "pool-")):
            return
        if name.startswith("after") or "rollback" in name:  # its connection goes back to the pool, as with the process
            return
        self.points += 1
        if self.fuse is not None and self.points >= self.fuse:
            self.off = True
            for frame in self.executor.attempts._batch_of:  # a lost connection is no reason to wait for its end
                frame.lease = Lease(frame.lease.executor_id, frame.lease.ttl_s, boottime)
                frame.lease.lose()
        if self.off:
            raise PowerCut(name)

    def cut_at(self, point: int) -> None:
        """The n-th statement or commit from now on is not sent, nor is any that follows."""
        self.fuse, self.points, self.off = point, 0, False

    def on(self) -> None:
        self.fuse, self.points, self.off = None, 0, False
