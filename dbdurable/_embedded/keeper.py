"""The process that owns one embedded server: starts it, and stops it when the last user is gone.

Run as `python -I -S keeper.py PLAN`, PLAN being a `Plan` in JSON; nothing but the standard library, so that
it starts in milliseconds and does not depend on the caller's environment. Everything it and the server have
to say goes to stdout and stderr, which the caller points at `<data>.log`.

Files beside the data directory:
    <data>.users    each process that uses the server holds a shared lock on it
    <data>.keeper   the keeper holds an exclusive lock on it; its pid is inside
    <data>.log      what the server said
    <data>.new      a data directory in the making

If the keeper dies, Linux sends the server SIGINT, its fast shutdown (PR_SET_PDEATHSIG). Elsewhere the server
goes on and the next keeper adopts it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import locale
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

BUSY = 3
"""Exit status: another keeper has this data directory."""

_POLL_S = 0.1
_STOP_S = 60.0
_ORPHAN_WAIT_S = 10.0
_PR_SET_PDEATHSIG = 1
_HAS_PROC = os.path.isdir("/proc/self")


class Plan(NamedTuple):
    """What a keeper is told. `user` and `group` are ids to change to, None to stay who we are."""

    data: str
    bindir: str
    major: int
    socket_dir: str
    linger_s: float
    durable: bool
    options: dict[str, str]
    user: int | None
    group: int | None


class Postmaster(NamedTuple):
    """A server as described by `postmaster.pid` in its data directory."""

    pid: int
    port: int
    socket_dir: str
    ready: bool

    def accepts(self) -> bool:
        """Say whether it takes connections now."""
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(f"{self.socket_dir}/.s.PGSQL.{self.port}")
            return self.ready
        return False


def beside(data: str | Path, suffix: str) -> Path:
    """Return the path of a file that belongs to the data directory but lies outside of it."""
    return Path(f"{data}.{suffix}")


def open_lock(data: str | Path, suffix: str) -> int:
    """Open a lock file for its owner only and return the descriptor. Raises OSError."""
    return os.open(beside(data, suffix), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, kind: int) -> bool:
    """Take the lock (`fcntl.LOCK_SH` or `LOCK_EX`) if that is possible at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_postmaster(data: str | Path) -> Postmaster | None:
    """Return what `postmaster.pid` says, or None. A server that just starts has not said all."""
    try:
        lines = Path(data, "postmaster.pid").read_text().splitlines()
        lines += [""] * (8 - len(lines))
        return Postmaster(int(lines[0]), int(lines[3] or 0), lines[4], ready=lines[7].strip() == "ready")
    except (OSError, ValueError):
        return None


