"""An executor whose clock is a day ahead does what all others do: time is the database's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psycopg
import pytest

PROGRAM = """
import datetime, sys, time

OFF_S = float(sys.argv[2])
real_time, real_time_ns, real_datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: real_time() + OFF_S
time.time_ns = lambda: real_time_ns() + int(OFF_S * 1e9)

class Shifted(real_datetime):
    @classmethod
    def now(cls, tz=None):
        return real_datetime.now(tz) + datetime.timedelta(seconds=OFF_S)

datetime.datetime = Shifted

from dbdurable import Durable, aio, sleep

durable = Durable(sys.argv[1])

@durable.step
def note(n: int) -> int:
    return n

@durable.workflow
def work(n: int) -> int:
    sleep(0.01)
    return note(n)

with durable.executor(threads=2) as executor:
    later = work.options(delay=3600).start(1)
    offer = work.options(expires=3600).start(2)
    assert offer.result(30) == 2
    assert work(3) == 3
    assert later.status() == "queued"
    assert not executor.lease.lost
print("done")
"""


@pytest.mark.parametrize("off_s", [86_400.0, -86_400.0])
def test_a_clock_that_is_a_day_off_has_no_effect(
    off_s: float, database_url: str, connection: psycopg.Connection[Any]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, database_url, str(off_s)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
    assert connection.execute(
        """
        select count(*) filter (where abs(extract(epoch from created_at - clock_timestamp())) < 120),
               count(*) filter (where abs(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000
                                          - extract(epoch from clock_timestamp())) < 120)
          from dbdurable.workflow
        """
    ).fetchone() == (3, 3)
    due = connection.execute(
        "select extract(epoch from due - clock_timestamp()) from dbdurable.wait where kind = 'start'"
    )
    assert abs(due.fetchone()[0] - 3600) < 120  # type: ignore[index]
