"""A worker process under chaos: an executor, and an ear for the one who started it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import stat
import threading
from multiprocessing.connection import Connection as Pipe

LIFE = {
    "DBDURABLE_LEASE_TTL_S": "6",
    "DBDURABLE_BEAT_INTERVAL_S": "0.4",
    "DBDURABLE_POLL_INTERVAL_S_MAX": "0.1",
    "DBDURABLE_PARK_AFTER_S": "0.02",
    "DBDURABLE_ENV_FILE": os.devnull,
}
"""Short lives, so that a frozen process outlives its lease soon; and parents that park soon."""

THREADS, TASKS = 6, 12


def work(url: str, outside: str, log: str, mutant: str | None, pipe: Pipe) -> None:
    """The process's whole life: until it is told to close, or is killed."""
    os.environ.update(LIFE, CHAOS_OUTSIDE=outside)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the conductor
    logging.basicConfig(level=logging.WARNING, filename=log, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    from tests.chaos import mutants
    from tests.chaos.flows import durable

    if mutant is not None:
        mutants.MUTANTS[mutant]()
    durable.configure(url=url, migrate=False)
    closing = threading.Event()
    executor = durable.executor(threads=THREADS, tasks=TASKS)
    while not closing.is_set():
        try:
            executor.open()
            break
        except Exception:  # the database is just being restarted
            logging.exception("could not open yet")
            closing.wait(0.2)
    threading.Thread(target=_listen, args=(pipe, closing), daemon=True).start()
    pipe.send("open")
    closing.wait()
    executor.close(timeout=10)
    durable.close()


def _listen(pipe: Pipe, closing: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            match pipe.recv():
                case "close":
                    closing.set()
                case "cut", int(seed):
                    pipe.send(("cut", cut_some(random.Random(seed))))
                case unknown:
                    raise AssertionError(unknown)


def cut_some(chance: random.Random) -> int:
    """Breaks about half of this process's connections to the server under the library; how many."""
    cut = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            number = int(name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as wire:
                if ".s.PGSQL." in str(wire.getpeername()) and chance.random() < 0.5:
                    wire.shutdown(socket.SHUT_RDWR)
                    cut += 1
    return cut
