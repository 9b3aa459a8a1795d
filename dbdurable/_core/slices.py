"""The texts of the values in a JSON document, so that each can be decoded by a codec of its own."""

from __future__ import annotations

import json
from typing import Final

from dbdurable._core.show import shown
from dbdurable.errors import BadArgument

__all__ = ["split_array", "split_object"]

_value_end: Final = json.JSONDecoder().raw_decode
_SPACE: Final = " \t\n\r"


def split_object(text: str) -> dict[str, str]:
    """Return the text of each value of a JSON object.

    Example:
        >>> split_object('{"a": [1, 2], "b": "x"}')
        {'a': '[1, 2]', 'b': '"x"'}
    """
    try:
        result = {}
        at = _skip(text, 1)
        while text[at] != "}":
            key, at = _value_end(text, at)
            if not isinstance(key, str) or text[_skip(text, at)] != ":":
                raise ValueError("no key")
            start = _skip(text, _skip(text, at) + 1)
            _, at = _value_end(text, start)
            result[key] = text[start:at]
            at = _after_comma(text, at)
    except (ValueError, IndexError, RecursionError):
        raise BadArgument(f"not a JSON object: {shown(text)}") from None
    return result


def split_array(text: str) -> list[str]:
    """Return the text of each item of a JSON array.

    Example:
        >>> split_array('[1, {"a": 2}]')
        ['1', '{"a": 2}']
    """
    try:
        result = []
        at = _skip(text, 1)
        while text[at] != "]":
            start = at
            _, at = _value_end(text, start)
            result.append(text[start:at])
            at = _after_comma(text, at)
    except (ValueError, IndexError, RecursionError):
        raise BadArgument(f"not a JSON array: {shown(text)}") from None
    return result


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _after_comma(text: str, at: int) -> int:
    at = _skip(text, at)
    if text[at] == ",":
        return _skip(text, at + 1)
    if text[at] not in "]}":
        raise ValueError("no comma")
    return at
