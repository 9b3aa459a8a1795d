"""Plain JSON for what goes from one program to another: messages, events, promises.

The sender does not know what the receiver will read it as, and may be a trigger or another language: so no tags,
and the receiver's type decides. A receiver that names no type gets JSON as it came.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from dbdurable._core import limits
from dbdurable._core.codec import ValueCodec, holds_constant, is_too_deep, storable
from dbdurable._core.show import shown
from dbdurable._core.tags import Refused
from dbdurable.errors import BadArgument

__all__ = ["PlainCodec", "plain_json", "receiver"]


class PlainCodec(ValueCodec):
    """JSON as it came."""

    def decode(self, text: str | None) -> Any:
        return None if text is None else json.loads(text)


_PLAIN = PlainCodec()


def receiver(type: Any, where: str) -> ValueCodec:
    """How a value is read as `type`. Raises BadConfiguration for a type without a JSON form.

    Example:
        >>> receiver(set[int], "the type of recv()").decode("[2, 1]")
        {1, 2}
    """
    return _PLAIN if type is Any else ValueCodec.for_annotation(type, where)


def plain_json(value: object, what: str) -> str:
    """Return `value` as JSON: plain data, dataclasses, models, enums, dates, decimals, UUIDs, bytes (base64).

    Example:
        >>> plain_json({"at": (1, 2)}, "the message")
        '{"at":[1,2]}'
    """
    try:
        text = storable(to_json(value, bytes_mode="base64", inf_nan_mode="constants").decode())
        if ("NaN" in text or "Infinity" in text) and holds_constant(text):
            raise Refused("contains NaN or an infinity, which JSON cannot hold")
        if is_too_deep(text):
            raise Refused(f"is nested deeper than {limits.json_depth_max} levels")
    except Refused as reason:
        raise BadArgument(f"{what} {reason}") from None
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        reason_text = str(error).partition("\n")[0]
        raise BadArgument(f"{what} cannot be sent as JSON, got {shown(value)} ({reason_text})") from None
    return text
