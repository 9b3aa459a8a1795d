"""Workflows that are cut short: cancelled, timed out, parts of them left behind, and the children of such.

Each is stopped at one place, so that every run of it leaves the same journal: it cancels itself in a step that a
shield lets run again, and whatever a clock ends is a wait for what never comes.
"""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

from psycopg import Connection

from dbdurable import aio, current_workflow, fan_out, gather, race, recv, send, shield, sleep, timeout
from dbdurable.errors import WaitTimeout
from dbdurable.types import Completion
from tests.crash.workflows import awrite, call, durable, outside, write


@durable.step
def stop(run: str, id: str) -> None:
    outside(run, "stop")
    durable.client.handle(id).cancel("stop")


def _me() -> str:
    return str(current_workflow().id)


# -- cancelled ---------------------------------------------------------------------------------------------------


@durable.workflow
def cancelled(run: str) -> None:
    write(run, "before", 1)
    try:
        with shield():
            stop(run, _me())
            write(run, "shielded", 2)
            call(run, "shielded")
        write(run, "never", 1000)
    finally:
        write(run, "cleaned up", 3)
        sleep(0.15)
        call(run, "cleaned up")


@durable.workflow
async def acancelled(run: str) -> None:
    """One branch is cancelled where it waits, by another one."""

    async def waits() -> None:
        try:
            await aio.recv("never")
        finally:
            await awrite(run, "cleaned up in a branch", 2)

    async def stops() -> None:
        with shield():
            await stop.aio(run, _me())
            await awrite(run, "shielded", 3)

    try:
        await aio.gather(waits, stops)
    finally:
        with shield():
            await call.aio(run, "cleaned up")
        await awrite(run, "cleaned up", 4)


# -- out of time -------------------------------------------------------------------------------------------------


@durable.workflow(timeout=0.6)
def deadline(run: str) -> None:
    with shield():  # however late it is after a crash
        write(run, "before", 1)
    try:
        recv("never")
    finally:
        write(run, "cleaned up", 2)
        sleep(0.15)
        call(run, "cleaned up")


@durable.workflow(timeout=0.6)
async def adeadline(run: str) -> None:
    with shield():
        await awrite(run, "before", 1)
    try:
        await aio.gather(aio.sleep(3600))
    finally:
        await awrite(run, "cleaned up", 2)
        await call.aio(run, "cleaned up")


@durable.step
def hang(run: str) -> None:
    outside(run, "hangs")
    Event().wait()


@durable.workflow(timeout=3600)
def hangs(run: str) -> None:
    try:
        hang(run)
    finally:
        call(run, "cleaned up")


@durable.workflow
def limits(run: str) -> list[Any]:
    found: list[Any] = []
    try:
        with timeout(0.2):
            try:
                recv("never")
            finally:
                write(run, "cleaned up in the block", 1)
    except WaitTimeout:
        found.append(call(run, "late"))
    with timeout(3600):
        found.append(write(run, "in time", 2))
        try:
            with timeout(0.1):
                sleep(3600)
        except WaitTimeout:
            found.append(write(run, "late again", 3))
    return [*found, write(run, "after", 4)]


@durable.workflow
async def alimits(run: str) -> list[Any]:
    async def branch(n: int) -> int:
        try:
            await aio.recv(f"never-{n}")
        finally:
            await awrite(run, f"cleaned up {n}", n)
        return n

    found: list[Any] = []
    try:
        with timeout(0.2):
            await aio.gather(branch(1), branch(2))
    except WaitTimeout:
        found.append(await call.aio(run, "late"))
    with timeout(3600):
        found.append(await awrite(run, "in time", 3))
    return [*found, await awrite(run, "after", 4)]


# -- left behind -------------------------------------------------------------------------------------------------


