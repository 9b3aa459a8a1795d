"""Arguments are bound at the call, stored by name, and given back as the body takes them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from dbdurable._core.arguments import ArgumentsCodec, UnresolvedHints, resolve_hints
from dbdurable._core.slices import split_array, split_object
from dbdurable.errors import BadArgument, BadConfiguration

if TYPE_CHECKING:
    from decimal import Context


def checkout(order_id: int, gift: bool = False) -> None: ...


def everything(
    a: int,
    /,
    b: Decimal,
    *rest: Decimal,
    flag: bool = True,
    none: int = None,  # type: ignore[assignment]  # noqa: RUF013 - users write it
    **more: bytes,
) -> None: ...


def codec(fn: Any, skip: int = 0) -> ArgumentsCodec:
    return ArgumentsCodec.for_function(fn, skip=skip, where=f"workflow {fn.__name__}", hints=resolve_hints(fn))


def test_one_text_for_one_start() -> None:
    c = codec(checkout)
    texts = {
        c.encode(c.bind(*call))
        for call in [
            ((42,), {}),
            ((), {"order_id": 42}),
            ((42, False), {}),
            ((), {"gift": False, "order_id": 42}),
        ]
    }
    assert texts == {'{"order_id":42,"gift":false}'}
    assert c.decode(texts.pop()) == ((42, False), {})


def test_all_kinds_of_parameters() -> None:
    c = codec(everything)
    bound = c.bind((1, Decimal("1.10"), Decimal(2)), {"x": b"\xff", "flag": False, "a": b"a"})
    text, args, kwargs = c.settle(bound)
    expected = ((1, Decimal("1.10"), Decimal(2)), {"flag": False, "none": None, "x": b"\xff", "a": b"a"})
    assert (args, kwargs) == expected == c.decode(text)
    assert list(json.loads(text)) == ["a", "b", "rest", "flag", "none", "more"]
    everything(*args, **kwargs)
    assert c.decode('[1, "2"]') == ((1, Decimal(2)), {"flag": True, "none": None})
    assert c.decode(' [1, "2", "3" ] ') == ((1, Decimal(2), Decimal(3)), {"flag": True, "none": None})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "checkout() missing argument order_id; it takes (order_id: int, gift: bool = False)"),
        ((1, True, 3), {}, "takes 2 positional arguments, got 3"),
        ((1,), {"order_id": 2}, "got argument order_id twice"),
        ((1,), {"gitf": True}, "has no parameter gitf"),
    ],
)
def test_wrong_calls(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        codec(checkout).bind(args, kwargs)
    assert message in str(caught.value)


def test_positional_only_by_name() -> None:
    def f(a: int, /) -> None: ...

    with pytest.raises(BadArgument, match="has no parameter a"):
        codec(f).bind((), {"a": 1})


def test_wrong_values_name_the_argument() -> None:
    c = codec(everything)
    for args, kwargs, message in [
        (("x", 1), {}, "argument a of workflow everything must be int, got str 'x'"),
        ((1, 2, "x"), {}, "argument rest of workflow everything[0] must be Decimal"),
        ((1, 2), {"z": 5}, "argument more of workflow everything['z'] must be bytes"),
    ]:
        with pytest.raises(BadArgument) as caught:
            c.encode(c.bind(args, kwargs))
        assert str(caught.value).startswith(message)


def test_all_arguments_together_have_a_limit() -> None:
    def f(a, b):  # type: ignore[no-untyped-def]
        ...

    with pytest.raises(BadArgument, match="bytes of arguments"):
        codec(f).encode(codec(f).bind(("x" * 3_000_000, "y" * 3_000_000), {}))


def test_leading_parameters_are_skipped() -> None:
    def reserve(tx, order_id: int):  # type: ignore[no-untyped-def]
        ...

    c = codec(reserve, skip=1)
    assert c.bind((42,), {}) == {"order_id": 42}
    assert c.decode("[42]") == ((42,), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"order_id": "x"}', "argument order_id of workflow checkout: the recorded value"),
        ('{"order": 1}', "has no parameter order"),
        ("{}", "missing argument order_id"),
        ("[]", "missing argument order_id"),
        ("[1, true, 2]", "takes 2 positional arguments, got 3"),
        ("5", "not a JSON object"),
        ("", "not a JSON object"),
        ('{"order_id": 1', "not a JSON object"),
        ("[1", "not a JSON array"),
        ("[" * 50_000, "not a JSON array"),
    ],
)
def test_what_others_wrote(text: str, message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        codec(checkout).decode(text)
    assert message in str(caught.value)


def test_slices() -> None:
    document = {'a"\\ é': [1, {"b": "]},"}], "": None, "n": -1.5e-7, "s": ' "x" '}
    for text in (
        json.dumps(document),
        json.dumps(document, indent=2),
        json.dumps(document, ensure_ascii=False),
    ):
        assert {key: json.loads(part) for key, part in split_object(text).items()} == document
        assert [json.loads(part) for part in split_array(f"[{text}, {text}]")] == [document] * 2
    assert split_object("{ }") == {}
    assert split_array("[\n]") == []
    for bad in ('{"a" 1}', "{1: 2}", '{"a": 1 "b": 2}', "[]"):
        with pytest.raises(BadArgument):
            split_object(bad)


def test_hints_are_found_in_locals() -> None:
    class Local: ...

    def f(a: Local) -> Decimal: ...  # type: ignore[empty-body]

    assert resolve_hints(f, locals()) == {"a": Local, "return": Decimal}


def test_hints_that_only_the_type_checker_sees() -> None:
    def f(context: Context) -> None: ...

    with pytest.raises(UnresolvedHints) as caught:
        resolve_hints(f)
    error = caught.value.as_bad_configuration()
    assert isinstance(error, BadConfiguration)
    assert "context: Context" in str(error)
    assert "runtime-evaluated-decorators" in str(error)


def test_annotations_without_json_name_the_parameter() -> None:
    def f(thing: object, lock: pytest.Pytester) -> None: ...

    with pytest.raises(BadConfiguration, match="parameter lock of workflow f is annotated Pytester"):
        codec(f)
