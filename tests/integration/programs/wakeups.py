"""Processes of an application that start work, fork and end: `wakeups.py URL WHAT`."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable

from dbdurable import Client, Durable

# Python 3.12 and newer warn of what is tried here: there are threads when it forks.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

url = sys.argv[1]
durable = Durable(url)


@durable.workflow
def double(n: int) -> int:
    return n * 2


def start_and_wait() -> None:
    print(Client(url).workflow("double", returns=int).start(n=21).result(30))


def start_and_end() -> None:
    print(double.start(21).id)


def in_a_child(body: Callable[[], None]) -> None:
    """Runs `body` in a fork that ends as programs do."""
    pid = os.fork()
    if not pid:
        body()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def fork_and_start_child() -> None:
    handle = double.start(1)
    assert handle.result(30) == 2
    print(handle.id, flush=True)


def fork_and_start() -> None:
    print(double.start(0).id, flush=True)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        """At the moment of the fork some other thread is in the middle of everything."""
        runtime = durable._runtime
        with runtime.notifier._changed, runtime.waiters._lock:
            held.set()
            over.wait()

    threading.Thread(target=hold).start()
    held.wait()
    in_a_child(fork_and_start_child)
    over.set()
    print(double.start(2).id, flush=True)


def fork_under_listener() -> None:
    with durable.executor() as executor:
        while not executor.listener.listening:
            executor.stopping.wait(0.01)
        connection = executor.listener._ear._connection
        assert connection is not None
        socket = connection.fileno()

        def child() -> None:
            try:
                os.fstat(socket)
            except OSError:
                print("closed in the child", end=", ", flush=True)

        in_a_child(child)
        assert executor.listener._ear._connection is connection
        client = Client(url)
        print(client.workflow("double", returns=int).start(n=21).result(30), "in the parent", flush=True)
        assert executor.listener._ear._connection is connection
        assert not connection.closed


if __name__ == "__main__":
    globals()[sys.argv[2]]()
