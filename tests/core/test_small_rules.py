"""Names, retries, durations, ids."""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbdurable._core import limits
from dbdurable._core.ids import UuidV7, step_key
from dbdurable._core.names import check_key, check_name, check_schema, default_name
from dbdurable._core.retry import as_retry, duration_s, is_transient, next_delay_s, sqlstate
from dbdurable._core.show import clip, shown, shown_type
from dbdurable.errors import BadArgument, BadConfiguration, Cancelled, NonRetryable, RetryAfter
from dbdurable.types import Retry

# ---- names ----


@pytest.mark.parametrize("name", ["checkout", "_x", "Orders.charge", "orders-eu.a:b/c", "größe", "注文", "नमस्ते", "a1"])
def test_good_names(name: str) -> None:
    assert check_name(name, "step") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "'; drop table x",
        "x" * 10_000,
        "a\0",
        "😀",
        "a😀",
        "1a",
        "-a",
        "a b",
        "a\n",
        "<lambda>",
        5,
        None,
        'a"b',
        "a%s",
        "a\\b",
    ],
)
def test_hostile_names(name: Any) -> None:
    with pytest.raises(BadArgument, match="the name of a step") as caught:
        check_name(name, "step")
    assert len(str(caught.value)) < 300
    with pytest.raises(BadConfiguration):
        check_name(name, "step", error=BadConfiguration)


def test_schemas_and_keys() -> None:
    assert check_schema("dbdurable_2") == "dbdurable_2"
    for bad in ["", "Shop", "pg_catalog", "a-b", "1a", "a\n", "x" * 49, None, 'a"; drop']:
        with pytest.raises(BadConfiguration):
            check_schema(bad)
    assert check_key("order 43 / é '") == "order 43 / é '"
    for bad in ["", "a\0", "x" * (limits.key_chars_max + 1), 5, "\ud800"]:
        with pytest.raises(BadArgument, match="key"):
            check_key(bad)


class Orders:
    def charge(self) -> None: ...


def test_default_names() -> None:
    def local() -> None: ...

    assert default_name(local) == "local"
    assert default_name(Orders.charge) == "Orders.charge"
    for fn in (lambda: 1, object()):
        with pytest.raises(BadConfiguration, match="name="):
            default_name(fn)


# ---- what messages show ----


def test_shown_values_are_short_and_never_fail() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    for value in ("x" * 10**6, [["y" * 1000] * 1000] * 1000, 10**5000, Broken(), {"a": Broken()}, "a\nb"):
        assert len(shown(value)) <= limits.shown_chars_max
        assert "\n" not in shown(value)
    assert shown_type(dict[str, timedelta] | None) == "dict[str, datetime.timedelta] | None"
    assert clip("abc", 3) == "abc"
    assert len(clip("x" * 100, 10)) == 10


# ---- retries ----


def no_chance() -> Random:
    return Random(1)


def test_delays_grow_up_to_their_limit() -> None:
    retry = Retry(None, initial=0.5, factor=2, max_interval=timedelta(seconds=3), jitter=0)
    assert [next_delay_s(retry, n, ValueError(), no_chance()) for n in (1, 2, 3, 4, 10_000)] == [
        0.5,
        1,
        2,
        3,
        3,
    ]
    assert next_delay_s(retry._replace(initial=0), 10_000, ValueError(), no_chance()) == 0
    assert next_delay_s(retry._replace(factor=0.5), 10_000, ValueError(), no_chance()) == 0


@given(st.integers(1, 20_000), st.floats(0, 1), st.floats(0.001, 1e6), st.floats(0.01, 1e6))
def test_delays_are_finite_and_bounded(attempt: int, jitter: float, initial: float, factor: float) -> None:
    retry = as_retry(Retry(None, initial, factor, max_interval=60, jitter=jitter))
    delay = next_delay_s(retry, attempt, ValueError(), Random(attempt))
    assert delay is not None
    assert 0 <= delay <= 60
    full = next_delay_s(retry._replace(jitter=0), attempt, ValueError(), Random(attempt))
    assert full is not None
    assert full * (1 - jitter) <= delay * (1 + 1e-9)


