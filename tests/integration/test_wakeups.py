"""Wake-ups: who has to know of new work hears of it at once, nobody else does, and nothing depends on it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

import dbdurable._executor.listen as listen_module
import dbdurable._executor.notify as notify_module
import dbdurable._protocol.start as start_module
from dbdurable import Client, Durable, Handle, Status, set_event
from dbdurable._executor.executor import Executor
from dbdurable._io.listen import channel_of
from dbdurable.errors import DatabaseUnavailable
from tests.support.wait import await_until, wait_until

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 20
AGES_S = 3600.0


class Hinted(threading.Event):
    """The control thread's alarm, without its clock: a look has to be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.hints = 0

    def set(self) -> None:
        self.hints += 1
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None)


class Raw:
    """What a session of its own hears on a schema's channel."""

    def __init__(self, connection: psycopg.Connection[Any], *schemas: str) -> None:
        self._connection = connection
        self._heard: list[psycopg.Notify] = []
        connection.add_notify_handler(self._heard.append)
        for schema in schemas:
            connection.execute(f'listen "{channel_of(schema)}"')
        connection.execute('listen "mark"')

    def heard(self) -> list[psycopg.Notify]:
        """All since the last time. They come in the order of commits: those before our own mark are all there were."""
        self._connection.execute("notify mark")
        wait_until(lambda: self._connection.execute("select 1") and any(n.channel == "mark" for n in self._heard))
        end = next(place for place, notify in enumerate(self._heard) if notify.channel == "mark")
        found = [notify for notify in self._heard[:end] if not notify.payload.startswith("probe")]
        del self._heard[: end + 1]
        return found

    def payloads(self) -> list[str]:
        return [notify.payload for notify in self.heard()]


class Application:
    """`double` and `held`, which waits until it is let go."""

    def __init__(self, url: str, schema: str = "dbdurable") -> None:
        self.durable = Durable(url, schema=schema)
        self.go = threading.Event()

        @self.durable.workflow
        def double(n: int) -> int:
            return n * 2

        @self.durable.workflow
        def held(n: int) -> int:
            assert self.go.wait(LIMIT_S)
            return n

        @self.durable.workflow
        async def aheld(n: int) -> int:
            assert await asyncio.to_thread(self.go.wait, LIMIT_S)
            return n

        self.double, self.held, self.aheld = double, held, aheld

    @contextmanager
    def by_hints_only(self, *, listening: bool = True, **options: Any) -> Iterator[tuple[Executor, Hinted]]:
        """An executor that never looks by itself. It has begun to listen, and looked after that."""
        with self.durable.executor(**options) as executor:
            alarm, before = Hinted(), executor.control._wake
            executor.control._wake = alarm
            before.set()
            if listening:
                wait_until(lambda: executor.listener.listening, what="it listens")
            yield executor, alarm
        self.durable.close()


@pytest.fixture
def raw(database_url: str) -> Iterator[Raw]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Raw(connection, "dbdurable")


@pytest.fixture
def other_queues(connection: psycopg.Connection[Any]) -> None:
    """Queues that no executor here serves."""
    for name in ("elsewhere", "queue0", "queue1", "queue2"):
        connection.execute("insert into dbdurable.queue (name) values (%s)", [name])


@pytest.fixture
def application(database_url: str) -> Iterator[Application]:
    made = Application(database_url)
    yield made
    made.go.set()
    made.durable.close()


@pytest.fixture
def starter(database_url: str) -> Iterator[Application]:
    """The same code in a process without an executor, as far as anybody can tell."""
    made = Application(database_url)
    yield made
    made.durable.close()


