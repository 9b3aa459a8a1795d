# pyright: strict
"""Objects whose methods are steps, transactions and workflows."""

from dataclasses import dataclass
from decimal import Decimal
from typing import assert_type

from psycopg import AsyncConnection, Connection

from dbdurable import AsyncFunction, AsyncHandle, Durable, Function, Handle, Retry

durable = Durable()


@dataclass
class Hotel:
    city: str

    @durable.step(retry=Retry(5))
    def pay(self, guest: str, amount: Decimal) -> str:
        return self.city + guest

    @durable.step
    async def quote(self, room: int) -> Decimal:
        return Decimal(room)

    @durable.transaction
    def hold(self, tx: Connection, room: int) -> Decimal:
        return Decimal(1)

    @durable.transaction
    async def ahold(self, tx: AsyncConnection, room: int) -> Decimal:
        return Decimal(1)

    @durable.workflow(queue="hotels")
    def book(self, guest: str, room: int = 1) -> str:
        price = self.hold(room)
        assert_type(price, Decimal)
        return self.pay(guest, price)

    @durable.workflow
    async def abook(self, guest: str) -> str:
        assert_type(await self.quote(3), Decimal)
        return await self.pay.aio(guest, await self.ahold(7))


berne = durable.register(Hotel("Berne"), name="hotel-berne")
assert_type(berne, Hotel)
assert_type(berne.book.start("Ann", room=2), Handle[str])
assert_type(berne.book.options(key="k").start("Ann").result(), str)
book: Function[[str, int], str] = berne.book
abook: AsyncFunction[[str], str] = berne.abook


async def use() -> None:
    assert_type(await berne.abook.start("Ann"), AsyncHandle[str])
    assert_type(await berne.book.aio.start("Ann", 2), AsyncHandle[str])
    assert_type(await berne.abook("Ann"), str)
