"""A pool of threads that are made when there is work, and end when there is none."""

from __future__ import annotations

import logging
import threading

import pytest

from dbdurable._io import threads as module
from dbdurable._io.threads import DaemonThreads
from tests.support.wait import wait_until


class Planted(BaseException):
    """No Exception."""


def fail() -> None:
    raise Planted


def test_threads_end_when_there_is_nothing_to_do_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.01)
    pool = DaemonThreads(3, "test")
    assert [pool.submit(divmod, 7, n).result(10) for n in (2, 3)] == [(3, 1), (2, 1)]
    wait_until(lambda: pool._threads == 0, what="the threads to end")
    assert pool._waiting == pool._begun == 0
    assert pool.submit(divmod, 7, 2).result(10) == (3, 1)


def test_work_that_meets_a_thread_at_its_end_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads give up after no time at all, so that they do so while others bring them work."""
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    pool, many, done, lock = DaemonThreads(4, "test"), 2000, set[int](), threading.Lock()

    def work(n: int) -> None:
        with lock:
            done.add(n)

    def bring(first: int) -> None:
        for n in range(first, many, 4):
            pool.begin(lambda n=n: work(n))  # type: ignore[misc]

    bringers = [threading.Thread(target=bring, args=(first,)) for first in range(4)]
    for thread in bringers:
        thread.start()
    for thread in bringers:
        thread.join(30)
    wait_until(lambda: len(done) == many, what="all of it to be done")
    wait_until(lambda: pool._threads == pool._waiting == pool._begun == 0, what="the threads to end")


def test_a_thread_outlives_work_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    pool = DaemonThreads(1, "test")
    with caplog.at_level(logging.ERROR, "dbdurable"):
        pool.begin(fail)
        assert pool.submit(divmod, 7, 2).result(10) == (3, 1)
    assert "test: a thread failed" in caplog.text
    assert pool._threads == 1
