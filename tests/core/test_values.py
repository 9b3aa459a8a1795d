# ruff: noqa: DTZ001, UP045 - values without a time zone, and old spellings, must work too
"""Values come back from JSON as what they were, or are refused with a sentence that names them."""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic_core import core_schema
from typing_extensions import TypedDict

from dbdurable._core import limits
from dbdurable._core.codec import ValueCodec
from dbdurable.errors import BadArgument, BadConfiguration

T = TypeVar("T")
WHAT = "argument amount of workflow checkout"


class Colour(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Part:
    blob: bytes
    anything: Any
    price: Decimal = Decimal("1.10")
    type: str = "x"  # field names that look like parts of a schema
    default: int = 1


@dataclasses.dataclass
class Tree:
    children: list[Tree]
    value: Any = None


@dataclasses.dataclass(eq=False)
class ByIdentity:
    parts: list[int]


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


class Point(NamedTuple):
    x: int
    blob: bytes
    price: Decimal
    anything: Any = None


class Row(TypedDict):
    id: int
    blob: NotRequired[bytes]


class Model(BaseModel):
    price: Decimal = Decimal("2.50")
    tags: set[str] = set()
    anything: Any = None
    blob: bytes = b""
    ratio: float | None = None


class Opaque: ...


class OwnRules:
    """As Handle will do it."""

    def __init__(self, id: str) -> None:
        self.id = id

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            core_schema.union_schema([core_schema.is_instance_schema(cls), core_schema.str_schema()]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.id),
        )


def codec(annotation: Any) -> ValueCodec:
    return ValueCodec.for_annotation(annotation, "parameter amount of workflow checkout")


