"""Queues: work that keeps to limits. Mails of one customer go out one after the other, in their order; never more
than three at once in all; and a bulk of them begins with one statement.

    python examples/queues.py
"""

import threading
import time
from collections import defaultdict

from dbdurable import Durable, Rate

durable = Durable()
mails = durable.queue("mails", concurrency=3, per_partition=1)
reports = durable.queue("reports", rate=Rate(100, per=60, burst=2), max_depth=1000)

lock = threading.Lock()
now = most = 0
sent: dict[str, list[int]] = defaultdict(list)


@durable.step
def send(to: str, number: int) -> None:
    global now, most
    with lock:
        now, most = now + 1, max(most, now + 1)
    time.sleep(0.02)
    with lock:
        now -= 1
        sent[to].append(number)


@durable.workflow(queue=mails)
def mail(to: str, number: int) -> None:
    send(to, number)


@durable.workflow(queue=reports)
def report(day: str) -> str:
    return f"report of {day}"


if __name__ == "__main__":
    client = durable.client
    with durable.executor(threads=8) as executor:
        people = ["ann", "bob", "cyd", "dan"]
        client.start_many(mail.options(partition=to).bind(to, number) for number in range(5) for to in people)
        executor.wait_idle()
        for to in people:
            print(f"{to} got {sent[to]}")
        print(f"at most {most} at once")

        # Changed at run time, from here, with `dbdurable queues set reports ...`, or with SQL.
        client.pause_queue(reports)
        handle = report.options(key="monday").start("monday")
        print(f"{handle.status()} while its queue is paused")
        client.set_queue(reports, rate=None)
        client.resume_queue(reports)
        print(handle.result())
