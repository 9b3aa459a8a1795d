"""Programs that end without closing anything, each in another way."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

from flows import awork, durable, work


@durable.workflow
def hang() -> None:
    hanging.set()
    time.sleep(3600)  # dbdurable: allow


@durable.workflow
async def ahang() -> None:
    hanging.set()
    await asyncio.sleep(3600)  # dbdurable: allow


hanging = threading.Event()


def left_open() -> None:
    durable.executor().open()
    print(work(1), awork.sync(2))


def left_open_with_work() -> None:
    durable.executor().open()
    hang.start()
    assert hanging.wait(10)
    hanging.clear()
    ahang.sync.start()
    assert hanging.wait(10)
    print("hanging")


def started_only() -> None:
    work.start(1)
    print("started")


def never_used() -> None:
    print("imported")


def exits_inside() -> None:
    with durable.executor():
        print(work(1))
        sys.exit(3)


def async_left_open() -> None:
    async def main() -> None:
        await durable.executor().aopen()
        print(await work.aio(1), await awork(2))

    asyncio.run(main())


def async_loop_died() -> None:
    async def main() -> None:
        await durable.executor().aopen()
        await ahang.start()
        await asyncio.to_thread(hanging.wait, 10)
        print("hanging")

    asyncio.run(main())


def async_starts_only() -> None:
    async def main() -> None:
        await work.aio.start(1)
        print("started")

    asyncio.run(main())
    asyncio.run(main())  # another loop, after the first one has gone without closing its pool


def in_a_thread() -> None:
    thread = threading.Thread(target=left_open)
    thread.start()
    thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
