"""gather, race and fan_out in both colours keep the types of what the calls return."""

import asyncio
from functools import partial
from typing import assert_type

from dbdurable import Batch, Completion, Durable, aio, fan_out, gather, race

durable = Durable()


@durable.step
def thumb(image: str, size: int = 64, *, fmt: str = "png") -> bytes:
    return b""


@durable.step
def words(image: str) -> list[str]:
    return []


@durable.step
async def athumb(image: str, size: int = 64) -> bytes:
    return b""


@durable.step
async def awords(image: str) -> list[str]:
    return []


@durable.workflow
def one(image: str) -> int:
    return 1


@durable.workflow
def album(images: list[str]) -> int:
    t, w = gather(thumb.bind(images[0], size=128), words.bind(images[0]))
    assert_type(t, bytes)
    assert_type(w, list[str])

    def branch() -> int:
        thumb("a")
        return 1

    b, t2 = gather(branch, partial(thumb, "b", fmt="jpg"))
    assert_type(b, int)
    assert_type(t2, bytes)
    assert_type(gather(branch, thumb.bind("a"), words.bind("b")), tuple[int, bytes, list[str]])
    assert_type(gather(*[thumb.bind(image) for image in images]), tuple[bytes, ...])
    assert_type(fan_out(thumb, images, max_concurrency=8), list[bytes])
    assert_type(fan_out(one, images), list[int])
    batch = fan_out(thumb, images, completion=Completion(tolerated_failure_percent=10))
    assert_type(batch, Batch[bytes])
    assert_type(batch.succeeded, list[tuple[int, bytes]])
    assert_type(batch.failed, list[tuple[int, Exception]])
    index, first = race(thumb.bind("a"), thumb.bind("b"), timeout=10)
    assert_type(first, bytes)
    return index


@durable.workflow
async def aalbum(images: list[str]) -> int:
    t, w = await aio.gather(athumb(images[0]), awords.bind(images[0]))
    assert_type(t, bytes)
    assert_type(w, list[str])
    t3, w3 = await asyncio.gather(athumb(images[0]), words.aio(images[0]))
    assert_type(t3, bytes)
    assert_type(w3, list[str])

    async def branch() -> int:
        await athumb("a")
        return 1

    n, t4 = await aio.gather(branch, thumb.aio.bind("b"))
    assert_type(n, int)
    assert_type(t4, bytes)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(athumb("x"))
    assert_type(task.result(), bytes)
    assert_type(await aio.fan_out(athumb, images), list[bytes])
    assert_type(await aio.fan_out(thumb.aio, images), list[bytes])
    assert_type(await aio.fan_out(thumb.aio, images, completion=Completion()), Batch[bytes])
    i, first = await aio.race(athumb("a"), athumb.bind("b"))
    assert_type(first, bytes)
    return i
