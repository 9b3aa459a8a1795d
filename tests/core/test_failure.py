"""Errors come back with their class, text, cause and traceback, or as RemoteError."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel

from dbdurable._core import limits
from dbdurable._core.failure import decode_failure, encode_failure, mask, settle_failure
from dbdurable.errors import BadArgument, RemoteError, RetryAfter


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Formatting(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"failed with {code}")
        self.code = code
        self.client = object()
        self.password = "hidden"


class Holder:
    class Inner(Exception): ...


class BadStr(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


class Group(ExceptionGroup[Exception]): ...


class Model(BaseModel):
    number: int


def raised_by(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        KeyError("sku"),
        ValueError(),
        ValueError("a", 1, (2, b"x")),
        OSError(2, "no such file", "/etc/x"),
        ConnectionResetError(104, "reset"),
        TimeoutError("late"),
        StopIteration(3),
        ImportError("no", name="shop"),
        RetryAfter(5),
        BadArgument("argument x"),
        RemoteError("shop.Declined", "no money", "Traceback"),
        KeywordOnly(code=3),
        Formatting(5),
        Holder.Inner("deep"),
        ValueError(object()),
        ValueError(object(), 1),
        ValueError("x" * 50_000),
        ValueError("x" * 500_000),
        raised_by(lambda: b"\xff".decode()),
        raised_by(lambda: json.loads("{")),
        raised_by(lambda: Model(number="x")),  # type: ignore[arg-type]
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.OperationalError("gone"),
        Group("both", [ValueError("a"), Group("inner", [KeywordOnly(code=1)])]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_same_class_and_text(error: Exception) -> None:
    text, replayed = settle_failure(error)
    assert type(replayed) is type(error)
    assert str(replayed)[:5000] == str(error)[:5000]
    again = decode_failure(text)
    assert (type(again), str(again)) == (type(replayed), str(replayed))
    assert len(again.args) == len(replayed.args)
    # Recorded once more (a workflow that fails with its step's error) it stays what it is.
    assert str(decode_failure(encode_failure(again))) == str(again)


def test_attributes_come_back_but_no_secrets() -> None:
    replayed: Any = settle_failure(Formatting(5))[1]
    assert replayed.code == 5
    assert not hasattr(replayed, "client")
    assert "hidden" not in encode_failure(Formatting(5))
    error: Any = settle_failure(OSError(2, "no such file", "/etc/x"))[1]
    assert (error.errno, error.filename) == (2, "/etc/x")
    assert settle_failure(ImportError("no", name="shop"))[1].name == "shop"  # type: ignore[attr-defined]


def test_cause_context_notes_and_traceback() -> None:
    def chained() -> None:
        try:
            raise KeyError("sku")
        except KeyError as error:
            raise ValueError("bad order") from error

    def in_handler() -> None:
        try:
            raise KeyError("sku")
        except KeyError:
            raise ValueError("bad order")  # noqa: B904

    error = raised_by(chained)
    error.add_note("in step 3")
    text, replayed = settle_failure(error)
    assert isinstance(replayed.__cause__, KeyError)
    assert replayed.__notes__ == ["in step 3"]
    assert replayed.__traceback__ is error.__traceback__
    assert replayed.__cause__.__traceback__ is not None
    assert "in chained" in json.loads(text)["traceback"]
    assert isinstance(settle_failure(raised_by(in_handler))[1].__context__, KeyError)


@pytest.mark.parametrize("error", [asyncio.CancelledError("c"), SystemExit(1), KeyboardInterrupt()])
def test_only_exceptions_are_raised_again(error: BaseException) -> None:
    assert type(decode_failure(encode_failure(error))) is RemoteError


def test_classes_that_cannot_be_found() -> None:
    class Local(Exception): ...

    remote = settle_failure(Local("here"))[1]
    assert isinstance(remote, RemoteError)
    assert remote.type.endswith("Local")
    assert remote.message == "here"


def test_nothing_is_imported_or_run_to_find_a_class() -> None:
    def forbidden(name: str) -> object:
        raise AssertionError(f"looked up {name}")

    module = types.ModuleType("lazy_module")
    module.__getattr__ = forbidden  # type: ignore[method-assign]
    sys.modules["lazy_module"] = module
    try:
        for name, kind in [("lazy_module", "Error"), ("antigravity", "Error"), ("os", "system"), ("", "")]:
            data = {"module": name, "type": kind, "message": "m", "args": ["m"], "exact": True}
            assert type(decode_failure(json.dumps(data))) is RemoteError
    finally:
        del sys.modules["lazy_module"]
    assert "antigravity" not in sys.modules


def test_odd_errors_are_recorded_all_the_same() -> None:
    assert "failed" in json.loads(encode_failure(BadStr()))["message"]
    assert "\\u0000" not in encode_failure(ValueError("a\0b\ud800", {"k\0": "\0"}))
    loop = ValueError("loop")
    loop.__cause__ = KeyError("x")
    loop.__cause__.__cause__ = loop
    assert len(encode_failure(loop)) < 50_000
    wide = ExceptionGroup("g", [ExceptionGroup("h", [ValueError(n) for n in range(200)]) for _ in range(200)])
    assert type(settle_failure(wide)[1]) is ExceptionGroup
    deep: Exception = ValueError("leaf")
    for _ in range(300):
        deep = ExceptionGroup("g", [deep])
    assert len(encode_failure(deep)) < limits.payload_bytes_max
    huge = ExceptionGroup("g", [ValueError("x" * 90_000, n) for n in range(200)])
    assert len(encode_failure(huge)) < limits.payload_bytes_max
    for text in ['"only a text"', '{"message": "from SQL"}', "null", '{"args": 1, "module": 5}']:
        assert isinstance(decode_failure(text), RemoteError)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://app:s3cret@db:5432/shop", "postgresql://app:***@db:5432/shop"),
        ("to postgres://app:p@ss@db/x failed", "to postgres://app:***@db/x failed"),
        ("host=db password=s3cret user=app", "host=db password=*** user=app"),
        ("password='it''s' x", "password=***'s' x"),
        ('{"password": "s3cret"}', '{"password": ***}'),
        ("PGPASSWORD=s3cret psql", "PGPASSWORD=*** psql"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("postgresql://db/shop", "postgresql://db/shop"),
        ("nothing here", "nothing here"),
    ],
)
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert mask(masked) == masked


def test_no_password_in_any_part_of_a_failure() -> None:
    url = "postgresql://app:s3cret@db/shop"
    error = ValueError(url, {"dsn": url})
    error.url = url  # type: ignore[attr-defined]
    error.add_note(f"while connecting to {url}")
    error.__cause__ = KeyError("password=s3cret")
    assert "s3cret" not in encode_failure(error)
