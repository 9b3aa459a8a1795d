"""The pools and the door: who gets which connection, and how often a process knocks where nobody answers."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dbdurable._core.control import ConnectionLost
from dbdurable._io import pool as pools
from dbdurable._io.database import Database
from dbdurable._io.door import FIRST_S, MAX_S, Door
from dbdurable._io.pool import is_stale
from dbdurable._io.source import PsycopgSource
from dbdurable._protocol.effects import Note
from tests.support.wait import await_until, wait_until


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(lambda: database_url, "dbdurable", auto_migrate=False, connections_max=3)
    yield database
    database.close()


def pid(connection: Any) -> int:
    return int(connection.info.backend_pid)


@pytest.fixture
def full(database_url: str, connection: psycopg.Connection[Any]) -> Iterator[Database]:
    """Its role may have two sessions at a time, whatever the pools would like."""
    role = f"guest_{os.getpid()}"  # roles belong to the whole server
    connection.execute(f"create role {role} login password 'guest' connection limit 2")
    connection.execute(f"grant usage on schema dbdurable to {role}")
    connection.execute(f"grant select on all tables in schema dbdurable to {role}")
    url = make_conninfo(database_url, user=role, password="guest")
    database = Database(lambda: url, "dbdurable", auto_migrate=False, connections_max=3)
    yield database
    database.close()
    connection.execute(f"drop owned by {role}")
    connection.execute(f"drop role {role}")


# ---- who gets which ----------------------------------------------------------------------------------------


def test_the_one_used_last_is_lent_first(database: Database) -> None:
    first, second = database.pool.getconn(), database.pool.getconn()
    database.pool.putconn(first)
    database.pool.putconn(second)
    assert database.pool.getconn() is second


def test_an_ended_session_is_not_lent_again(database: Database, connection: psycopg.Connection[Any]) -> None:
    held = [database.pool.getconn() for _ in range(3)]
    ended = [pid(each) for each in held]
    for each in held:
        database.pool.putconn(each)
    connection.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", [ended])
    wait_until(lambda: all(is_stale(each) for each in held))
    fresh = database.pool.getconn()
    assert pid(fresh) not in ended
    assert fresh.execute("select 1").fetchone() == (1,)
    assert [each.closed for each in held] == [True] * 3
    database.pool.putconn(fresh)


async def test_an_ended_session_is_not_lent_again_async(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    pool = await database.async_pool()
    held = await pool.getconn()
    await pool.putconn(held)
    connection.execute("select pg_terminate_backend(%s)", [pid(held)])

    async def ended() -> bool:
        return is_stale(held)

    await await_until(ended)
    fresh = await pool.getconn()
    assert await (await fresh.execute("select 1")).fetchone() == (1,)
    await pool.putconn(fresh)
    await database.aclose()


def test_what_comes_back_in_the_middle_of_something_is_closed(database: Database) -> None:
    left = database.pool.getconn()
    left.execute("begin")
    database.pool.putconn(left)
    assert left.closed
    piped = database.pool.getconn()
    piped.pgconn.enter_pipeline_mode()
    database.pool.putconn(piped)
    assert piped.closed


def test_old_and_unused_ones_are_closed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    old, unused, used = [database.pool.getconn() for _ in range(3)]
    old.expires_at = 0
    for each in (old, unused, used):
        database.pool.putconn(each)
    assert (old.closed, unused.closed) == (True, False)
    unused.idle_since -= pools.IDLE_S_MAX + 1
    assert database.pool.getconn() is used
    database.pool.putconn(used)
    assert (unused.closed, used.closed) == (True, False)


def test_what_comes_back_after_the_end_is_closed(database: Database) -> None:
    lent, idle = database.pool.getconn(), database.pool.getconn()
    pool = database.pool
    pool.putconn(idle)
    database.close()
    assert (lent.closed, idle.closed) == (False, True)
    pool.putconn(lent)
    assert lent.closed


def test_waiting_for_others_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "POOL_TIMEOUT_S", 0.05)
    held = [database.pool.getconn() for _ in range(3)]
    with pytest.raises(ConnectionLost, match="all 3 are in use"):
        database.pool.getconn()
    database.pool.putconn(held[0])
    assert database.pool.getconn() is held[0]


async def test_waiting_for_others_ends_async(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "POOL_TIMEOUT_S", 0.05)
    pool = await database.async_pool()
    held = [await pool.getconn() for _ in range(3)]
    with pytest.raises(ConnectionLost, match="all 3 are in use"):
        await pool.getconn()
    for each in held:
        await pool.putconn(each)
    assert await asyncio.gather(*(pool.getconn() for _ in range(3)))
    await database.aclose()


# ---- who waits ---------------------------------------------------------------------------------------------


def test_who_waits_is_served_in_turn(database: Database) -> None:
    pool, served = database.pool, list[tuple[str, Any]]()
    held = [pool.getconn() for _ in range(3)]

    def ask(name: str) -> None:
        served.append((name, pool.getconn()))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("first", "second", "third")]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda number=number: len(pool._waiting) == number, what="it waits")
    for number in range(3):
        pool.putconn(held[number])
        wait_until(lambda number=number: len(served) == number + 1, what="the next is served")
    assert served == [("first", held[0]), ("second", held[1]), ("third", held[2])]
    for thread in threads:
        thread.join()


def test_a_broken_one_makes_room_for_who_waits(database: Database) -> None:
    pool, served = database.pool, list[Any]()
    held = [pool.getconn() for _ in range(3)]
    thread = threading.Thread(target=lambda: served.append(pool.getconn()))
    thread.start()
    wait_until(lambda: len(pool._waiting) == 1, what="it waits")
    held[0].pgconn.finish()
    pool.putconn(held[0])
    thread.join(20)
    assert served[0] not in held
    assert served[0].execute("select 1").fetchone() == (1,)


def test_who_knocks_at_a_full_server_is_served_by_what_comes_back(full: Database) -> None:
    held, got = [full.pool.getconn() for _ in range(2)], []
    thread = threading.Thread(target=lambda: got.append(full.pool.getconn()))
    thread.start()
    wait_until(lambda: "no connection left" in full._door.reason)
    full.pool.putconn(held[0])
    thread.join(20)
    # Given back in the middle of a refusal it makes room instead: then it is closed, and another one opened.
    assert len(got) == 1
    assert got[0] is held[0] or held[0].closed
    assert full.pool._count == 2
    for each in (got[0], held[1]):
        full.pool.putconn(each)


async def test_what_lies_idle_leaves_room_to_the_other_colour(full: Database) -> None:
    held = [full.pool.getconn() for _ in range(2)]
    full.pool.putconn(held[0])
    pool = await full.async_pool()
    theirs = await pool.getconn()
    assert (held[0].closed, held[1].closed, full.pool._count) == (True, False, 1)
    await pool.putconn(theirs)
    full.pool.putconn(held[1])
    assert full.pool.getconn() is held[1]
    full.pool.putconn(held[1])
    await full.aclose()


async def test_who_is_cancelled_while_rolling_back_gives_the_connection_back(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    """A task that is cancelled rolls back; cancelled once more meanwhile, it must not keep the connection."""
    pool = await database.async_pool()
    unit = await PsycopgSource().abegin(database, None, None, Note("1", 1), "step")
    await unit.handle.execute("select 1")
    async with unit.connection.lock:
        rolling_back = asyncio.ensure_future(unit.rollback())
        await asyncio.sleep(0)
        rolling_back.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rolling_back
    held = [await pool.getconn() for _ in range(3)]
    assert unit.connection.closed, "its transaction is open: it must not be lent again"
    for each in held:
        await pool.putconn(each)


async def test_a_session_that_was_cancelled_is_not_lent_again(database: Database) -> None:
    """The request travels on a connection of its own, and may arrive when somebody else has the session."""
    pool = await database.async_pool()
    unit = await PsycopgSource().abegin(database, None, None, Note("1", 1), "step")
    waiting = asyncio.ensure_future(unit.handle.execute("select pg_sleep(%s)", [60]))

    async def sleeps() -> bool:
        return unit.connection.lock.locked()

    await await_until(sleeps)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await unit.rollback() is True
    assert unit.connection.closed
    await pool.putconn(await pool.getconn())
    await database.aclose()


async def test_what_was_given_to_who_is_gone_goes_to_the_next(database: Database) -> None:
    pool = await database.async_pool()
    held = [await pool.getconn() for _ in range(3)]
    waiting = [asyncio.ensure_future(pool.getconn()) for _ in range(2)]

    async def both_wait() -> bool:
        return len(pool._waiting) == 2

    await await_until(both_wait)
    await pool.putconn(held[0])
    waiting[0].cancel()  # served, but it has not run since
    assert await waiting[1] is held[0]
    assert waiting[0].cancelled()
    await database.aclose()


def test_never_more_than_the_limit_whoever_comes_and_goes(database: Database) -> None:
    pool, problems, most = database.pool, list[BaseException](), [0]

    def come_and_go(seed: int) -> None:
        random = Random(seed)
        try:
            for _ in range(60):
                lent = pool.getconn()
                assert lent.execute("select 1").fetchone() == (1,)
                most[0] = max(most[0], pool._count)
                if random.random() < 0.1:
                    lent.pgconn.finish()
                pool.putconn(lent)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert most == [3]
    assert (pool._count, len(pool._waiting)) == (len(pool._idle), 0)


# ---- the door ----------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def knocks(seed: int, until_s: float) -> list[float]:
    """When one process knocks while nobody answers, from the moment on at which it lost its connections."""
    clock = Clock()
    door, start, times = Door(clock, Random(seed)), clock.now, []
    while clock.now - start < until_s:
        wait_s = door.turn()
        if wait_s:
            clock.now += wait_s
        else:
            times.append(clock.now - start)
            door.failed("nobody is there")
    return times


def test_two_hundred_processes_do_not_come_back_together() -> None:
    """All lose the same server at once, which is away for 10 s: how many knock, and how many in any 50 ms."""
    all_knocks = sorted(at for seed in range(200) for at in knocks(seed, 10.0) if at > 0)
    in_outage = len(all_knocks) / 200
    late = [at for at in all_knocks if at > 3]
    busiest = max(sum(1 for other in late if at <= other < at + 0.05) for at in late)
    print(f"knocks a process in 10 s: {in_outage:.1f}; most of all 200 in 50 ms: {busiest}")
    assert in_outage < 20
    assert busiest < 40  # together it would be 200


def test_many_callers_of_a_process_knock_one_at_a_time() -> None:
    clock = Clock()
    door = Door(clock, Random(1))
    assert [door.turn() for _ in range(18)] == [0.0] * 18, "as long as it answers, all may come"
    for _ in range(18):
        door.failed("nobody is there")
    assert 0 < door.turn() <= FIRST_S
    clock.now += FIRST_S
    assert [door.turn() == 0.0 for _ in range(18)] == [True, *[False] * 17]
    door.failed("nobody is there")
    clock.now += MAX_S
    assert door.turn() == 0.0
    door.opened()
    assert [door.turn() for _ in range(18)] == [0.0] * 18


def test_threads_that_lost_the_server_knock_together_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real sockets: 16 threads and their pool, at a door that takes connections and closes them at once."""
    monkeypatch.setattr(pools, "POOL_TIMEOUT_S", 1.0)
    with closing(socket.socket(socket.AF_UNIX)) as door:
        door.bind(f"{tmp_path}/.s.PGSQL.5432")
        door.listen(100)
        counted: list[int] = []

        def refuse() -> None:
            while True:
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                counted.append(1)
                client.close()

        threading.Thread(target=refuse, daemon=True).start()
        database = Database(lambda: f"host={tmp_path} user=nobody dbname=none", "dbdurable", connections_max=16)
        database._ready = True  # the tables are no matter here
        barrier, errors = threading.Barrier(16), []

        def caller() -> None:
            barrier.wait()
            try:
                database.pool.getconn()
            except ConnectionLost as error:
                errors.append(str(error))

        threads = [threading.Thread(target=caller) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        door.shutdown(socket.SHUT_RDWR)
    assert len(errors) == 16
    # At most once each, as nobody knew; from then on one at a time, ever less often. As they like: hundreds.
    print(f"connection attempts of 16 callers in 1 s: {len(counted)}")
    assert 1 <= len(counted) <= 16 + 25
