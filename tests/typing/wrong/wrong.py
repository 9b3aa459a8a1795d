# pyright: strict
"""Each marked line must be an error for both checkers, and no other line may be one."""

import datetime
from decimal import Decimal

from psycopg import AsyncConnection, Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from dbdurable import AsyncHandle, Client, Durable, Handle, Retry, Status, aio, current_step, run_step

durable = Durable()


@durable.transaction  # error: the first parameter is no connection
def no_connection(order: int) -> int:
    return order


@durable.transaction  # error: no parameter at all
def nothing() -> int:
    return 1


@durable.transaction  # error: `def` with an async connection
def wrong_colour(tx: AsyncConnection, order: int) -> int:
    return order


@durable.transaction  # error: a session of the other colour
def wrong_session(tx: AsyncSession, order: int) -> int:
    return order


@durable.transaction
def reserve(tx: Connection, order: int) -> int:
    return order


@durable.transaction
async def areserve(tx: AsyncConnection, order: int) -> int:
    return order


@durable.step
def charge(order: int, amount: Decimal) -> str:
    return ""


@durable.step
async def acharge(order: int) -> str:
    return ""


@durable.workflow
def checkout(order: int) -> str:
    return ""


@durable.workflow
async def acheckout(order: int) -> str:
    return ""


def arguments(conn: Connection) -> None:
    reserve(conn, 1)  # error: the connection is filled in
    reserve.start(conn, 1)  # error: likewise
    charge(1, 2)  # error: int for Decimal
    charge(1)  # error: one is missing
    charge(1, Decimal(2), 3)  # error: one too many
    charge(1, amonut=Decimal(2))  # error: misspelt
    charge.bind(1)  # error: one is missing
    checkout.start("1")  # error: str for int
    checkout.fn("1")  # error: str for int
    reserve.fn(1)  # error: the plain function takes the connection


def options(aconn: AsyncConnection, session: Session, asession: AsyncSession) -> None:
    checkout.options(tx=aconn).start(1)  # error: async connection on the sync face
    checkout.options(tx=asession)  # error: likewise
    acheckout.options(tx=session)  # error: sync session on the async face
    checkout.aio.options(tx=session)  # error: likewise
    checkout.options(tx="postgresql://")  # error: not a connection
    checkout.options(kee="x")  # error: misspelt option
    checkout.options(key=42)  # error: a key is a str
    checkout.options(id="42")  # error: an id is a UUID
    checkout.options(priority="high")  # error: an int
    checkout.options(delay="5 minutes")  # error: seconds or timedelta
    checkout.options(at=datetime.date(2030, 1, 1))  # error: a datetime
    checkout.options(attributes=[1])  # error: a mapping
    checkout.options(retry="5")  # error: Retry or int


def results() -> None:
    checkout.start(1).result(timeout="3")  # error: seconds or timedelta
    number: int = checkout.start(1).result()  # error: it returns a str
    value: int = charge(1, Decimal(1))  # error: it returns a str
    handle: Handle[int] = checkout.start(1)  # error: a handle of str
    other: AsyncHandle[str] = checkout.start(1)  # error: the other colour
    checkout.handle(42)  # error: a UUID or str
    print(number, value, handle, other)


def colours() -> None:
    acheckout(1)  # error: never awaited
    acheckout.start(1).result()  # error: a coroutine has no result
    acharge.bind(1).start().result()  # error: likewise
    text: str = acharge(1)  # error: a coroutine
    print(text)


async def async_colours() -> None:
    await checkout(1)  # error: a str cannot be awaited
    await charge.aio(1)  # error: one is missing
    await acharge("1")  # error: str for int
    acharge(1)  # error: never awaited
    checkout.aio.start(1)  # error: never awaited
    acheckout.handle(key="x").result().upper()  # error: not awaited
    await aio.run_step("x", lambda: 1)  # error: not awaitable
    text: str = await areserve(1)  # error: it returns an int
    print(text)


def frozen() -> None:
    current_step().attempt = 2  # error: read-only
    checkout.name = "other"  # error: read-only


def steps() -> None:
    run_step(lambda: 1, "download")  # error: name first
    text: str = run_step("x", lambda: 1)  # error: it returns an int
    print(text)


def client(client: Client) -> None:
    client.workflow("checkout", returns=str).start(1).result().append(1)  # error: a str
    client.workflows(status="failde")  # error: a Status
    client.handle(42)  # error: a UUID or str
    client.aio.workflows()[0]  # error: not awaited
    print(Status.DONE)  # error: no such status
    Retry(attempts=5)  # error: no such field
    Retry(on="ConnectionError")  # error: a class


@durable.step(retry="5")  # error: Retry or int
def retry_text(x: int) -> int:
    return 1


@durable.step(retries=5)  # error: misspelt option
def retries(x: int) -> int:
    return 1


@durable.step(queue="x")  # error: an option of workflows
def queue(x: int) -> int:
    return 1


@durable.workflow(retry=5)  # error: an option of steps
def workflow_retry(x: int) -> int:
    return 1


@durable.transaction(isolation="snapshot")  # error: no such level
def isolation(tx: Connection, x: int) -> int:
    return 1


Durable(schemma="x")  # error: misspelt
durable.configure(arround=None)  # error: misspelt
durable.executor(threads="4")  # error: an int
durable.executor(queues=[1])  # error: names

with durable:  # error: the executor is `durable.executor()`
    pass
