"""Values inside of error messages: short, never failing, one line."""

from __future__ import annotations

import inspect
import re
import reprlib
from typing import Any

from dbdurable._core import limits

__all__ = ["shown", "shown_type"]

# The module adds nothing for an annotation's author: `decimal.Decimal` is Decimal.
_MODULE_OF_CLASS = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")

# Looks at the first few items only, so that a huge list costs nothing.
_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxstring = _repr.maxother = _repr.maxlong = limits.shown_chars_max


def shown(value: object) -> str:
    """Return a short repr of any value, whatever its own repr does.

    Example:
        >>> len(shown("x" * 10_000)) <= 81
        True
    """
    try:
        text = _repr.repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return clip(text.replace("\n", " "), limits.shown_chars_max)


def shown_type(annotation: Any) -> str:
    """Return an annotation as its author wrote it, nearly.

    Example:
        >>> shown_type(dict[str, Any] | None), shown_type(None)
        ('dict[str, Any] | None', 'None')
    """
    if annotation is None or annotation is type(None):
        return "None"
    try:
        text = inspect.formatannotation(annotation)
    except Exception:
        text = type(annotation).__name__
    text = _MODULE_OF_CLASS.sub("", re.sub(r"[\w.]+<locals>\.", "", text).replace("~", ""))
    return clip(text, 2 * limits.shown_chars_max)


def clip(text: str, chars_max: int) -> str:
    """Return `text`, with an ellipsis in the middle where it is longer than `chars_max`.

    Example:
        >>> clip("abcdefghij", 5)
        'abc…j'
    """
    if len(text) <= chars_max:
        return text
    tail = (chars_max - 1) // 3
    return f"{text[: chars_max - 1 - tail]}…{text[len(text) - tail :] if tail else ''}"
