"""Tests of the tests: each check is red when what it forbids was planted, and when there is nothing to look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.arena import Arena, Plan, arena
from tests.chaos.mutants import MUTANTS
from tests.chaos.nemesis import KINDS
from tests.chaos.oracle import CHECKS, judge, void

A_FINISHED = "(select id from dbdurable.workflow where status = 'succeeded' and name = 'order' limit 1)"

PLANTS = {
    "every acknowledged start is finished": f"delete from dbdurable.workflow where id = {A_FINISHED}",
    "as the code says: succeeded, or failed on purpose, with the sum of what it wrote": (
        f"update dbdurable.workflow set output = '77777' where id = {A_FINISHED}"
    ),
    "one workflow per key, the one that was told": (
        "update chaos.asked set workflow_id = gen_random_uuid() where ctid = "
        "(select ctid from chaos.asked where key is not null and told limit 1)"
    ),
    "no workflow that nobody asked for": (
        "insert into dbdurable.workflow (id, name, queue, partition, priority, max_attempts, created_at, "
        "input, status, epoch, attempt) "
        "select gen_random_uuid(), 'order', 'default', '', 0, 20, now(), '{}', 'succeeded', 1, 1 "
        "from chaos.asked"
    ),
    "a workflow that was started in a transaction exists if and only if that committed": (
        "delete from chaos.booking where id = (select min(id) from chaos.booking)"
    ),
    "every effect of a transaction exactly once": (
        f"insert into chaos.effect select * from chaos.effect where workflow_id = {A_FINISHED} limit 1"
    ),
    "an effect if and only if its record": (
        "update chaos.effect set path = '99' where ctid = "
        f"(select ctid from chaos.effect where workflow_id = {A_FINISHED} limit 1)"
    ),
    "every call outside at least once, and always under the same key": (
        "insert into chaos.outside select workflow_id, path, what, gen_random_uuid(), pid from chaos.outside limit 1"
    ),
    "no key for two calls": (
        "insert into chaos.outside select workflow_id, '99', what, key, pid from chaos.outside limit 1"
    ),
    "two children that each family started itself": (
        "update dbdurable.workflow set parent_id = null where id = (select id from dbdurable.workflow "
        "where parent_id is not null limit 1)"
    ),
    "and one with a transaction of each family": (
        "delete from dbdurable.workflow where name = 'child' and parent_id is null and id not in "
        "(select workflow_id from chaos.asked where workflow_id is not null)"
    ),
    "never more at once than the queue allows": (
        "delete from chaos.history where queue = 'narrow' and before = 'running'"
    ),
    "never more at once than a partition allows": (
        "delete from chaos.history where queue = 'lines' and before = 'running'"
    ),
    "what is counted stays between nothing and the limit": (
        "insert into chaos.counted (queue, partition, used, most) values ('narrow', '', 4, 3)"
    ),
    "what is counted is what is held, at every look": (
        "insert into chaos.sample (queue, partition, used, holders) values ('narrow', '', 2, 1)"
    ),
    "nothing is counted any more": "update dbdurable.limit_key set used = 1 where queue = 'narrow'",
    "first in, first begun, in each partition": (
        "update dbdurable.workflow w set started_at = started_at - interval '1 hour' where id = (select id from "
        "dbdurable.workflow where queue = 'lines' and (input ->> 'number')::int = 1 limit 1)"
    ),
    "never faster than the rate": (
        "update dbdurable.workflow set started_at = (select min(started_at) from dbdurable.workflow) "
        "where queue = 'rated'"
    ),
    "nothing is stranded": f"update dbdurable.workflow set status = 'queued' where id = {A_FINISHED}",
    "nothing is left over: tickets, leases, waits, executors": (
        f"insert into dbdurable.lease values (gen_random_uuid(), 1, array[{A_FINISHED}])"
    ),
    "no transaction of a former epoch commits": (
        "insert into chaos.recorded (id, path, kind, epoch, failed) select id, '99', 'transaction', epoch - 1, false "
        "from chaos.history where status = 'running' limit 1"
    ),
    "one owner per epoch, and epochs only grow": (
        "insert into chaos.history (id, queue, status, before, epoch, epoch_before, executor_id) select id, queue, "
        "'running', 'queued', epoch, epoch - 1, gen_random_uuid() from chaos.history where status = 'running' limit 1"
    ),
    "who parks ran until then, keeps its epoch and its owner, and has nothing of its queue's limits": (
        "insert into chaos.history (id, status, before, epoch, epoch_before, executor_id) select id, 'waiting', "
        "'running', epoch + 1, epoch, executor_id from chaos.history where status = 'running' limit 1"
    ),
    "what has ended stays as it ended": (
        "insert into chaos.history (id, status, before, epoch, epoch_before) values "
        "(gen_random_uuid(), 'queued', 'succeeded', 3, 2)"
    ),
    "nothing is recorded twice, or after the end": (
        f"update dbdurable.step set finished_at = clock_timestamp() + interval '1 h' where workflow_id = {A_FINISHED}"
    ),
    "no session is left in a transaction, and no lock": "select pg_advisory_xact_lock(7)",
}


@pytest.fixture(scope="module")
def peace() -> Iterator[Arena]:
    """A run without faults, all over."""
    with arena(Plan(seed=5, seconds=4, workers=2, faults=False)) as opened:
        opened.run()
        yield opened


@pytest.mark.timeout(180)
def test_without_faults_every_check_holds_and_has_looked_at_something(peace: Arena) -> None:
    verdicts = judge(peace.connection)
    assert [str(verdict) for verdict in verdicts if not verdict.good] == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_planted_violation_turns_its_check_red(peace: Arena, check: object) -> None:
    (found,) = [each for each in CHECKS if each is check]
    with peace.connection.transaction(force_rollback=True):
        planted = peace.connection.execute(PLANTS[found.name].encode())
        assert planted.rowcount > 0, "nothing was planted"
        (verdict,) = judge(peace.connection, [found])
    assert verdict.wrong, verdict


def test_a_check_that_looked_at_nothing_is_not_good(peace: Arena) -> None:
    with peace.connection.transaction(force_rollback=True):
        peace.connection.execute("truncate chaos.sample")
        (verdict,) = judge(peace.connection, [check for check in CHECKS if "chaos.sample" in check.examined])
    assert (verdict.wrong, verdict.good) == ([], False)


@pytest.mark.parametrize("missing", KINDS)
def test_a_run_without_some_kind_of_fault_is_void(missing: str) -> None:
    injected = dict.fromkeys(KINDS, 1)
    assert void(injected, hit=1, reborn=1) == []
    assert void(injected | {missing: 0}, hit=1, reborn=1) == [f"no {missing} was injected"]
    assert len(void(injected, hit=0, reborn=0)) == 2


NOTICED_BY = {
    "count without a lock": "what is counted stays between nothing and the limit",
    "any order": "first in, first begun, in each partition",
    "keep slots": "what is counted is what is held, at every look",
    "no fence": "no transaction of a former epoch commits",
    "ignore the rate": "never faster than the rate",
    "finish whoever owns it": "what has ended stays as it ended",
}
PEACEFUL = ("any order", "ignore the rate")
"""Mutants that need no fault to show."""


def check_noticed(mutant: str, plan: Plan) -> None:
    with arena(plan) as opened:
        opened.run()
        wrong = {verdict.check.name for verdict in judge(opened.connection) if verdict.wrong}
    assert NOTICED_BY[mutant] in wrong, wrong


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", PEACEFUL)
def test_a_wrong_version_is_noticed(mutant: str) -> None:
    check_noticed(mutant, Plan(seed=6, seconds=4, faults=False, mutant=mutant, done_within_s=10))


SELDOM_MET = {"no fence"}
"""Half a minute of faults seldom freezes a process between its last statement and COMMIT: tests/crash/test_mutants.py
does so on purpose, and notices."""


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", [each for each in NOTICED_BY if each not in {*PEACEFUL, *SELDOM_MET}])
def test_a_wrong_version_is_noticed_under_faults(mutant: str) -> None:
    check_noticed(mutant, Plan(seed=6, seconds=30, mutant=mutant, done_within_s=15))


def test_each_check_and_each_mutant_is_tested() -> None:
    assert {check.name for check in CHECKS} == PLANTS.keys()
    assert MUTANTS.keys() == NOTICED_BY.keys()