class Server:
    """A running server: our child, or (`child` None) one that outlived an earlier keeper."""

    def __init__(self, data: str, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.data, self.pid, self.child = data, pid, child

    def alive(self) -> bool:
        """Say whether the process lives; a pid that some other program got since does not count."""
        if self.child is not None:
            return self.child.poll() is None
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        if not _HAS_PROC:
            return True
        try:
            return os.path.samefile(f"/proc/{self.pid}/cwd", self.data)  # where a postmaster always is
        except PermissionError:
            return True
        except OSError:
            return False

    def stop(self, how: signal.Signals) -> None:
        """Stop it, SIGINT disconnecting everybody, SIGQUIT without a checkpoint; return when it is gone."""
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            if self.alive():
                os.kill(self.pid, number)
            deadline = time.monotonic() + _STOP_S
            while self.alive() and time.monotonic() < deadline:
                time.sleep(_POLL_S / 5)


def adopt(data: str) -> Server | None:
    """Return the server that outlived its keeper, if there is one and it does not end in the meantime."""
    deadline = time.monotonic() + _ORPHAN_WAIT_S
    while (found := read_postmaster(data)) and (server := Server(data, found.pid)).alive():
        if found.accepts():
            return server
        if time.monotonic() > deadline:
            return None  # let postgres itself say what is wrong
        time.sleep(_POLL_S / 5)
    # The pid in a stale file may belong to some other program by now (pids repeat in every container), which
    # makes postgres refuse to start. We hold the keeper's lock and know that no server has this directory.
    if _HAS_PROC:
        Path(data, "postmaster.pid").unlink(missing_ok=True)
    return None


def _end_with_keeper() -> Callable[[], None] | None:
    """Return what a child does first so that the kernel sends it SIGINT when the keeper dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, keeper = ctypes.CDLL(None).prctl, os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != keeper:  # it died before we asked
            os._exit(1)

    return ask_kernel  # runs after the change of user, which would undo it


def spawn(plan: Plan, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program of PostgreSQL as the plan's account."""
    return subprocess.Popen(  # noqa: S603 - programs the caller has chosen
        command,
        cwd="/",
        stdin=subprocess.DEVNULL,
        user=plan.user,
        group=plan.group,
        extra_groups=None if plan.user is None else [],
        umask=0o077,
        preexec_fn=_end_with_keeper(),  # safe: the keeper has one thread
    )


def create_cluster(plan: Plan) -> None:
    """Make the data directory, under another name until it is complete: initdb may be killed half-way."""
    draft = beside(plan.data, "new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if plan.user is not None and plan.group is not None:
        os.chown(draft, plan.user, plan.group)
    command = [f"{plan.bindir}/initdb", "-D", str(draft), "-U", "postgres", "-E", "UTF8", "--no-instructions"]
    command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--locale={_libc_locale()}"]
    if plan.major >= 17:  # does not change its sort order when the C library is upgraded
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if not plan.durable:
        command += ["--no-sync"]
    if status := spawn(plan, command).wait():
        sys.exit(f"initdb ended with status {status}")
    draft.rename(plan.data)  # replaces an empty directory; refuses one with content
    if plan.durable:
        parent = os.open(draft.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


def _libc_locale() -> str:
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    return "C.UTF-8"


def claim_socket_dir(plan: Plan) -> None:
    """Make the socket's directory, open to the server's account only; leave if someone else was first."""
    path, owner = plan.socket_dir, os.geteuid() if plan.user is None else plan.user
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    ours = found.st_uid in (owner, os.geteuid())  # root's own: a keeper died before the next lines
    if not stat.S_ISDIR(found.st_mode) or not ours or found.st_mode & 0o077:
        sys.exit(f"{path} exists and is not a private directory of uid {owner}, so no socket is put there: remove it")
    if plan.user is not None and plan.group is not None:
        os.chown(path, plan.user, plan.group)


def launch(plan: Plan) -> Server:
    """Start postgres."""
    claim_socket_dir(plan)
    command = [f"{plan.bindir}/postgres", "-D", plan.data]
    for name, value in plan.options.items():
        command += ["-c", f"{name}={value}"]
    child = spawn(plan, command)
    return Server(plan.data, child.pid, child)


def keep(plan: Plan) -> None:
    """Run the server until SIGTERM, or until nobody has used it for `linger_s`, or its files are deleted."""
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked_to_stop.append(received))
    users, version_file = open_lock(plan.data, "users"), Path(plan.data, "PG_VERSION")
    if not version_file.exists():
        create_cluster(plan)
    server = adopt(plan.data) or launch(plan)
    idle_since = None
    while server.alive() and not asked_to_stop and version_file.exists():
        time.sleep(_POLL_S)
        if not try_lock(users, fcntl.LOCK_EX):
            idle_since = None
            continue
        idle_since = idle_since or time.monotonic()
        if time.monotonic() - idle_since >= plan.linger_s:
            break  # with the lock: whoever comes now waits until the server is down and starts another
        fcntl.flock(users, fcntl.LOCK_UN)
    if version_file.exists():
        server.stop(signal.SIGINT)
        shutil.rmtree(plan.socket_dir, ignore_errors=True)  # a killed server leaves its socket
    else:  # deleted: nothing is left to save, and the next server's socket may be there soon
        server.stop(signal.SIGQUIT)
    with suppress(OSError):
        os.rmdir(plan.socket_dir)


def main() -> None:
    """Take the keeper's lock, then go on in the background: the caller's wait ends here."""
    plan = Plan(**json.loads(sys.argv[1]))
    lock = open_lock(plan.data, "keeper")
    if not try_lock(lock, fcntl.LOCK_EX):
        sys.exit(BUSY)
    os.ftruncate(lock, 0)  # the last keeper's pid
    if os.fork() == 0:  # so that nobody has to reap the keeper; the lock goes with the child
        os.write(lock, str(os.getpid()).encode())
        keep(plan)


if __name__ == "__main__":
    main()
