"""Every load, and who takes part in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg

from tests.benchmarks import latency, mass, recover, recovery
from tests.benchmarks.contest import STEPS, Contestant, Load
from tests.benchmarks.peers import absurd, dbos, durable, hand, pgqueuer, procrastinate
from tests.benchmarks.queues import through_queue

ABSURD_PACKAGE, DBOS_PACKAGE = absurd.PACKAGE, dbos.PACKAGE

DBOS_SHARE = 0.1
"""DBOS takes ten times as long for the same work and more: it gets a tenth of it."""


def by_hand(contestant: Contestant) -> str:
    """Compared with the code by hand of the same colour."""
    return f"hand {contestant.colour}"


def to(key: str) -> Callable[[Contestant], str]:
    """All compared with one."""
    return lambda _: key


def workflows(n: int) -> tuple[int]:
    return (n,)


def tables(url: str) -> None:
    """dbdurable's. It would make them at its first use, which must not be counted."""
    with durable.application(url) as app:
        app.durable._runtime.database.prepare()


def with_table(table: str, setup: Callable[[str], None]) -> Callable[[str], None]:
    """The application's table as well."""

    def both(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(table.encode())
        setup(url)

    return both


DURABLE_APP, DBOS_APP = with_table(hand.APP_SETUP, tables), with_table(hand.APP_SETUP, dbos.tables)

# ---- ten steps, and none -------------------------------------------------------------------------------------

TEN = (
    Contestant("hand", "sync", hand.with_connections(hand.hand), hand.TEN_DONE, hand.SETUP),
    Contestant("flight", "sync", hand.with_connections(hand.flight), hand.TEN_DONE, hand.SETUP),
    Contestant("dbdurable", "sync", durable.direct("ten"), durable.TEN_DONE, DURABLE_APP),
    Contestant("DBOS", "sync", dbos.transactions(), dbos.TEN_DONE, DBOS_APP, DBOS_PACKAGE, DBOS_SHARE),
    Contestant(
        "DBOS, read committed",
        "sync",
        dbos.transactions(isolation_level="READ COMMITTED"),
        dbos.TEN_DONE,
        DBOS_APP,
        DBOS_PACKAGE,
        DBOS_SHARE,
    ),
    Contestant("hand", "async", hand.with_async_connections(hand.hand_async), hand.TEN_DONE, hand.SETUP),
    Contestant("flight", "async", hand.with_async_connections(hand.flight_async), hand.TEN_DONE, hand.SETUP),
    Contestant("dbdurable", "async", durable.adirect("aten"), durable.TEN_DONE, DURABLE_APP),
)

OUTSIDE = (
    Contestant("hand", "sync", hand.with_connections(hand.outside), hand.OUTSIDE_DONE, hand.SETUP),
    Contestant("dbdurable", "sync", durable.direct("outside"), durable.STEPS_DONE, tables),
    Contestant("DBOS", "sync", dbos.direct("outside"), dbos.STEPS_DONE, dbos.tables, DBOS_PACKAGE, DBOS_SHARE),
    Contestant("Absurd", "sync", absurd.direct("outside"), absurd.STEPS_DONE, absurd.setup, ABSURD_PACKAGE, DBOS_SHARE),
    Contestant(
        "hand", "async", hand.with_async_connections(hand.outside_async), hand.OUTSIDE_DONE, hand.SETUP, lanes=64
    ),
    Contestant("dbdurable", "async", durable.adirect("aoutside"), durable.STEPS_DONE, tables, lanes=64),
    Contestant("DBOS", "async", dbos.aoutside, dbos.STEPS_DONE, dbos.tables, DBOS_PACKAGE, DBOS_SHARE, lanes=64),
)

NOTHING = (
    Contestant("hand", "sync", hand.with_connections(hand.nothing), hand.START_DONE, hand.SETUP),
    Contestant("dbdurable", "sync", durable.direct("nothing"), durable.DONE, tables),
    Contestant("DBOS", "sync", dbos.direct("nothing"), dbos.DONE, dbos.tables, DBOS_PACKAGE, DBOS_SHARE),
    Contestant("hand", "async", hand.with_async_connections(hand.nothing_async), hand.START_DONE, hand.SETUP),
    Contestant("dbdurable", "async", durable.adirect("anothing"), durable.DONE, tables),
)


def ten_of(n: int) -> tuple[int, int, int]:
    return n * STEPS, n * STEPS, n


TEN_LOAD = Load(
    "ten", "10 transactional steps, one at a time", "workflows", TEN, ten_of, by_hand,
    full=60, quick=4, slices=4, counted=(4, 14),
)  # fmt: skip
OUTSIDE_LOAD = Load(
    "outside", "10 outside steps, 16 threads or 64 tasks", "workflows", OUTSIDE, lambda n: (n * STEPS, n), by_hand,
    lanes=16, full=2000, quick=16, warm_up=1, counted=(64, 192),
)  # fmt: skip
START_LOAD = Load(
    "start", "a workflow without steps, one at a time", "workflows", NOTHING, workflows, by_hand,
    full=400, quick=8, slices=4, counted=(10, 60),
)  # fmt: skip

# ---- queues --------------------------------------------------------------------------------------------------


def _jobs(put: str) -> tuple[Contestant, ...]:
    """All queues; `put` is `one_by_one` or `in_bulk`."""

    def queue(
        name: str, colour: str, peer: Any, enqueue: Any, setup: Any = "", work: str = "work", share: float = 1.0
    ) -> Contestant:
        package = getattr(peer, "PACKAGE", None)
        opened = through_queue(peer.__name__, enqueue, peer.DONE, work)
        return Contestant(name, colour, opened, peer.DONE, setup or tables, package, share)

    if put == "in_bulk":
        return (
            queue("dbdurable", "sync", durable, durable.in_bulk("nothing")),
            queue("dbdurable", "async", durable, durable.in_bulk("anothing")),
            queue("dbdurable", "sync tuned", durable, durable.in_bulk("nothing"), work="work_tuned"),
            queue("dbdurable", "async tuned", durable, durable.in_bulk("anothing"), work="work_tuned"),
            queue(
                "Procrastinate", "tuned", procrastinate, procrastinate.in_bulk, procrastinate.setup, "work_tuned", 0.2
            ),
            queue("PgQueuer", "", pgqueuer, pgqueuer.in_bulk, pgqueuer.setup),
            queue("PgQueuer", "tuned", pgqueuer, pgqueuer.in_bulk, pgqueuer.setup, "work_tuned"),
        )
    return (
        queue("dbdurable", "sync", durable, durable.one_by_one),
        queue("dbdurable", "async", durable, durable.aone_by_one),
        queue("dbdurable", "sync tuned", durable, durable.one_by_one, work="work_tuned"),
        queue("dbdurable", "async tuned", durable, durable.aone_by_one, work="work_tuned"),
        queue("DBOS", "", dbos, dbos.one_by_one, dbos.setup, share=0.1),
        queue("DBOS", "tuned", dbos, dbos.one_by_one, dbos.setup, "work_tuned", share=0.1),
        queue("Absurd", "", absurd, absurd.one_by_one, absurd.setup, share=0.2),
        queue("Absurd", "tuned", absurd, absurd.one_by_one, absurd.setup, "work_tuned", share=0.2),
        queue("Procrastinate", "", procrastinate, procrastinate.one_by_one, procrastinate.setup, share=0.2),
        queue(
            "Procrastinate", "tuned", procrastinate, procrastinate.one_by_one, procrastinate.setup, "work_tuned", 0.2
        ),
        queue("PgQueuer", "", pgqueuer, pgqueuer.one_by_one, pgqueuer.setup),
        queue("PgQueuer", "tuned", pgqueuer, pgqueuer.one_by_one_pool, pgqueuer.setup, "work_tuned"),
    )


QUEUE_LOAD = Load(
    "queue", "queue: enqueued one by one, then drained by one process", "jobs", _jobs("one_by_one"), workflows,
    to("PgQueuer"), full=5000, quick=40, warm_up=0, counted=(50, 250),
)  # fmt: skip
QUEUES_LOADS = tuple(
    replace(
        QUEUE_LOAD,
        name=f"queue-{processes}",
        title=f"queue: enqueued one by one, then drained by {processes} processes",
        lanes=processes,
        counted=None,
        conditions=("near",),
    )
    for processes in (2, 4)
)
BULK_LOAD = replace(
    QUEUE_LOAD,
    name="bulk",
    title="queue: enqueued in bulk, then drained by one process",
    contestants=_jobs("in_bulk"),
    full=10_000,
)


def _idle(key: str, peer: Any, enqueue: Any) -> Contestant:
    (contestant,) = (each for each in QUEUE_LOAD.contestants if each.key == key)
    return replace(contestant, opened=latency.to_first_line(peer.__name__, enqueue, peer.DONE))


IDLE_LOAD = Load(
    "idle", "an idle queue: from the call to the job's first line, in another process", "starts",
    (
        _idle("dbdurable sync", durable, durable.one_by_one),
        _idle("DBOS", dbos, dbos.one_by_one),
        _idle("Absurd", absurd, absurd.one_by_one),
        _idle("Procrastinate", procrastinate, procrastinate.one_by_one),
        _idle("PgQueuer", pgqueuer, pgqueuer.one_by_one),
    ),
    workflows, to("dbdurable sync"), full=20, quick=3, warm_up=2, conditions=("near", "far"),
)  # fmt: skip

RESULT_LOAD = Load(
    "result", "an idle queue: from start() to its result", "starts",
    (
        Contestant("dbdurable, one process", "", latency.here, durable.DONE, tables),
        Contestant("dbdurable, two processes", "", latency.elsewhere(listens=True), durable.DONE, tables),
        Contestant("dbdurable, two processes, polling", "", latency.elsewhere(listens=False), durable.DONE, tables),
        Contestant("DBOS, one process", "", latency.dbos_here, dbos.DONE, dbos.tables, DBOS_PACKAGE),
    ),
    workflows, to("dbdurable, one process"), full=20, quick=3, warm_up=2, conditions=("near", "far"),
)  # fmt: skip

WAKING_LOAD = Load(
    "waking", "an idle system: from the time that a sleep is due to the record that it is over", "sleepers",
    (Contestant("dbdurable", "", latency.woken, durable.DONE, tables),),
    workflows, to("dbdurable"), full=300, quick=3, warm_up=2, conditions=("near", "far"),
)  # fmt: skip

# ---- one workflow with many parts ----------------------------------------------------------------------------

FAN_LOAD = Load(
    "fan", "fan-out: one workflow of 10,000 branches", "branches",
    (
        Contestant("dbdurable, steps", "sync", durable.fan, durable.STEPS_ONLY, tables),
        Contestant("dbdurable, steps", "async", durable.afan("afan"), durable.STEPS_ONLY, tables),
        Contestant("dbdurable, children", "async", durable.afan("achildren"), durable.CHILDREN_DONE, tables),
        Contestant("DBOS, children", "sync", dbos.fan, dbos.CHILDREN_DONE, dbos.tables, DBOS_PACKAGE, 0.05),
    ),
    workflows, to("DBOS, children sync"), full=10_000, quick=40, conditions=("near", "far"),
)  # fmt: skip
REPLAY_LOAD = Load(
    "replay", "replay of a workflow of 10,000 steps", "steps",
    (
        Contestant("dbdurable", "sync", durable.replay("long"), durable.LONG_DONE, tables),
        Contestant("dbdurable", "async", durable.replay("along"), durable.LONG_DONE, tables),
        Contestant("DBOS", "sync", dbos.replay, dbos.FORKED_DONE, dbos.tables, DBOS_PACKAGE, DBOS_SHARE),
    ),
    workflows, to("DBOS sync"), full=10_000, quick=30, conditions=("near", "far"),
)  # fmt: skip

# ---- fleets --------------------------------------------------------------------------------------------------

KILLED = "select count(distinct victim) from seen"
RECOVERY_LOAD = Load(
    "recovery", "SIGKILL of one of three busy executors: until its workflows run elsewhere", "kills",
    (Contestant("dbdurable", "", recover.killed, KILLED, with_table(recovery.SEEN, tables)),),
    workflows, to("dbdurable"), full=5, quick=2, warm_up=0, conditions=("near",),
)  # fmt: skip
SLEEPING_LOAD = Load(
    "sleeping", "workflows that sleep for a month", "workflows",
    (Contestant("dbdurable", "", recover.asleep, durable.ASLEEP, tables),),
    workflows, to("dbdurable"), full=1_000_000, quick=100, warm_up=0, conditions=("near",),
)  # fmt: skip
MASS_LOAD = Load(
    "mass", "workflows that sleep and are due at the same moment", "workflows",
    (
        Contestant("dbdurable", "sync", mass.due_at_once("nap"), durable.DONE, tables),
        Contestant("dbdurable", "async", mass.due_at_once("anap"), durable.DONE, tables),
    ),
    workflows, to("dbdurable sync"), full=100_000, quick=100, warm_up=0, conditions=("near",),
)  # fmt: skip

LOADS = (
    TEN_LOAD,
    replace(
        TEN_LOAD, name="ten-16", title="10 transactional steps, 16 at once", lanes=16, full=240, quick=16, counted=None
    ),
    OUTSIDE_LOAD,
    START_LOAD,
    replace(
        START_LOAD, name="start-16", title="a workflow without steps, 16 at once", lanes=16, full=1600, counted=None
    ),
    QUEUE_LOAD,
    *QUEUES_LOADS,
    BULK_LOAD,
    IDLE_LOAD,
    RESULT_LOAD,
    WAKING_LOAD,
    FAN_LOAD,
    REPLAY_LOAD,
    RECOVERY_LOAD,
    SLEEPING_LOAD,
    MASS_LOAD,
)
BY_REQUEST = ("sleeping", "mass")
"""Not among those that run when no load is named."""
