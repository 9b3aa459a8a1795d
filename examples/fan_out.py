"""Ten thousand items, sixteen at a time, with a progress bar; kill it, run it again, and it goes on where it was.

python examples/fan_out.py [--items 10000] [--crash-after 3000]
"""

import argparse
import os
import signal
from math import isqrt

from rich.progress import Progress

from dbdurable import Completion, Durable, fan_out

durable = Durable()
parser = argparse.ArgumentParser()
parser.add_argument("--items", type=int, default=10_000)
parser.add_argument("--crash-after", type=int, help="kill this process after so many items")
options = parser.parse_args()
bar = Progress()
measuring = bar.add_task("measuring", total=options.items)
measured = 0


@durable.step
def measure(number: int) -> int:
    """Whatever takes its time: a call of a service, a picture to shrink. Every 100th fails here."""
    global measured
    measured += 1
    if measured == options.crash_after:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 100 == 99:
        raise ValueError(f"{number} cannot be measured")
    return isqrt(number)


def measure_and_show(number: int) -> int:
    """One branch: it may make any number of durable calls. Also on replay it moves the bar."""
    try:
        return measure(number)
    finally:
        bar.advance(measuring)


@durable.workflow
def measure_all(count: int) -> tuple[int, int]:
    some_may_fail = Completion(tolerated_failure_percent=5)
    batch = fan_out(measure_and_show, range(count), max_concurrency=16, completion=some_may_fail)
    return len(batch.succeeded), sum(value for _, value in batch.succeeded)


if __name__ == "__main__":
    with bar, durable.executor():
        start = measure_all.options(key=f"measure-{options.items}")
        succeeded, total = start.start(options.items).result(timeout=600)
    print(f"{succeeded} of {options.items} measured, {total} in all; {measured} of them by this process")
