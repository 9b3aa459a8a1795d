"""Values to JSON text and back, typed by their annotation.

The promise is P4: what a body sees live is what it sees on replay. So a value counts only as it comes back
from its text, and one that would come back as something else is refused before anything is written. The
text lies in a `json` column, which keeps it byte by byte (`jsonb` would reorder keys and change numbers).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError, SchemaError

from dbdurable._core import limits
from dbdurable._core.schema import Schema
from dbdurable._core.show import clip, shown, shown_type
from dbdurable._core.tags import Refused, json_of_tagged, untagged_of_json
from dbdurable.errors import BadArgument, BadConfiguration

__all__ = ["UNTYPED", "ValueCodec", "holds_constant", "is_too_deep", "storable"]

_NO_ANNOTATION = (Any, object, inspect.Parameter.empty)


class ValueCodec:
    """JSON for the values of one annotation; this class itself is the one for values without annotation.

    Example:
        >>> codec = ValueCodec.for_annotation(set[int], "the result of tags")
        >>> codec.encode({2, 1}, "the result of tags"), codec.decode("[1,2]")
        ('[1,2]', {1, 2})
    """

    annotation: Any = Any

    @staticmethod
    def for_annotation(annotation: Any, where: str) -> ValueCodec:
        """Return the codec of `annotation`; BadConfiguration names `where` if there can be none."""
        try:
            hash(annotation)
        except TypeError:  # Annotated[int, [...]]
            build = _codec.__wrapped__
        else:
            build = _codec
        try:
            return build(annotation)
        except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, NameError, TypeError) as error:
            reason = _first_sentence(getattr(error, "message", None) or str(error))
            raise BadConfiguration(
                f"{where} is annotated {shown_type(annotation)}, which has no JSON form ({reason}): use a "
                "dataclass, a pydantic model or plain data, or give it __get_pydantic_core_schema__"
            ) from error

    def encode(self, value: Any, what: str) -> str:
        """Return the JSON text of `value`, or raise BadArgument that names `what`."""
        try:
            scalar = _SCALAR_JSON.get(type(value))
            return storable(scalar(value) if scalar is not None else json_of_tagged(value))
        except Refused as reason:
            raise BadArgument(f"{what} {reason}{_hint(value)}") from None

    def settle(self, value: Any, what: str) -> tuple[str, Any]:
        """Return the JSON text of `value`, and the value as every replay will see it."""
        text = self.encode(value, what)
        # Only immutable scalars are surely the same as what their text gives; the rest is made anew.
        return text, value if type(value) in _SCALAR_JSON else self.decode(text)

    def decode(self, text: str | None) -> Any:
        """Return the value of a recorded text (None, SQL's null, is None), or raise BadArgument."""
        if text is None:
            return None
        try:
            return untagged_of_json(text)
        except Refused as reason:
            raise BadArgument(f"the recorded value {shown(text)} {reason}") from None


UNTYPED = ValueCodec()
"""For values whose type nobody names."""


class _TypedCodec(ValueCodec):
    """JSON for the values of one annotation, by pydantic."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._schema = Schema(annotation)
        self._scalars = self._schema.exact_scalars

    def encode(self, value: Any, what: str) -> str:
        return self.settle(value, what)[0]

    def settle(self, value: Any, what: str) -> tuple[str, Any]:
        try:
            if type(value) in self._scalars:
                return storable(_SCALAR_JSON[type(value)](value)), value
            return self._round_trip(value)
        except Refused as reason:
            raise BadArgument(f"{what} {reason}{_hint(value)}") from None

    def decode(self, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return self._schema.validator.validate_json(text)
        except ValidationError as error:
            fit = f"does not fit {shown_type(self.annotation)}: {_reason(error)}"
            raise BadArgument(f"the recorded value {shown(text)} {fit}") from None

    def _round_trip(self, value: Any) -> tuple[str, Any]:
        try:
            text = self._dump(value)
        except (PydanticSerializationError, TypeError, AttributeError):
            # Not what the annotation says. What is merely another form of it (1 for a Decimal) may pass.
            value = self._coerced(value)
            try:
                text = self._dump(value)
            except (PydanticSerializationError, TypeError, AttributeError) as error:
                raise Refused(self._must_be(value, _first_sentence(str(error)))) from None
        try:
            back = self._schema.validator.validate_json(text)
        except ValidationError as error:
            raise Refused(self._must_be(value, _reason(error))) from None
        if not _same(back, value):
            raise Refused(self._must_be(value, f"it would come back as {type(back).__name__} {shown(back)}"))
        return text, back

    def _dump(self, value: Any) -> str:
        try:
            data = self._schema.serializer.to_json(value, round_trip=True, by_alias=False, warnings="error")
        except PydanticSerializationError as error:
            # What a part without annotation refused; pydantic keeps its text only.
            _, refused, reason = str(error).rpartition("Refused: ")
            if refused:
                raise Refused(reason) from None
            if "recursion" in str(error) or "Circular" in str(error) or "depth" in str(error):
                raise Refused(f"is nested deeper than {limits.json_depth_max} levels, or contains itself") from None
            if "surrogates" in str(error):
                raise Refused("contains a lone surrogate, which is not text") from None
            raise
        except RecursionError:
            raise Refused(f"is nested deeper than {limits.json_depth_max} levels, or contains itself") from None
        text = storable(data.decode())
        if ("NaN" in text or "Infinity" in text) and holds_constant(text):
            raise Refused("contains NaN or an infinity, which JSON cannot hold")
        if self._schema.is_recursive and is_too_deep(text):
            raise Refused(f"is nested deeper than {limits.json_depth_max} levels")
        return text

    def _coerced(self, value: Any) -> Any:
        try:
            coerced = self._schema.validator.validate_python(value)
        except ValidationError as error:
            raise Refused(self._must_be(value, _reason(error))) from None
        except RecursionError:
            raise Refused(f"is nested deeper than {limits.json_depth_max} levels, or contains itself") from None
        if not _same(coerced, value):
            raise Refused(self._must_be(value, f"that is not the same as {shown(coerced)}"))
        return coerced

    def _must_be(self, value: Any, reason: str) -> str:
        name, text = type(value).__name__, shown(value)
        got = text if text.startswith((name, "None")) else f"{name} {text}"
        is_obvious = self.annotation in (int, str, bool, float, None, type(None))
        return f"must be {shown_type(self.annotation)}, got {got}" + ("" if is_obvious else f" ({reason})")


@lru_cache(maxsize=4096)
def _codec(annotation: Any) -> ValueCodec:
    return UNTYPED if any(annotation is each for each in _NO_ANNOTATION) else _TypedCodec(annotation)


def _float_json(value: float) -> str:
    if not math.isfinite(value):
        raise Refused(f"is {value!r}: NaN and infinities have no JSON form")
    return float.__repr__(value)


def _int_json(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:
        raise Refused(f"is an int of more than {limits.int_digits_max} digits") from None


_SCALAR_JSON: dict[type, Callable[[Any], str]] = {
    str: json.encoder.encode_basestring,
    int: _int_json,
    float: _float_json,
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: "null",
}

# An escape of NUL, not of a backslash that stands before "u0000".
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NO_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[^][{}"]+')


def storable(text: str) -> str:
    """Return the JSON `text` if PostgreSQL can store it and it is not too large, or raise Refused."""
    try:
        size_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise Refused("contains a lone surrogate, which is not text") from None
    if size_bytes > limits.payload_bytes_max:
        raise Refused(
            f"has {size_bytes:,} bytes as JSON, at most {limits.payload_bytes_max:,} are allowed: "
            "store it elsewhere and pass a path or key"
        )
    if "\\u0000" in text and _NUL.search(text):
        raise Refused("contains the character NUL, which PostgreSQL cannot store")
    return text


def holds_constant(text: str) -> bool:
    """Tell whether JSON text holds NaN or an infinity outside of its strings."""
    bare = _STRING.sub("", text)
    return "NaN" in bare or "Infinity" in bare


def is_too_deep(text: str) -> bool:
    """Tell whether JSON text is nested more deeply than a value may be."""
    if text.count("[") + text.count("{") <= limits.json_depth_max:
        return False
    brackets = _NO_BRACKET.sub("", text)
    for _ in range(limits.json_depth_max):  # each turn takes off the innermost pairs
        if not brackets:
            return False
        brackets = brackets.replace("[]", "").replace("{}", "")
    return bool(brackets)


def _same(back: Any, value: Any) -> bool:
    """Compare; also what compares by identity (`dataclass(eq=False)`), and times when clocks go back."""
    try:
        if back == value:
            return True
    except Exception:  # numpy: "the truth value of an array is ambiguous"
        return False
    if type(back) is not type(value):
        return False
    if isinstance(value, datetime):
        # An hour that comes twice equals no time of another zone, says Python, not even its own offset's.
        as_written = [(each.replace(tzinfo=None), each.utcoffset()) for each in (back, value)]
        return as_written[0] == as_written[1]
    if isinstance(value, list | tuple):
        return len(back) == len(value) and all(map(_same, back, value))
    if isinstance(value, dict):
        return back.keys() == value.keys() and all(_same(back[key], value[key]) for key in value)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return all(_same(getattr(back, name), getattr(value, name)) for name in names)
    if isinstance(value, BaseModel):
        names = ["__dict__", "__pydantic_extra__", "__pydantic_private__"]
        return all(_same(getattr(back, name, None), getattr(value, name, None)) for name in names)
    has_identity = getattr(type(value), "__eq__", None) is object.__eq__
    return has_identity and hasattr(value, "__dict__") and _same(vars(back), vars(value))


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Names of fields and positions; the rest of it speaks of pydantic's own insides.
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or _is_name(part))
    message = _first_sentence(str(first["msg"]).removeprefix("Value error, "))
    return f"{place}: {message}" if place else message


def _is_name(part: object) -> bool:
    return isinstance(part, str) and part.isidentifier()


def _first_sentence(text: str) -> str:
    return clip(text.strip().partition("\n")[0].partition(". ")[0].rstrip("."), 200) or "no reason given"


def _hint(value: Any) -> str:
    kind = type(value)
    if hasattr(kind, "__dataframe__") or hasattr(kind, "__arrow_c_stream__") or kind.__name__ == "DataFrame":
        return "; return rows or a path instead of a table"
    if inspect.isawaitable(value):
        return "; is an `await` missing?"
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "; return a list instead of a generator"
    return ""
