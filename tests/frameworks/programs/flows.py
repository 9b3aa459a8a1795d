"""An application in one file: a script, `python flows.py`, and a module that a worker imports."""

from __future__ import annotations

import sys

from dbdurable import Durable

durable = Durable()


@durable.step
def double(n: int) -> int:
    return n * 2


@durable.step
async def adouble(n: int) -> int:
    return n * 2


@durable.workflow
def work(n: int) -> int:
    return double(n) + 1


@durable.workflow
async def awork(n: int) -> int:
    return await adouble(n) + 1


def main(command: str) -> None:
    if command == "start":
        print(work.start(1).id, awork.sync.start(2).id)
    elif command == "run":
        with durable.executor():
            print(work(1), awork.sync(2))
    elif command == "worker":
        with durable.executor() as executor:
            executor.wait_idle(30)


if __name__ == "__main__":
    main(sys.argv[1])
