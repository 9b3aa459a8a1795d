"""The database goes away under running workflows, and comes back: everything happens once, under the same identity."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from dbdurable import Client, Durable, _embedded
from dbdurable._core.control import ConnectionLost
from dbdurable._embedded.keeper import read_postmaster
from dbdurable._io.database import Database
from dbdurable._io.guard import StepConnection
from dbdurable.errors import DatabaseUnavailable, NotInTransaction
from tests.failover.conftest import HOW, Restartable
from tests.support.databases import scratch_directory
from tests.support.wait import wait_until

WORKFLOWS, STEPS = 60, 15


class Shop:
    """Workflows of both colours whose writes and outside effects are counted."""

    def __init__(self, url: str) -> None:
        self.durable = durable = Durable(url, migrate=False)
        self.outside: Counter[Any] = Counter()
        self.steps_done = 0
        self._lock = threading.Lock()

        @durable.transaction
        def write(tx: Connection, what: str, number: int) -> int:
            tx.execute("insert into effect values (%s, %s)", [what, number])
            self.note(None)
            return number

        @durable.transaction
        async def awrite(tx: AsyncConnection, what: str, number: int) -> int:
            await tx.execute("insert into effect values (%s, %s)", [what, number])
            self.note(None)
            return number

        @durable.step
        def tell(what: str, number: int) -> int:
            self.note((what, number))
            return number

        @durable.workflow
        def order(what: str) -> int:
            return sum(tell(what, n) if n % 3 == 2 else write(what, n) for n in range(STEPS))

        @durable.workflow
        async def aorder(what: str) -> int:
            return sum([await (tell.aio(what, n) if n % 3 == 2 else awrite(what, n)) for n in range(STEPS)])

        self.order, self.aorder = order, aorder

    def note(self, effect: Any) -> None:
        with self._lock:
            self.steps_done += 1
            if effect is not None:
                self.outside[effect] += 1

    def start(self) -> list[Any]:
        return [
            (self.aorder.sync if n % 2 else self.order).options(key=f"order-{n}").start(f"order-{n}")
            for n in range(WORKFLOWS)
        ]


@pytest.fixture
def shop(server: Restartable, look: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(server.url)
    yield shop
    shop.durable.close()


def check_once(url: str, shop: Shop) -> None:
    """Each write once, each outside effect at least once, all workflows done, by one executor in its first life."""
    with psycopg.connect(url, autocommit=True) as look:
        written = look.execute("select what, number, count(*) from effect group by 1, 2 order by 1, 2").fetchall()
        names = sorted(f"order-{n}" for n in range(WORKFLOWS))
        assert written == [(name, n, 1) for name in names for n in range(STEPS) if n % 3 != 2]
        assert set(shop.outside) == {(name, n) for name in names for n in range(STEPS) if n % 3 == 2}
        assert look.execute("select status::text, count(*) from dbdurable.workflow group by 1").fetchall() == [
            ("succeeded", WORKFLOWS)
        ]
        assert look.execute("select count(distinct executor_id) from dbdurable.workflow").fetchone() == (1,)


def at_random_moments(shop: Shop, seed: str, times: int, fault: Callable[[], None]) -> None:
    """Makes the fault after that many further steps; it must have hit work under way."""
    random, wanted, all_of_them = Random(seed), 0, WORKFLOWS * STEPS
    for _ in range(times):
        wanted = min(max(wanted, shop.steps_done) + random.randint(3, 25), all_of_them)
        wait_until(lambda: shop.steps_done >= wanted, 30, f"{wanted} steps")  # noqa: B023
        assert shop.steps_done < all_of_them, "void: all was done before the fault"
        fault()


@pytest.mark.parametrize("how", sorted(HOW))
def test_the_server_is_restarted_under_work(how: str, server: Restartable, shop: Shop) -> None:
    def restart() -> None:
        server.stop(how)
        server.start()

    with shop.durable.executor(threads=6, tasks=6) as executor:
        lease = executor.lease
        handles = shop.start()
        at_random_moments(shop, how, 2, restart)
        assert [handle.result(60) for handle in handles] == [sum(range(STEPS))] * WORKFLOWS
        assert executor.lease is lease, "it lost its life, and need not have"
        check_once(server.url, shop)


def test_starts_and_results_outlast_a_restart(server: Restartable, shop: Shop) -> None:
    """Clients and direct calls that are made while it is away wait for it."""
    results: list[int] = []
    with shop.durable.executor(threads=4, tasks=4):
        assert shop.order("before") == sum(range(STEPS))
        with Client(server.url) as client:
            remote = client.workflow("order", returns=int)
            remote.start(what="known").result(30)
            server.stop("immediate")
            callers = [
                threading.Thread(target=lambda: results.append(shop.order("direct"))),
                threading.Thread(target=lambda: results.append(remote.start(what="remote").result(60))),
                threading.Thread(target=lambda: results.append(asyncio.run(shop.aorder("async")))),
            ]
            for caller in callers:
                caller.start()
            server.start()
            for caller in callers:
                caller.join(60)
    assert results == [sum(range(STEPS))] * 3


def test_a_server_that_stays_away_is_a_clear_error(
    server: Restartable, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(server.url) as client:
        client.workflows()
        server.stop("fast")
        try:
            with monkeypatch.context() as impatient:
                impatient.setattr("dbdurable._io.pool.POOL_TIMEOUT_S", 0.1)
                with pytest.raises(DatabaseUnavailable, match=r"went away: .*nothing answers there"):
                    client.workflows()
        finally:
            server.start()
        assert client.workflows() == []


def test_ended_sessions_harm_nobody(server: Restartable, shop: Shop, look: psycopg.Connection[Any]) -> None:
    """Any of our connections, at any time: nobody is declared dead, as the observers know."""
    random = Random(7)

    def end_some() -> None:
        pids = [pid for (pid,) in look.execute(_OURS)]
        for pid in random.sample(pids, random.randint(1, len(pids))):
            look.execute("select pg_terminate_backend(%s)", [pid])

    with shop.durable.executor(threads=6, tasks=6) as executor, peer_of(server.url):
        lease = executor.lease
        handles = shop.start()
        at_random_moments(shop, "sessions", 4, end_some)
        assert [handle.result(60) for handle in handles] == [sum(range(STEPS))] * WORKFLOWS
        assert executor.lease is lease
    check_once(server.url, shop)


_OURS = """
    select pid from pg_stat_activity
     where application_name = 'dbdurable' and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


