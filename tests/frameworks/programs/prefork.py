"""A server that imports and uses its application, and only then forks its workers (gunicorn --preload)."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable

import flows
from flows import durable, work

from dbdurable.errors import NotRunning

# Python 3.12 and newer warn of what is tried here: there are threads when it forks.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def child(body: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def end(pids: list[int]) -> None:
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def starts_and_runs() -> None:
    handle = work.start(1)
    with durable.executor():
        assert handle.result(30) == 3
        assert work(2) == 5
        assert flows.awork.sync(2) == 5
    assert work.start(1).status()


def has_no_executor() -> None:
    try:
        work(1)
    except NotRunning as error:
        said = str(error)
    else:
        said = "nothing"
    assert "forked child" in said
    starts_and_runs()


def used_then_forked() -> None:
    before = work.start(1)
    end([child(starts_and_runs), child(starts_and_runs)])
    assert before.status() in ("queued", "succeeded")  # the parent's connections are as they were
    with durable.executor() as executor:
        assert work(1) == 3
        executor.wait_idle(30)
    print("ok")


def forked_under_an_executor() -> None:
    with durable.executor() as executor:
        assert work(1) == 3
        end([child(has_no_executor), child(has_no_executor)])
        assert work(1) == 3
        assert executor.wait_idle(30) is None
    print("ok")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
