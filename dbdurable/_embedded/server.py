"""One embedded server as its users see it: start, use, let go."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from dbdurable._embedded import keeper
from dbdurable._embedded.plan import as_options, make_plan
from dbdurable.errors import DatabaseUnavailable

__all__ = ["EmbeddedServer"]

ENVIRONMENT_KEPT = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # the server needs no secrets
LOG_MAX_BYTES = 1_000_000
LOG_TAIL_BYTES = 2_000
POLL_S = 0.01

_live: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


class EmbeddedServer:
    """A PostgreSQL of our own, shared by all processes that name the same data directory.

    The first process starts it; it stops `linger_s` after the last one has called `release()` or ended,
    however it ended. The data stays. It listens on a Unix socket that only the account running it (and root)
    can reach, and not on the network. Not to be started from two threads at once.

    Args:
        data: the data directory, made if missing. Files that belong to it are put beside it.
        durable: False trades safety from power failures for speed (tests).
        linger_s: seconds that the server goes on without users.
        settings: server settings, as for postgresql.conf; `settings={"listen_addresses": "127.0.0.1"}` opens
            TCP with password login. Whoever starts the server decides on the last three; the others share.

    Example:
        >>> with EmbeddedServer(Path("/tmp/shop/pg"), durable=False) as server:  # doctest: +SKIP
        ...     psycopg.connect(server.url)
    """

    def __init__(
        self,
        data: Path,
        *,
        durable: bool = True,
        linger_s: float = 2.0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.data = Path(data).absolute()
        self.durable = durable
        self.linger_s = linger_s
        self.settings = as_options(settings or {})
        self._users: int | None = None
        self._found: keeper.Postmaster | None = None

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, known after `start()`; raises DatabaseUnavailable before."""
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://postgres@/postgres?host={host}&port={self._address().port}"

    @property
    def socket_dir(self) -> Path:
        """The directory of the server's socket, known after `start()`; raises DatabaseUnavailable before."""
        return Path(self._address().socket_dir)

    def start(self, timeout_s: float = 60.0) -> Self:
        """Hold the server for this process and return when it takes connections; harmless to repeat.

        Raises:
            DatabaseUnavailable: no programs, or the server did not start; the message ends with its log.
            BadConfiguration: the data directory is another major version's, or out of the server's reach.
        """
        deadline, held_before = time.monotonic() + timeout_s, self._users is not None
        try:
            with self._os_errors_explained():
                self._hold(deadline)
                self._bring_up(deadline)
        except BaseException:
            if not held_before:
                self.release()
            raise
        return self

    def release(self) -> None:
        """Let go of the server for this process; it stops soon if nobody else does. Harmless to repeat."""
        held, self._users = self._users, None
        _live.discard(self)
        if held is not None:
            os.close(held)

    def stop(self, timeout_s: float = 60.0) -> bool:
        """Stop the server now, for all its users, and let go of it. Return whether there was one running.

        Raises:
            DatabaseUnavailable: it did not stop in `timeout_s`.
        """
        self.release()
        deadline = time.monotonic() + timeout_s
        with self._os_errors_explained():
            while (pid := self._keeper_pid()) == 0:  # it has just started
                self._wait(deadline, "stop")
            if pid is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            while self._keeper_pid() == pid:
                self._wait(deadline, "stop")
            return True

    def __enter__(self) -> Self:
        """Start."""
        return self.start() if self._users is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""
        self.release()

    def _address(self) -> keeper.Postmaster:
        if self._found is None:
            raise DatabaseUnavailable(f"the embedded PostgreSQL at {self.data} was not started yet")
        return self._found

    def _hold(self, deadline: float) -> None:
        if self._users is not None:
            return
        _make_directories(self.data.parent)
        self._users = keeper.open_lock(self.data, "users")
        _live.add(self)
        # Refused for a moment by a keeper that looks for users, and while one is stopping the server.
        while not keeper.try_lock(self._users, fcntl.LOCK_SH):
            self._wait(deadline, "start")

    def _hold_in_child(self) -> None:
        """After a fork: replace the lock shared with the parent by one of our own, without a gap.

        So a lock is always its holder's, also for those who look (lslocks shows the holder's pid), and no
        process can give up another's.
        """
        inherited = self._users
        if inherited is not None:
            self._users = keeper.open_lock(self.data, "users")
            keeper.try_lock(self._users, fcntl.LOCK_SH)
            os.close(inherited)

    def _bring_up(self, deadline: float) -> None:
        log_start = None
        while not self._up():
            if self._keeper_pid() is None:
                if log_start is not None:
                    raise self._failure(log_start)
                log_start = self._launch_keeper()
            self._wait(deadline, "start")

    def _up(self) -> bool:
        # A server without a keeper is about to stop (Linux) or waits to be adopted.
        found = keeper.read_postmaster(self.data)
        if found is None or not found.ready or self._keeper_pid() is None or not found.accepts():
            return False
        self._found = found
        return True

    def _keeper_pid(self) -> int | None:
        """The keeper's pid (0: it has just started), None if there is no keeper."""
        try:
            descriptor = os.open(keeper.beside(self.data, "keeper"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return None if keeper.try_lock(descriptor, fcntl.LOCK_SH) else int(os.read(descriptor, 20) or 0)
        finally:
            os.close(descriptor)

    def _wait(self, deadline: float, goal: str) -> None:
        if time.monotonic() > deadline:
            log = keeper.beside(self.data, "log")
            raise DatabaseUnavailable(f"the embedded PostgreSQL at {self.data} did not {goal} in time; see {log}")
        time.sleep(POLL_S)

    @contextmanager
    def _os_errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatabaseUnavailable(f"the embedded PostgreSQL cannot use {self.data}: {error}") from error

    def _launch_keeper(self) -> int | None:
        """Start a keeper and return where its part of the log begins, None if another was faster."""
        plan = make_plan(self.data, durable=self.durable, linger_s=self.linger_s, settings=self.settings)
        log = keeper.beside(self.data, "log")
        if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
            log.replace(keeper.beside(self.data, "log.1"))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start = os.fstat(output).st_size
            status = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", keeper.__file__, json.dumps(plan._asdict())],
                cwd="/",
                env={name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ).returncode
        finally:
            os.close(output)
        return None if status == keeper.BUSY else log_start

    def _failure(self, log_start: int) -> DatabaseUnavailable:
        log = keeper.beside(self.data, "log")
        said = log.read_bytes()[log_start:][-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return DatabaseUnavailable(f"the embedded PostgreSQL at {self.data} did not start; the end of {log}:\n{said}")


def _make_directories(directory: Path) -> None:
    """Make what is missing; as root so that the server's account can pass, whatever the umask."""
    mode = 0o755 if os.geteuid() == 0 else 0o700
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        place.chmod(mode)


def _hold_in_child() -> None:
    for server in list(_live):
        with suppress(OSError):  # then the inherited lock stays
            server._hold_in_child()


os.register_at_fork(after_in_child=_hold_in_child)
