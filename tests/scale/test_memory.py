"""What running workflows take of memory; and a worker that drains a long queue needs no more at its end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbdurable import Durable, aio, sleep
from dbdurable._protocol.call import DurableCall
from dbdurable._protocol.effects import Query
from dbdurable._protocol.frame import WorkflowFrame
from tests.benchmarks.memory import measured
from tests.support.processes import resident_kb
from tests.support.wait import wait_until

JOBS, STARTED_AT_ONCE = 40_000, 5_000
GROWTH_KB_MAX = 20_000
RUNNING_BYTES_MAX = 20_000
SOME, IN_HAND = 100, 8
"""Workflows; and what the executor's own threads may be busy with meanwhile."""

WORKER = """
import sys
from dbdurable import Durable

durable = Durable()

@durable.workflow
def nothing(text: str) -> str:
    return text

if sys.argv[1] == "start":
    for _ in range(int(sys.argv[2]) // int(sys.argv[3])):
        durable.client.start_many(nothing.bind("x" * 500) for _ in range(int(sys.argv[3])))
    durable.close()
else:
    with durable.executor(threads=16):
        sys.stdin.read()
"""


RESIDENT = """
import sys
from tests.benchmarks.memory import measured

print(measured(sys.argv[1], 10_000).resident)
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_stays_flat_while_a_long_queue_is_drained(
    connection: psycopg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "drains.py"
    program.write_text(WORKER)
    environment = {**os.environ, "DBDURABLE_DATABASE_URL": database_url}
    start = [sys.executable, str(program), "start", str(JOBS), str(STARTED_AT_ONCE)]
    subprocess.run(start, env=environment, check=True)

    def done() -> int:
        row = connection.execute("select count(*) from dbdurable.workflow where status = 'succeeded'").fetchone()
        return int(row[0]) if row else 0

    with subprocess.Popen([sys.executable, str(program), "drain"], env=environment, stdin=subprocess.PIPE) as worker:
        wait_until(lambda: done() >= JOBS // 5, 600, "a fifth to be done")
        before = resident_kb(worker.pid)
        wait_until(lambda: done() == JOBS, 800, "all to be done")
        after = resident_kb(worker.pid)
        assert worker.stdin is not None
        worker.stdin.close()
    print(f"resident after {JOBS // 5:,} jobs: {before:,} kB, after {JOBS:,}: {after:,} kB")
    assert after - before <= GROWTH_KB_MAX


def test_a_running_workflow_takes_less_than_20_kb(database_url: str) -> None:
    """Each in the middle of a step that awaits: what Python has allocated for it."""
    taken = measured(database_url, 500, trace=True)
    assert taken.allocated is not None
    print(f"allocated by Python: {taken.allocated / 1000:.1f} kB a workflow\n{taken.by_line}")
    assert 5_000 < taken.allocated <= RUNNING_BYTES_MAX


@pytest.mark.long
@pytest.mark.timeout(300)
def test_ten_thousand_running_workflows_take_less_than_20_kb_each(database_url: str) -> None:
    """The same of the process, as the system sees it."""
    command = [sys.executable, "-c", RESIDENT, database_url]
    taken = float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)
    print(f"resident: {taken / 1000:.1f} kB a workflow")
    assert taken <= RUNNING_BYTES_MAX


@pytest.mark.parametrize("colour", ["def", "async def"])
@pytest.mark.parametrize("what", ["returns", "steps", "parks"])
def test_an_attempt_that_is_gone_leaves_nothing_to_the_garbage_collector(
    what: str, colour: str, database_url: str, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in a circle is found by looking at all objects of a process: that took most of the time of parking.

    No beat comes in between, which would let go of what the process only keeps until then.
    """
    monkeypatch.setenv("DBDURABLE_LEASE_TTL_S", "3600")
    monkeypatch.setenv("DBDURABLE_BEAT_INTERVAL_S", "600")
    durable = Durable(database_url)

    @durable.step
    def step(number: int) -> int:
        return number

    @durable.workflow
    def work(number: int) -> int:
        for _ in range(3 if what == "steps" else 0):
            step(number)
        if what == "parks":
            sleep(3600)
        return number

    @durable.workflow
    async def awork(number: int) -> int:
        for _ in range(3 if what == "steps" else 0):
            await step.aio(number)
        if what == "parks":
            await aio.sleep(3600)
        return number

    def run_some() -> None:
        bind: Any = work.bind if colour == "def" else awork.bind
        durable.client.start_many(bind(n) for n in range(SOME))
        executor.wait_idle(30)

    def found() -> set[int]:
        """Without the collector's help; a thread may hold the last one for a moment."""
        return {id(each) for each in gc.get_objects() if type(each) in (WorkflowFrame, Query, DurableCall)}

    try:
        with durable.executor() as executor:
            run_some()  # with all that is only made once
            gc.collect()
            gc.disable()
            before = found()  # what other tests have left
            run_some()
            wait_until(lambda: len(found() - before) <= IN_HAND, what="the attempts to be gone")
    finally:
        gc.enable()
        durable.close()
    over = "waiting" if what == "parks" else "succeeded"
    assert connection.execute("select count(*) from dbdurable.workflow where status::text = %s", [over]).fetchone() == (
        2 * SOME,
    )