def peer_of(url: str) -> Any:
    """A peer that would take over what looks dead; it runs nothing else."""
    peer = Durable(url, migrate=False)

    @peer.workflow
    def nothing() -> None: ...

    return peer.executor(threads=1)


def test_an_ended_heartbeat_is_no_death(server: Restartable, shop: Shop, look: psycopg.Connection[Any]) -> None:
    """Peers take the end of a heartbeat's session for death after two looks: it has to be back before."""
    with shop.durable.executor(threads=1) as executor, peer_of(server.url):
        lease = executor.lease
        for _ in range(3):
            pid = wait_until(lambda: _session(look, lease.executor_id), what="its session to be known")
            look.execute("select pg_terminate_backend(%s, 5000)", [pid])
            wait_until(lambda: _session(look, lease.executor_id) not in (None, pid), 1.0, "another session")  # noqa: B023
        assert executor.lease is lease


def _session(look: psycopg.Connection[Any], executor_id: Any) -> int | None:
    row = look.execute("select session_pid from dbdurable.executor where id = %s", [executor_id]).fetchone()
    return row and row[0]


def test_a_server_that_turns_read_only_is_left(server: Restartable, shop: Shop) -> None:
    """Its connections are dropped and opened anew, until they find one that takes writes."""
    with shop.durable.executor(threads=6, tasks=6) as executor:
        lease = executor.lease
        handles = shop.start()
        at_random_moments(shop, "read-only", 1, lambda: server.read_only(True))
        client = Client(server.url)
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            client.workflow("order").start(what="refused")
        server.read_only(False)
        assert [handle.result(60) for handle in handles] == [sum(range(STEPS))] * WORKFLOWS
        assert executor.lease is lease
        client.close()
    check_once(server.url, shop)