def test_what_is_worth_a_retry() -> None:
    def ask(retry: Retry, error: BaseException, attempt: int = 1) -> float | None:
        return next_delay_s(retry._replace(jitter=0), attempt, error, no_chance())

    assert ask(Retry(3), ValueError(), 2) == 2
    assert ask(Retry(3), ValueError(), 3) is None
    assert ask(as_retry(None), ValueError()) is None
    assert ask(Retry(3, on=OSError), ValueError()) is None
    assert ask(Retry(3, on=(OSError, KeyError)), KeyError()) == 1
    assert ask(Retry(3, on=lambda error: "busy" in str(error)), ValueError("busy")) == 1
    assert ask(Retry(3, on=OSError, non_retryable=(FileNotFoundError,)), FileNotFoundError()) is None
    assert ask(Retry(3), NonRetryable()) is None
    assert ask(Retry(3), Cancelled()) is None
    assert ask(Retry(3), KeyboardInterrupt()) is None
    assert ask(Retry(3, on=OSError), RetryAfter(timedelta(hours=1))) == 3600
    assert ask(Retry(3), RetryAfter(1), 3) is None
    with pytest.raises(ZeroDivisionError):
        ask(Retry(3, on=lambda _: bool(1 / 0)), ValueError())


@pytest.mark.parametrize(
    "bad",
    [
        *(0, -1, True, "5", 1.5, Retry(0)),
        *(Retry(3, initial=-1), Retry(3, initial=math.nan), Retry(3, max_interval=math.inf)),
        *(Retry(3, factor=0), Retry(3, factor=math.inf), Retry(3, jitter=1.5), Retry(3, jitter=math.nan)),
        *(Retry(3, on=5), Retry(3, on=int), Retry(3, on=("x",))),  # type: ignore[arg-type]
        *(Retry(3, non_retryable=(5,)), Retry(3, non_retryable=OSError)),  # type: ignore[arg-type]
    ],
)
def test_policies_that_cannot_be_meant(bad: Any) -> None:
    with pytest.raises(BadConfiguration, match="retry"):
        as_retry(bad)


def test_durations() -> None:
    assert duration_s(timedelta(minutes=1), "timeout") == 60.0
    assert duration_s(0, "timeout") == 0.0
    for bad in (
        -1,
        timedelta(seconds=-1),
        math.nan,
        math.inf,
        True,
        None,
        "5",
        10**400,
        timedelta.max,
        1e300,
    ):
        with pytest.raises(BadArgument, match="timeout"):
            duration_s(bad, "timeout")  # type: ignore[arg-type]


class WithState(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.__dict__ |= attributes


def test_sqlstate_behind_wrappers() -> None:
    deadlock = WithState(sqlstate="40P01")
    outer = ValueError()
    outer.__cause__ = WithState(orig=deadlock)
    assert sqlstate(outer) == "40P01"
    assert is_transient(outer)
    assert sqlstate(WithState(pgcode="23505")) == "23505"
    assert not is_transient(WithState(pgcode="23505"))
    loop = WithState(sqlstate=None)
    loop.__cause__ = loop
    assert sqlstate(loop) is None


# ---- ids ----


def test_uuid7_sorts_by_time_and_never_goes_back() -> None:
    times = iter([1000, 1000, 1001, 5, 5, 2000])
    mint = UuidV7(lambda: next(times))
    ids = [mint() for _ in range(6)]
    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}
    assert all(each.variant == "specified in RFC 4122" for each in ids)
    assert [each.int >> 80 for each in ids] == [1000, 1000, 1001, 1001, 1001, 2000]


def test_uuid7_is_distinct_across_threads() -> None:
    mint = UuidV7(lambda: 1, random_bits=lambda _: 0)
    made: list[list[UUID]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda m=m: m.extend(mint() for _ in range(5000))) for m in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for m in made for each in m}) == 20_000
    assert all(m == sorted(m) for m in made)


def test_step_keys() -> None:
    workflow = UUID(int=1)
    assert step_key(workflow, "3") == step_key(workflow, "3") != step_key(workflow, "3.1")
    assert step_key(workflow, "3").version == 5