def run(url: str, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, PROGRAMS / program, url, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def backend_of(executor: Executor) -> int:
    connection = executor.listener._ear._connection
    assert connection is not None
    return connection.info.backend_pid


# ---- across processes --------------------------------------------------------------------------------------


def test_a_start_in_another_process_is_found_at_once(database_url: str, application: Application) -> None:
    with application.by_hints_only():
        assert run(database_url, "wakeups.py", "start_and_wait") == "42\n"


def test_a_script_that_starts_and_ends_has_told_of_it(database_url: str, application: Application) -> None:
    with application.by_hints_only():
        id = run(database_url, "wakeups.py", "start_and_end")
        assert application.double.handle(id.strip()).result(LIMIT_S) == 42


def test_forked_children_notify_and_leave_the_parents_connections_alone(
    database_url: str, application: Application
) -> None:
    with application.by_hints_only():
        ids = run(database_url, "wakeups.py", "fork_and_start").split()
        assert [application.double.handle(id).result(LIMIT_S) for id in ids] == [0, 2, 4]


def test_a_fork_does_not_keep_the_listening_socket(database_url: str) -> None:
    assert run(database_url, "wakeups.py", "fork_under_listener") == "closed in the child, 42 in the parent\n"


def test_async_starts_notify(application: Application, starter: Application) -> None:
    async def go() -> int:
        handle = await starter.double.aio.start(21)
        return await handle.result(LIMIT_S)

    with application.by_hints_only():
        assert asyncio.run(go()) == 42


def test_a_client_that_does_not_know_the_queue_wakes_all(application: Application, raw: Raw, database_url: str) -> None:
    with application.by_hints_only():
        with Client(database_url) as client:
            assert client.workflow("double", returns=int).start(n=21).result(LIMIT_S) == 42
        assert raw.payloads() == ["*"]


@pytest.mark.usefixtures("other_queues")
def test_other_queues_wake_nobody_here(application: Application, starter: Application, raw: Raw) -> None:
    with application.by_hints_only() as (_, alarm):
        before = alarm.hints
        starter.double.options(queue="elsewhere").start(1)
        starter.durable.close()
        assert raw.payloads() == ["elsewhere"]
        assert starter.double.start(21).result(LIMIT_S) == 42  # heard after the other, on the same connection
        assert alarm.hints == before + 1


def test_resume_and_cancel_wake(application: Application, starter: Application) -> None:
    with application.by_hints_only():
        handle = starter.held.start(7)
        wait_until(lambda: handle.status() == Status.RUNNING)
        handle.pause()
        application.go.set()
        wait_until(lambda: handle.status() == Status.PAUSED)
        handle.resume()
        assert handle.result(LIMIT_S) == 7


def test_an_event_wakes_who_waits_for_it(
    application: Application, starter: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set in one process, waited for in another; nobody looks without being told."""
    monkeypatch.setenv("DBDURABLE_PARK_AFTER_S", "0")

    @starter.durable.workflow
    def sets() -> None:
        assert starter.go.wait(LIMIT_S)
        set_event("it", 5)

    @application.durable.workflow
    def waits(of: str) -> int:
        return application.double.handle(of).get_event("it", int)

    with application.by_hints_only(), starter.by_hints_only():
        source = sets.start()
        handle = waits.start(str(source.id))
        wait_until(lambda: handle.status() == Status.WAITING)
        starter.go.set()
        assert handle.result(LIMIT_S) == 5


def test_many_starts_tell_of_each_queue_once(starter: Application, raw: Raw, database_url: str) -> None:
    with Client(database_url) as client:
        client.start_many(starter.double.bind(number) for number in range(100))
    starter.durable.close()  # whose functions they are
    assert raw.payloads() == ["default"]


def test_delayed_starts_tell_nobody(starter: Application, raw: Raw) -> None:
    starter.double.options(delay=3600).start(1)
    starter.durable.close()
    assert raw.payloads() == []


# ---- one notification for many -----------------------------------------------------------------------------


@pytest.mark.usefixtures("other_queues")
def test_notifications_are_gathered(starter: Application, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_module, "INTERVAL_S", AGES_S)
    starter.double.start(0)
    found: list[str] = []
    wait_until(lambda: found.extend(raw.payloads()) or found, what="the first goes out at once")
    for number in range(30):
        starter.double.options(queue=f"queue{number % 3}").start(number)
    assert (found, raw.payloads()) == (["default"], [])
    starter.durable.close()
    assert raw.payloads() == ["queue0\nqueue1\nqueue2"]


def test_they_stay_small() -> None:
    assert notify_module.payload_of({"mail", "orders"}) == "mail\norders"
    assert notify_module.payload_of({"mail", "*"}) == "*"
    assert notify_module.payload_of({f"{'ä' * 90}{number}" for number in range(40)}) == "*"


def test_the_thread_ends_when_idle_and_comes_back(
    starter: Application, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify_module, "IDLE_S", 0.05)
    monkeypatch.setattr(notify_module, "INTERVAL_S", 0.0)
    for _ in range(2):
        starter.double.start(0)
        wait_until(lambda: starter.durable._runtime.notifier._thread is None, what="it ends")
        assert raw.payloads() == ["default"]


def test_a_thread_that_has_died_is_replaced_by_who_says_the_same_again(starter: Application, raw: Raw) -> None:
    notifier, dead = starter.durable._runtime.notifier, threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    notifier._thread, notifier._queues = dead, {"default"}
    starter.double.start(0)
    wait_until(lambda: not notifier._queues, what="it is said")
    starter.durable.close()
    assert raw.payloads() == ["default"]


def test_what_is_said_at_the_moment_when_its_time_is_over_goes_out(
    starter: Application, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify_module, "IDLE_S", 0.05)
    monkeypatch.setattr(notify_module, "INTERVAL_S", 0.0)
    notifier = starter.durable._runtime.notifier
    late = {"late"}

    class Late(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            said = super().wait(timeout)
            if not said:  # between the end of its time and its lock: somebody else had it
                notifier._queues |= late
                late.clear()
            return said

    notifier._changed = Late()
    starter.double.start(0)
    wait_until(lambda: notifier._thread is None, what="it ends")
    assert (raw.payloads(), notifier._queues) == (["default", "late"], set())


def test_an_executor_with_free_slots_tells_itself_alone(application: Application, raw: Raw) -> None:
    with application.by_hints_only(listening=False):
        assert application.double.start(21).result(LIMIT_S) == 42
    assert raw.payloads() == []


@pytest.mark.usefixtures("other_queues")
def test_an_executor_whose_slots_are_taken_tells_nobody(application: Application, raw: Raw) -> None:
    with application.by_hints_only(threads=1) as (executor, _):
        handles = [application.held.start(number) for number in range(4)]
        wait_until(lambda: executor.attempts.free(False) == 0)
        handles += [application.held.start(number) for number in range(4, 8)]
        application.double.options(queue="elsewhere").start(1)  # not its own: it says so
        application.go.set()
        assert [handle.result(LIMIT_S) for handle in handles] == list(range(8))
    application.durable.close()
    assert raw.payloads() == ["elsewhere"]


def test_what_a_closing_executor_hands_back_is_told(application: Application, starter: Application, raw: Raw) -> None:
    with starter.by_hints_only():
        starter.go.set()
        with application.durable.executor() as executor:
            handle = application.held.start(5)
            wait_until(lambda: handle.status() == Status.RUNNING)
            threading.Thread(target=lambda: wait_until(executor.stopping.is_set) and application.go.set()).start()
            executor.close(timeout=0)
        assert handle.result(LIMIT_S) == 5


# ---- transactions of the user's ----------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look comes late enough for any machine."""
    monkeypatch.setattr(notify_module, "LOOKS_S", (0.005, 0.25, 5.0))


@pytest.mark.usefixtures("patient")
def test_a_start_in_a_transaction_is_told_after_its_commit_by_another_session(
    application: Application, starter: Application, raw: Raw, database_url: str
) -> None:
    with application.by_hints_only(), psycopg.connect(database_url) as connection:
        handle = starter.double.options(tx=connection).start(21)
        wait_until(lambda: any(start.looks for start in starter.durable._runtime.notifier._uncommitted))
        assert raw.heard() == []
        connection.commit()
        assert handle.result(LIMIT_S) == 42
        heard = raw.heard()
        assert [notify.payload for notify in heard] == ["default"], heard
        (notify,) = heard
        assert notify.pid != connection.info.backend_pid


@pytest.mark.usefixtures("patient")
def test_an_executor_finds_what_its_own_process_started_in_a_transaction(
    application: Application, raw: Raw, database_url: str
) -> None:
    with application.by_hints_only(), psycopg.connect(database_url) as connection:
        handle = application.double.options(tx=connection).start(21)
        connection.commit()
        assert handle.result(LIMIT_S) == 42
    assert raw.heard() == []


def test_a_start_that_is_rolled_back_is_told_to_nobody(starter: Application, raw: Raw, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        starter.double.options(tx=connection).start(21)
        connection.rollback()
    wait_until(lambda: not starter.durable._runtime.notifier._uncommitted, what="the last look")
    starter.durable.close()
    assert raw.heard() == []


def test_no_start_without_a_url_starts_an_embedded_server(
    database_url: str, monkeypatch: pytest.MonkeyPatch, raw: Raw
) -> None:
    monkeypatch.setattr("dbdurable._io.connect.Whereabouts.__call__", lambda _: pytest.fail("asked for a database"))
    durable = Durable()

    @durable.workflow
    def work() -> None: ...

    with psycopg.connect(database_url) as connection:
        work.options(tx=connection).start()
    assert durable._runtime.notifier._thread is None
    assert raw.heard() == []


# ---- the listening connection ------------------------------------------------------------------------------


def test_a_lost_connection_heals_and_what_came_meanwhile_is_found(
    application: Application,
    starter: Application,
    connection: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with application.by_hints_only() as (executor, _):
        ear, lost, meanwhile = executor.listener._ear, backend_of(executor), list[UUID]()
        reconnect = ear.open

        def open_late(url: str, channel: str) -> None:
            row = connection.execute("""select dbdurable.start('double', '{"n": 4}')""").fetchone()
            assert row is not None
            meanwhile.append(row[0])
            reconnect(url, channel)

        ear.open = open_late  # type: ignore[method-assign]
        connection.execute("select pg_terminate_backend(%s)", [lost])
        wait_until(lambda: meanwhile)
        assert application.double.handle(meanwhile[0]).result(LIMIT_S) == 8
        assert backend_of(executor) != lost
        assert starter.double.start(21).result(LIMIT_S) == 42
    said = [record for record in caplog.records if "listen" in record.message]
    assert [record.levelname for record in said] == ["WARNING"]


def test_a_server_that_is_away_is_asked_ever_less_often(
    application: Application,
    connection: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses, enough = list[float](), threading.Event()

    def away(*_: str) -> None:
        raise DatabaseUnavailable("planted")

    def pause(timeout_s: float) -> None:
        pauses.append(timeout_s)
        if len(pauses) == 8:
            ear.stop()
            enough.set()

    with application.by_hints_only() as (executor, _):
        ear, lost = executor.listener._ear, backend_of(executor)
        monkeypatch.setattr(executor.listener._random, "uniform", lambda *_: 1.0)
        monkeypatch.setattr(ear, "open", away)
        monkeypatch.setattr(ear, "pause", pause)
        connection.execute("select pg_terminate_backend(%s)", [lost])
        assert enough.wait(LIMIT_S)
        assert application.double.start(21).result(LIMIT_S) == 42
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert [record.levelname for record in caplog.records if "listen" in record.message] == ["WARNING"]


def test_polling_alone_works(
    application: Application, starter: Application, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", "never")
    with application.durable.executor() as executor:
        assert starter.double.start(21).result(LIMIT_S) == 42
        assert not executor.listener.listening
    starter.durable.close()
    assert raw.heard() == []


def test_where_nothing_comes_through_it_polls_and_says_so(
    application: Application,
    starter: Application,
    empty_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    administrator: psycopg.Connection[Any],
) -> None:
    """A listening session that is not the one we talk to, as behind a pooler: here, one of another database."""
    monkeypatch.setenv("DBDURABLE_LISTEN_URL", empty_database_url)
    monkeypatch.setattr(listen_module, "PROBE_S", 0.1)
    caplog.set_level(logging.INFO)
    with application.durable.executor() as executor:
        wait_until(lambda: not executor.listener._thread.is_alive(), what="it gives up")
        assert starter.double.start(21).result(LIMIT_S) == 42
        name = empty_database_url.rpartition("/")[2].partition("?")[0]
        wait_until(
            lambda: administrator.execute("select from pg_stat_activity where datname = %s", [name]).rowcount == 0
        )
    assert [record.message for record in caplog.records if "polling mode" in record.message] == [
        "no notification comes through (a pooler in transaction mode?): polling mode"
    ]


def test_anything_may_come_over_the_channel(application: Application, connection: psycopg.Connection[Any]) -> None:
    with application.by_hints_only() as (_, alarm):
        before = alarm.hints
        for payload in ("", "{}", "probe", "\n\n", "x" * 7_900, "defaults", "default"):
            connection.execute("select pg_notify(%s, %s)", [channel_of("dbdurable"), payload])
        wait_until(lambda: alarm.hints > before)  # the last one; those before it came over the same connection
        assert alarm.hints == before + 1


def test_two_schemas_do_not_wake_each_other(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        one, two = Application(empty_database_url, "one"), Application(empty_database_url, "two")
        raw, channels = Raw(connection, "one", "two"), []
        with one.by_hints_only(), two.by_hints_only() as (_, alarm):
            for schema, hints in (("one", 0), ("two", 1)):
                before, starter = alarm.hints, Application(empty_database_url, schema)
                assert starter.double.start(21).result(LIMIT_S) == 42
                starter.durable.close()
                channels += [notify.channel for notify in raw.heard()]
                wait_until(lambda: alarm.hints >= before + hints)  # noqa: B023
                assert alarm.hints == before + hints
        assert channels == ["dbdurable:one", "dbdurable:two"]


# ---- results, in the same process --------------------------------------------------------------------------


@pytest.fixture
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """`result()` looks once, and again when it is woken."""
    monkeypatch.setattr(start_module, "POLL_S_FIRST", AGES_S)
    monkeypatch.setattr(start_module, "POLL_S_MAX", AGES_S)


def waits(application: Application, handle: Handle[Any]) -> bool:
    return handle.id in application.durable._runtime.waiters._waiting


@pytest.mark.usefixtures("unpolled")
@pytest.mark.parametrize("name", ["held", "aheld"])
def test_a_result_wakes_from_memory(application: Application, name: str) -> None:
    found = []
    with application.durable.executor():
        handle = getattr(application, name).sync.start(7) if name == "aheld" else application.held.start(7)
        threads = [threading.Thread(target=lambda: found.append(handle.result())) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(application.durable._runtime.waiters._waiting.get(handle.id, ())) == 3)
        application.go.set()
        for thread in threads:
            thread.join(LIMIT_S)
    assert found == [7, 7, 7]
    assert application.durable._runtime.waiters._waiting == {}


@pytest.mark.usefixtures("unpolled")
async def test_an_awaited_result_wakes_from_memory(application: Application) -> None:
    async with application.durable.executor():
        handle = await application.held.aio.start(7)
        tasks = [asyncio.create_task(handle.result()) for _ in range(3)]
        waiting = application.durable._runtime.waiters._waiting

        async def all_wait() -> bool:
            return len(waiting.get(handle.id, ())) == 3 and all(w._rouse for w in waiting[handle.id])

        await await_until(all_wait)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert len(waiting[handle.id]) == 2
        application.go.set()
        assert await asyncio.wait_for(asyncio.gather(*tasks[1:]), LIMIT_S) == [7, 7]
    assert waiting == {}


@pytest.mark.usefixtures("unpolled")
def test_a_result_of_a_direct_call_wakes_who_waits_for_it(application: Application) -> None:
    found: list[int] = []
    with application.durable.executor():
        caller = threading.Thread(target=lambda: found.append(application.held.options(key="k")(7)))
        caller.start()
        handle = application.held.handle(key="k")
        wait_until(lambda: Client.of(application.durable._runtime).workflows(name="held"))
        other = threading.Thread(target=lambda: found.append(handle.result()))
        other.start()
        wait_until(lambda: waits(application, handle))
        application.go.set()
        caller.join(LIMIT_S)
        other.join(LIMIT_S)
    assert found == [7, 7]
