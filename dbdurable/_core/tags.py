"""Values without an annotation, as JSON with a closed set of tags: nothing is lost, nothing is guessed.

What JSON has of its own stays plain. The rest becomes `{"$t": kind, "v": content}`; so does a dict that
JSON cannot hold as an object, or that could be taken for a tag. Only exact types count: a subclass
(IntEnum, numpy.float64, defaultdict) would come back as something else, so it needs an annotation.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PosixPath, WindowsPath
from typing import Any, NoReturn
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_json

from dbdurable._core import limits

__all__ = [
    "CONTENT",
    "TAG",
    "Refused",
    "compact_json",
    "is_tagged",
    "json_of_tagged",
    "tag",
    "tag_names",
    "untag",
    "untagged_of_json",
]


class Refused(ValueError):
    """Why a value cannot be recorded; the codec adds which value it was. Never reaches users."""


TAG, CONTENT = "$t", "v"
_INT_MAX = 10**limits.int_digits_max
_PLAIN: frozenset[type] = frozenset({str, int, bool, type(None)})


def compact_json(data: Any) -> str:
    """Return plain data as JSON text. pydantic's writer: json's takes 3 µs to get going.

    Example:
        >>> compact_json({"a": [1, "é"]})
        '{"a":[1,"é"]}'
    """
    try:
        return to_json(data).decode()
    except PydanticSerializationError as error:
        if "surrogates" in str(error):
            raise Refused("contains a lone surrogate, which is not text") from None
        if "recursion" in str(error) or "depth" in str(error):
            raise Refused("is nested too deeply") from None
        raise


def tag(value: Any, depth: int = 0) -> Any:
    """Return plain data for `value`, or raise Refused.

    Example:
        >>> tag({"price": Decimal("1.10")})
        {'price': {'$t': 'decimal', 'v': '1.10'}}
    """
    kind = type(value)
    if kind in _PLAIN:
        if kind is int and not -_INT_MAX < value < _INT_MAX:
            raise Refused(f"contains an int of more than {limits.int_digits_max} digits")
        return value
    if kind is float:
        return _finite(value)
    if depth > limits.json_depth_max:
        raise Refused(f"is nested deeper than {limits.json_depth_max} levels, or contains itself")
    depth += 1
    if kind is list:
        return [tag(item, depth) for item in value]
    if kind is dict:
        if TAG not in value and all(type(key) is str for key in value):
            return {key: tag(item, depth) for key, item in value.items()}
        return _tagged("dict", [[tag(key, depth), tag(item, depth)] for key, item in value.items()])
    encode = _ENCODE.get(kind)
    if encode is None:
        raise Refused(
            f"contains a {kind.__qualname__}, which has no JSON form of its own: "
            "annotate the parameter or return type, or return plain data"
        )
    return encode(value, depth)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Refused("contains NaN or an infinity, which JSON cannot hold")
    return value


def _tagged(kind: str, content: Any) -> dict[str, Any]:
    return {TAG: kind, CONTENT: content}


def _tag_decimal(value: Decimal, _depth: int) -> Any:
    if not value.is_finite():
        raise Refused("contains NaN or an infinity, which JSON cannot hold")
    return _tagged("decimal", str(value))


def _tag_sorted(kind: str, items: Iterable[Any], depth: int) -> Any:
    # Sorted: the order of a set differs from process to process, and the text must not (hashes of arguments).
    return _tagged(kind, sorted((tag(item, depth) for item in items), key=compact_json))


_ENCODE: dict[type, Callable[[Any, int], Any]] = {
    tuple: lambda value, depth: _tagged("tuple", [tag(item, depth) for item in value]),
    set: lambda value, depth: _tag_sorted("set", value, depth),
    frozenset: lambda value, depth: _tag_sorted("frozenset", value, depth),
    bytes: lambda value, _: _tagged("bytes", base64.b64encode(value).decode()),
    datetime: lambda value, _: _tagged("datetime", value.isoformat()),
    date: lambda value, _: _tagged("date", value.isoformat()),
    time: lambda value, _: _tagged("time", value.isoformat()),
    timedelta: lambda value, _: _tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: _tag_decimal,
    UUID: lambda value, _: _tagged("uuid", str(value)),
    PosixPath: lambda value, _: _tagged("path", str(value)),
    WindowsPath: lambda value, _: _tagged("path", str(value)),
}

_DECODE: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": lambda content: base64.b64decode(content, validate=True),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda content: timedelta(*content),
    "decimal": Decimal,
    "uuid": UUID,
    "path": Path,
}

tag_names: dict[type, str] = {kind: "path" if issubclass(kind, Path) else kind.__name__.lower() for kind in _ENCODE}
"""The tag of each type that has one."""


def is_tagged(data: Any) -> bool:
    """Tell whether JSON data is `{"$t": ..., "v": ...}`; our own dicts never look like that untagged.

    Example:
        >>> is_tagged({"$t": "uuid", "v": "..."}), is_tagged({"$t": 1})
        (True, False)
    """
    return type(data) is dict and len(data) == 2 and type(data.get(TAG)) is str and CONTENT in data


def untag(data: Any) -> Any:
    """Return the value that `tag` made `data` from, or raise Refused.

    Example:
        >>> untag(tag((1, 2)))
        (1, 2)
    """
    if type(data) is list:
        return [untag(item) for item in data]
    if type(data) is dict:
        return _untag_object({key: untag(item) for key, item in data.items()})
    return data


def _untag_object(data: dict[str, Any]) -> Any:
    if TAG not in data or not is_tagged(data):
        return data
    decode = _DECODE.get(data[TAG])
    if decode is None:
        raise Refused(f"contains the tag {data[TAG][:40]!r}, which this version of dbdurable does not know")
    try:
        return decode(data[CONTENT])
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise Refused(f"contains a broken {data[TAG]}") from error


def _no_constant(name: str) -> NoReturn:
    raise Refused(f"contains {name}, which is not JSON")


_decode_json = json.JSONDecoder(object_hook=_untag_object, parse_constant=_no_constant).decode


def json_of_tagged(value: Any) -> str:
    """Return the JSON text of any value of the closed set, or raise Refused.

    Example:
        >>> json_of_tagged(["a", 1.5, None])
        '["a",1.5,null]'
    """
    return compact_json(tag(value))


def untagged_of_json(text: str) -> Any:
    """Return the value that `json_of_tagged` made `text` from, or raise Refused.

    Example:
        >>> untagged_of_json('{"$t":"date","v":"2026-01-31"}')
        datetime.date(2026, 1, 31)
    """
    try:
        return _decode_json(text)
    except Refused:
        raise
    except RecursionError:
        raise Refused("is nested too deeply") from None
    except ValueError as error:
        raise Refused(f"is not JSON: {error}") from None