def same(a: Any, b: Any) -> bool:
    """Stricter than ==: types all the way down, and the sign of zero."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Decimal):
        return str(a) == str(b)
    return bool(a == b)


TYPED = [
    (int, 2**80),
    (int, 0),
    (float, 1e22),
    (float, -0.0),
    (float, 5e-324),
    (list[float], [1e22, -0.0, 5e-324, 0.1 + 0.2, 1.0, 1e16]),
    (bool, False),
    (str, 'quote " backslash \\u0000 NaN é \U0001f600 \x7f \u2028'),
    (list[str], ["\\u0000", "\\\\u0000", "NaN", "Infinity"]),
    (type(None), None),
    (None, None),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("1E+400")),
    (UUID, UUID(int=5)),
    (bytes, b"\x00\xff>>??"),
    (datetime, datetime(2026, 1, 1, 12, microsecond=1, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    (datetime, datetime(2026, 1, 1)),
    (date, date(2026, 1, 31)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (Path, Path("/a/b")),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (set[int], {3, 1, 2}),
    (frozenset[bytes], frozenset({b"\xff"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], ()),
    (dict[int, str], {2: "b", 1: "a"}),
    (dict[UUID, Decimal], {UUID(int=1): Decimal("0.10")}),
    (dict[str, int], {"b": 1, "a": 2}),
    (Part, Part(b"\xff", (1, {"x"}))),
    (list[Part], [Part(b"\xff", Decimal("1.10"))]),
    (Tree, Tree([Tree([], (1,)), Tree([])])),
    (Box[Decimal], Box(Decimal("1.10"))),
    (Point, Point(1, b"\xff", Decimal("1.10"), (1, {2}))),
    (Row, {"id": 1, "blob": b"\xff"}),
    (Row, {"id": 1}),
    (Model, Model(tags={"a"})),
    (list[Model], [Model(), Model(price=Decimal("0.10"))]),
    (Optional[Decimal], None),
    (Decimal | str, Decimal("1.10")),
    (Decimal | str, "1.10"),
    (date | datetime, date(2026, 1, 1)),
    (date | datetime, datetime(2026, 1, 1)),
    (bytes | str, "YQ=="),
    (bytes | str, b"a"),
    (UUID | str, str(UUID(int=1))),
    (Path | str, Path("/a")),
    (Path | str | None, "/a"),
    (set[Decimal] | list[Decimal], {Decimal("1.10")}),
    (set[Decimal] | list[Decimal], [Decimal("1.10")]),
    (tuple[Part, ...] | list[Part], (Part(b"\xff", {1}),)),
    (Decimal | Any, (1, 2)),
    (int | float | str | None, 1.0),
    (int | float, 1),
    (abc.Sequence[bytes], (b"\xff",)),
    (abc.Sequence[int], [1]),
    (abc.Iterable[Decimal], (Decimal("1.10"),)),
    (abc.Iterable[int], [1]),
    (abc.Mapping[int, str], {1: "a"}),
    (Literal["a", 1], 1),
    (Annotated[int, Field(gt=1)], 2),
    (list, [1, (2,), {3}]),
    (dict, {1: (1,)}),
    (tuple, (1, (2,))),
    (set, {(1, 2)}),
    (dict[str, Any], {"a": (1, {"$t": "set", "v": 1})}),
    (list[Any], [datetime(2026, 1, 1), 1e22, None]),
    (dict[Any, Any], {(1, 2): {3}}),
    (dict[Any, int], {(1, 2): 3}),
    (T, (1, 2)),
    (list[T], [(1, 2)]),
    (object, {1: 2}),
]


@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=map(str, range(len(TYPED))))
def test_annotated_values_come_back_as_they_were(annotation: Any, value: Any) -> None:
    text, settled = codec(annotation).settle(value, WHAT)
    assert same(settled, value)
    assert same(codec(annotation).decode(text), value)
    assert codec(annotation).encode(settled, WHAT) == text


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
hashables = (
    scalars
    | st.binary(max_size=20)
    | st.dates()
    | st.datetimes(timezones=st.none() | offsets)
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
)
values = st.recursive(
    hashables | st.sampled_from([{"$t": "set", "v": []}, {"$t": 1}, Path("/a")]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text("ab$tv", max_size=2), inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_values_without_annotation_come_back_as_they_were(value: Any) -> None:
    for annotation in (Any, list[Any], dict[str, Any]):
        wrapped = {list[Any]: [value], dict[str, Any]: {"a": value}}.get(annotation, value)
        text, settled = codec(annotation).settle(wrapped, WHAT)
        again = codec(annotation).decode(text)
        assert same(settled, again)
        assert settled == wrapped
        assert type(settled) is type(wrapped)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Part,
        st.binary(),
        values,
        st.decimals(allow_nan=False, allow_infinity=False),
        st.text("ab"),
        st.integers(),
    )
)
def test_parts_without_annotation_within_a_dataclass(part: Part) -> None:
    text, settled = codec(Part).settle(part, WHAT)
    assert settled == part
    assert codec(Part).decode(text) == part


REFUSED = [
    (float, math.nan, "is nan"),
    (float, math.inf, "infinit"),
    (Any, [math.nan], "NaN"),
    (list[float], [math.inf], "NaN or an infinity"),
    (list[float | None], [math.nan], "NaN or an infinity"),
    (Decimal, Decimal("NaN"), "finite"),
    (Any, Decimal("-Infinity"), "infinity"),
    (Model, Model(ratio=math.inf), "come back"),
    (str, "a\0b", "NUL"),
    (list[str], ["\0"], "NUL"),
    (dict[str, int], {"\0": 1}, "NUL"),
    (Any, {"\0": 1}, "NUL"),
    (Any, ["\\\0"], "NUL"),
    (str, "\ud800", "surrogate"),
    (list[str], ["\ud800"], "surrogate"),
    (Any, {"\ud800": 1}, "surrogate"),
    (int, 10**5000, "4300 digits"),
    (Any, [10**5000], "4300 digits"),
    (list[int], [10**5000], "out of range"),
    (Any, "x" * 5_000_000, "5,000,002 bytes"),
    (list[str], ["é" * 2_500_000], "bytes as JSON"),
    (int, "5", "must be int, got str '5'"),
    (int, "x", "must be int, got str 'x'"),
    (int, None, "must be int, got None"),
    (int, 1.5, "must be int, got float 1.5"),
    (str, 5, "must be str, got int 5"),
    (Decimal, "x", "must be Decimal, got str 'x'"),
    (Decimal, "1.10", "must be Decimal"),
    (float, 2**53 + 1, "must be float"),
    (datetime, "2026-01-01", "must be datetime"),
    (tuple[int, str], [1, "a"], "must be tuple"),
    (Row, {"id": "x"}, "id: Input should be a valid integer"),
    (Row, {"id": 1, "more": 2}, "come back"),
    (Part, {"blob": b"", "anything": 1}, "must be Part"),
    (Part, Part("x", 1), "blob:"),  # type: ignore[arg-type]
    (list[Part], [Part(b"", 1), Part(b"", Opaque())], "Opaque"),
    (Model, Model(anything=(1, 2)), "come back"),
    (Model, Model(blob=b"\xff"), "utf-8"),
    (Literal["a"], "b", "must be Literal"),
    (Annotated[int, Field(gt=3)], 2, "greater than 3"),
    (dict[tuple[int, int], str], {(1, 2): "a"}, "must be dict"),
    (Any, Opaque(), "annotate the parameter or return type, or return plain data"),
    (dict[str, Any], {"a": Opaque()}, "annotate the parameter or return type"),
    (Any, Level.LOW, "annotate"),
    (Any, lambda: 1, "annotate"),
    (abc.Callable, lambda: 1, "must be Callable"),
    (None, 1, "must be None, got int 1"),
    (Any, (each for each in ()), "list instead of a generator"),
    (Decimal | str, UUID(int=1), "must be Decimal | str"),
]


@pytest.mark.parametrize(("annotation", "value", "reason"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_cannot_come_back_is_refused_and_named(annotation: Any, value: Any, reason: str) -> None:
    with pytest.raises(BadArgument) as caught:
        codec(annotation).encode(value, WHAT)
    message = str(caught.value)
    assert message.startswith(WHAT)
    assert reason in message
    assert len(message) < 600
    assert "pydantic.dev" not in message
    assert "\n" not in message


def nested(levels: int, wrap: Any, value: Any = 0) -> Any:
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("annotation", "wrap", "start"),
    [
        (Any, lambda v: [v], 0),
        (Any, lambda v: {"a": v}, 0),
        (Any, lambda v: (v,), 0),
        (Any, lambda v: {1: v}, 0),
        (list[Any], lambda v: [v], 0),
        (dict[str, Any], lambda v: {"a": v}, 0),
        (Tree, lambda v: Tree([v]), Tree([])),
    ],
)
def test_depth(annotation: Any, wrap: Any, start: Any) -> None:
    fine = nested(40, wrap, start)
    assert codec(annotation).settle(fine, WHAT)[1] == fine
    for levels in (limits.json_depth_max + 5, 10_000):
        with pytest.raises(BadArgument, match=r"nested (deeper|too)"):
            codec(annotation).encode(nested(levels, wrap, start), WHAT)


def test_cycles() -> None:
    loop: list[Any] = []
    loop.append(loop)
    tree = Tree([])
    tree.children.append(tree)
    for annotation, value in [(Any, loop), (list, loop), (list[Any], loop), (Tree, tree)]:
        with pytest.raises(BadArgument, match="contains itself"):
            codec(annotation).encode(value, WHAT)


def test_a_lossless_coercion_is_what_the_body_sees_live() -> None:
    for annotation, value, seen in [
        (Decimal, 1, Decimal(1)),
        (float, 1, 1.0),
        (int, True, 1),
        (set[int], frozenset({1}), {1}),
    ]:
        text, settled = codec(annotation).settle(value, WHAT)
        assert type(settled) is type(seen)
        assert settled == seen == codec(annotation).decode(text)


def test_settled_values_are_copies() -> None:
    for annotation in (Any, list[Any], list[list[int]]):
        value: list[Any] = [[1]]
        _, settled = codec(annotation).settle(value, WHAT)
        value[0].append(2)
        assert settled == [[1]]


class Meeting(BaseModel):
    at: datetime


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("hour", [2, 12])
def test_a_zone_becomes_its_offset_even_in_the_hour_that_comes_twice(hour: int, fold: int) -> None:
    at = datetime(2026, 10, 25, hour, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    for annotation, value in [(datetime, at), (Any, at), (list[datetime], [at]), (Box[datetime], Box(at))]:
        settled = codec(annotation).settle(value, WHAT)[1]
        settled = getattr(settled, "content", settled)
        settled = settled[0] if isinstance(settled, list) else settled
        assert settled.utcoffset() == at.utcoffset()
        assert settled.timestamp() == at.timestamp()
    assert codec(Meeting).settle(Meeting(at=at), WHAT)[1].at.timestamp() == at.timestamp()


def test_classes_that_compare_by_identity() -> None:
    text, settled = codec(list[ByIdentity]).settle([ByIdentity([1])], WHAT)
    assert text == '[{"parts":[1]}]'
    assert settled[0].parts == [1]


def test_text_is_the_same_in_every_process_and_keeps_order() -> None:
    words = {f"w{n}" for n in range(50)}
    backwards = set(sorted(words, reverse=True))  # noqa: C414 - filled in another order
    assert codec(set[str]).encode(words, WHAT) == codec(set[str]).encode(backwards, WHAT)
    assert codec(Any).encode({"b": 1, "a": 2}, WHAT) == '{"b":1,"a":2}'
    assert codec(set[int]).encode({3, 1, 2}, WHAT) == "[1,2,3]"


def test_types_with_their_own_rules() -> None:
    text, settled = codec(OwnRules).settle(OwnRules("h1"), WHAT)
    assert text == '"h1"'
    assert settled.id == "h1"


@pytest.mark.parametrize("annotation", [Opaque, list[Opaque], "Missing", bytearray])
def test_annotations_without_json_are_refused_when_decorated(annotation: Any) -> None:
    with pytest.raises(BadConfiguration, match="parameter amount of workflow checkout is annotated"):
        codec(annotation)


def test_what_was_recorded_may_no_longer_fit() -> None:
    with pytest.raises(BadArgument, match="does not fit int"):
        codec(int).decode('"x"')
    with pytest.raises(BadArgument, match="tag 'nope'"):
        codec(Any).decode('{"$t": "nope", "v": 1}')
    with pytest.raises(BadArgument, match="broken uuid"):
        codec(Any).decode('{"$t": "uuid", "v": 1}')
    with pytest.raises(BadArgument, match="not JSON"):
        codec(Any).decode("{")
    with pytest.raises(BadArgument, match="nested"):
        codec(Any).decode("[" * 100_000)
    assert codec(int).decode(None) is None
    assert codec(Any).decode('{"$t": 1}') == {"$t": 1}


def test_codecs_are_shared() -> None:
    assert codec(list[int]) is codec(list[int])
    assert codec(Annotated[int, []]).encode(1, WHAT) == "1"


def test_tables_get_a_hint() -> None:
    class DataFrame: ...

    with pytest.raises(BadArgument, match="return rows or a path"):
        codec(Any).encode(DataFrame(), "the result of load")