@durable.workflow
def losers(run: str) -> list[Any]:
    def lose() -> None:
        recv("never")

    def soon() -> int:
        sleep(0.1)
        return 5

    def item(n: int) -> int:
        if n == 2:
            recv("never either")
        return len(call(run, f"item {n}"))

    def win() -> int:
        sleep(0.1)  # both losers wait by then
        return write(run, "winner", 1)

    both = gather(call.bind(run, "left"), write.bind(run, "right", 2))
    won = race(lose, win, lose)
    first = race(lose, soon, timeout=3600)
    batch = fan_out(item, [1, 2, 3], max_concurrency=3, completion=Completion(min_successful=2))
    return [both, won, first, batch.succeeded, write(run, "after", 3)]


@durable.workflow
async def alosers(run: str) -> list[Any]:
    async def lose() -> None:
        await aio.recv("never")

    async def win() -> int:
        await aio.sleep(0.1)
        return await awrite(run, "winner", 1)

    async def item(n: int) -> int:
        if n == 2:
            await aio.recv("never either")
        await asyncio.sleep(0)
        return len(await call.aio(run, f"item {n}"))

    both = await aio.gather(call.aio.bind(run, "left"), awrite.bind(run, "right", 2))
    won = await aio.race(lose, win, lose)
    batch = await aio.fan_out(item, [1, 2, 3], max_concurrency=3, completion=Completion(min_successful=2))
    return [both, won, batch.succeeded, await awrite(run, "after", 3)]


# -- children ----------------------------------------------------------------------------------------------------


@durable.workflow
def child_that_waits(run: str, parent: str) -> None:
    send(parent, "waits", True)
    try:
        recv("never")
    finally:
        call(run, "a child cleaned up")


@durable.workflow
def child_that_goes_on(run: str, parent: str) -> str:
    send(parent, "goes-on", True)
    sleep(0.3)
    call(run, "a child went on")
    return "went on"


@durable.workflow
def closes(run: str) -> list[bool]:
    """It ends well: one child ends with it, the other one does not."""
    child_that_waits.options(queue=run, parent_close="cancel").start(run, _me())
    child_that_goes_on.options(queue=run, parent_close="abandon").start(run, _me())
    return [recv("waits", bool), recv("goes-on", bool)]


@durable.workflow
async def cascades(run: str) -> None:
    """A child that it has called cancels it; that reaches all children but the one that is abandoned."""
    me = _me()
    await child_that_waits.aio.options(queue=run).start(run, me)
    await child_that_goes_on.aio.options(queue=run, parent_close="abandon").start(run, me)
    await aio.recv("waits", bool)
    await aio.recv("goes-on", bool)
    try:
        await child_that_stops_its_parent.aio(run, me)
    finally:
        await awrite(run, "cleaned up", 4)


@durable.workflow
def child_that_stops_its_parent(run: str, parent: str) -> None:
    with shield():
        stop(run, parent)
    try:
        recv("never")
    finally:
        call(run, "the child that was called cleaned up")


# -- started by a message ----------------------------------------------------------------------------------------


@durable.workflow
def listener(run: str) -> int:
    return write(run, "heard", sum(recv("number", int) for _ in range(4)))


def _listener(run: str) -> Any:
    return listener.options(key=f"{run} listens", queue=run).bind(run)


@durable.step
def greet(run: str) -> None:
    outside(run, "greeted")
    _listener(run).send("number", 4)


@durable.transaction
def write_and_greet(tx: Connection, run: str) -> None:
    tx.execute("insert into effect values (%s, 'greeted', 2)", [run])
    _listener(run).send("number", 2)


@durable.workflow
def greets(run: str) -> int:
    _listener(run).send("number", 1)
    write_and_greet(run)
    _listener(run).send("number", 3)
    greet(run)
    return _listener(run).start().result()


@durable.workflow
async def agreets(run: str) -> int:
    bound = listener.aio.options(key=f"{run} listens", queue=run).bind(run)
    await bound.send("number", 1)
    await write_and_greet.aio(run)
    await bound.send("number", 3)
    await greet.aio(run)
    return await (await bound.start()).result()
