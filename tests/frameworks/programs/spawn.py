"""Functions that travel to spawned processes: by name."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

from flows import awork, double, durable, work


def name_of(function: Any) -> str:
    return f"{type(function).__name__} {function.name}"


def start(function: Any) -> str:
    return str(function.start(1).id)


def main() -> None:
    functions = [work, awork, double, work.aio, awork.sync]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(*pool.map(name_of, functions), sep=", ")
        ids = pool.map(start, [work, awork.sync, double])
    with durable.executor():
        print(*[durable.client.handle(id).result(30) for id in ids])


if __name__ == "__main__":
    main()
    sys.exit(0)
