"""Branches that are none: both checkers reject exactly the marked lines."""

from dbdurable import Durable, aio, fan_out, gather, race

durable = Durable()


@durable.step
def thumb(image: str) -> bytes:
    return b""


@durable.step
async def athumb(image: str) -> bytes:
    return b""


@durable.workflow
def album(images: list[str]) -> None:
    gather(thumb("a"))  # error: called already
    race(thumb)  # error: takes an argument
    fan_out(thumb, [1, 2])  # error: items of another type
    fan_out(thumb.bind("a"), images)  # error: a call, not a function


@durable.workflow
async def aalbum(images: list[str]) -> None:
    await aio.gather(thumb.bind("a"))  # error: `def` code
    await aio.fan_out(thumb, images)  # error: `def` code
    await aio.fan_out(athumb, [1])  # error: items of another type