def test_a_body_that_makes_its_transaction_read_only_is_told(server: Restartable, look: Any) -> None:
    durable = Durable(server.url, migrate=False)

    @durable.transaction
    def read(tx: Connection) -> int:
        tx.execute("set transaction read only")
        return 1

    @durable.workflow
    def report() -> int:
        return read()

    with durable.executor(threads=1), pytest.raises(NotInTransaction, match="made its transaction read-only"):
        report()
    durable.close()


def test_of_several_hosts_the_primary_is_found(server: Restartable, second_server: Restartable, look: Any) -> None:
    """One URL with two hosts: the work is where writes are taken, also after they have changed places."""
    first, second = (psycopg.conninfo.conninfo_to_dict(each.url) for each in (server, second_server))
    url = f"host={first['host']},{second['host']} port={first['port']},{second['port']} dbname=shop user=postgres"
    second_server.read_only(True)
    durable = Durable(url, migrate=False)

    @durable.transaction
    def write(tx: Connection, number: int) -> None:
        tx.execute("insert into effect values ('here', %s)", [number])

    for number, (primary, standby) in enumerate([(server, second_server), (second_server, server)]):
        standby.read_only(True)
        primary.read_only(False)
        write.start(number)
        with psycopg.connect(primary.url) as here:
            assert here.execute("select count(*) from dbdurable.workflow").fetchone() == (1,)
    server.read_only(False)
    durable.close()


def test_many_processes_that_lost_it_together_come_back_one_by_one(
    server: Restartable, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty applications with two services each: counted is how often each of them knocks."""
    applications = [Database(lambda: server.url, "dbdurable", auto_migrate=False) for _ in range(40)]
    knocks: Counter[str] = Counter()
    away = threading.Event()
    connect = StepConnection.connect.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, url: str, **kwargs: Any) -> Any:
        if away.is_set():
            knocks[threading.current_thread().name] += 1
        return connect(cls, url, **kwargs)

    monkeypatch.setattr(StepConnection, "connect", classmethod(counted))
    services = [(number, app.own_connection()) for number, app in enumerate(applications) for _ in range(2)]
    for _, service in services:
        service.getconn()
    away.set()
    server.stop("immediate")

    def until_it_is_back(service: Any) -> None:
        while True:
            try:
                service.getconn().execute("select 1")
            except (ConnectionLost, psycopg.OperationalError):
                continue  # as fast as it can: only the door holds it back
            return

    threads = [threading.Thread(target=until_it_is_back, args=(each,), name=f"{n}") for n, each in services]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(knocks) == 40 and min(knocks.values()) >= 5, 30, "each to have knocked five times")
    before = knocks.copy()
    server.start()
    for thread in threads:
        thread.join(30)
    print(f"tries of an application while it was away: {sorted(before.values())}; in all: {sorted(knocks.values())}")
    # Five waits in a doubling interval are 3 s on average, then it is one a second; unheld it would be thousands.
    assert max(before.values()) <= 30
    assert sum(knocks.values()) - sum(before.values()) <= 40 * 6
    assert all(not service.lost for _, service in services)
    for _, service in services:
        service.close()


def test_an_embedded_server_that_died_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process that uses it, wherever its current directory is by then."""
    project = scratch_directory() / f"dbdurable-project-{tmp_path.name}-{threading.get_native_id()}"
    (project / ".git").mkdir(parents=True)
    monkeypatch.chdir(project)
    data = _embedded.default_location()
    durable = Durable()

    @durable.step
    def tell(number: int) -> int:
        return number

    @durable.workflow
    def order(number: int) -> int:
        return tell(number)

    try:
        with durable.executor(threads=2) as executor:
            lease = executor.lease
            assert order(1) == 1
            monkeypatch.chdir(tmp_path)
            found = read_postmaster(data)
            assert found is not None
            os.kill(found.pid, HOW["immediate"])
            wait_until(lambda: not Path(f"/proc/{found.pid}").exists())
            assert order(2) == 2
            assert order.start(3).result(30) == 3
            assert executor.lease is lease
        durable.close()
    finally:
        _embedded.EmbeddedServer(data).stop()
