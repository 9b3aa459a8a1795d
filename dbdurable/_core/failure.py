"""Errors as data: recorded as JSON, and raised again as the class they had, if this process knows it.

Never pickle and never import: a class is looked up among the modules that are loaded, and a text in the
database decides nothing but which exception is raised. Passwords in messages are masked on the way in.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dbdurable._core import limits
from dbdurable._core.show import clip, shown
from dbdurable._core.tags import CONTENT, TAG, Refused, compact_json, tag, untag
from dbdurable.errors import RemoteError

__all__ = ["decode_failure", "encode_failure", "mask", "settle_failure", "summary"]


def encode_failure(error: BaseException) -> str:
    """Return `error` as JSON: type, message, arguments, attributes, traceback, cause, notes.

    Example:
        >>> json.loads(encode_failure(KeyError("sku")))["message"]
        "'sku'"
    """
    for is_brief in (False, True):
        text = compact_json(_data(error, 0, is_brief))
        if len(text.encode()) <= limits.payload_bytes_max:
            break
    return text


def decode_failure(text: str) -> Exception:
    """Return the exception recorded in `text`: of the same class and str, else a RemoteError.

    Example:
        >>> decode_failure(encode_failure(KeyError("sku")))
        KeyError('sku')
    """
    data = json.loads(text)
    return _error(data if isinstance(data, dict) else {"message": str(data)})


def settle_failure(error: BaseException) -> tuple[str, Exception]:
    """Return the text, and the exception as every replay will see it, with the live tracebacks attached."""
    text = encode_failure(error)
    replayed = decode_failure(text)
    for live, again in _pairs(error, replayed):
        again.__traceback__ = live.__traceback__
    return text, replayed


def _pairs(live: BaseException, again: BaseException) -> Iterator[tuple[BaseException, BaseException]]:
    yield live, again
    for attribute in ("__cause__", "__context__"):
        below, below_again = getattr(live, attribute), getattr(again, attribute)
        # What was recorded is a tree of bounded depth, so the second argument ends it.
        if below is not None and below_again is not None:
            yield from _pairs(below, below_again)
    if isinstance(live, BaseExceptionGroup) and isinstance(again, BaseExceptionGroup):
        for member, member_again in zip(live.exceptions, again.exceptions, strict=False):
            yield from _pairs(member, member_again)


# ---- to data ----

_ERROR = "error"

# Attributes that are recorded otherwise, or not at all.
_LEFT_OUT = re.compile(r"^__notes__$|^\$t$|password|passwd|secret|token|api_?key", re.IGNORECASE)


def _data(error: BaseException, depth: int, is_brief: bool) -> dict[str, Any]:
    kind = type(error)
    data: dict[str, Any] = {"type": kind.__qualname__, "module": kind.__module__, "message": _message(error)}
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    if not is_brief:
        # Arguments that JSON cannot hold are shown by their repr; the class is then rebuilt without them.
        args, state = _reduced(error)
        arguments = [_part(argument, depth) for argument in (args[:1] if members else args)]
        data["args"] = [argument for _, argument in arguments]
        data["exact"] = all(exact for exact, _ in arguments)
        parts = {key: _part(item) for key, item in state.items() if not _LEFT_OUT.search(key)}
        if state := {key: item for key, (exact, item) in parts.items() if exact}:
            data["state"] = state
        if isinstance(error, ValidationError):
            data["validation"] = _part([error.title, [_line(line) for line in error.errors(include_url=False)]])[1]
        data["traceback"] = _traceback(error)
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and notes:
        data["notes"] = [_text(str(note)) for note in notes[: limits.notes_max]]
    if depth < limits.failure_depth_max:
        if members:
            # Wide and deep together would be exponential: deeper groups keep fewer members.
            width = max(1, limits.group_errors_max >> 2 * depth)
            data["members"] = [_data(each, depth + 1, is_brief) for each in members[:width]]
        if error.__cause__ is not None:
            data["cause"] = _data(error.__cause__, depth + 1, is_brief)
        elif error.__context__ is not None and not error.__suppress_context__:
            data["context"] = _data(error.__context__, depth + 1, is_brief)
        if error.__suppress_context__ and error.__cause__ is None:
            data["from_none"] = True
    return data


def _reduced(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments and attributes as pickle asks for them: OSError adds its file name, and so on."""
    with contextlib.suppress(Exception):
        reduced = error.__reduce__()
        if reduced[0] is type(error) and isinstance(reduced[1], tuple):
            state = reduced[2] if len(reduced) > 2 else None
            return reduced[1], state if isinstance(state, dict) else {}
    return error.args, vars(error)


def _line(line: ErrorDetails) -> dict[str, Any]:
    context = {
        key: item if type(item) in (int, float, bool) else str(item) for key, item in line.get("ctx", {}).items()
    }
    return {"type": line["type"], "loc": line["loc"], "input": line["input"], "ctx": context}


def _message(error: BaseException) -> str:
    try:
        return _text(str(error))
    except Exception:
        return f"<no message: str() of {type(error).__name__} failed>"


def _text(text: str) -> str:
    return clip(mask(_storable(text)), limits.message_chars_max)


def _storable(text: str) -> str:
    # PostgreSQL cannot hold NUL, nor UTF-8 a lone surrogate; an error must be recorded all the same.
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _part(value: Any, depth: int = limits.failure_depth_max) -> tuple[bool, Any]:
    if isinstance(value, BaseException) and depth < limits.failure_depth_max:
        # An error that carries another as an argument: SQLAlchemy's hold the driver's so.
        return True, {TAG: _ERROR, CONTENT: _data(value, depth + 1, is_brief=False)}
    with contextlib.suppress(Refused, RecursionError):
        data = _masked(tag(value))
        if len(compact_json(data)) <= limits.failure_value_chars_max:
            return True, data
    return False, mask(_storable(shown(value)))


def _masked(data: Any) -> Any:
    if isinstance(data, str):
        return mask(_storable(data))
    if isinstance(data, list):
        return [_masked(item) for item in data]
    if isinstance(data, dict):
        return {_storable(key): _masked(item) for key, item in data.items()}
    return data


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-50, chain=False)
    except Exception:
        return ""
    return clip(mask(_storable("".join(lines))), limits.traceback_chars_max)


_URL_PASSWORD = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.\-]*://[^\s:/@]*):[^\s]*@")
_NAMED_PASSWORD = re.compile(
    r"""\b(\w*(?:password|passwd|pwd))(["']?\s*[=:]\s*)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,;&)'"}]+)""",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """Return `text` without the passwords of URLs and of `password=...`.

    Example:
        >>> mask("postgresql://app:secret@db/shop, password=secret")
        'postgresql://app:***@db/shop, password=***'
    """
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1:***@", text)
    return _NAMED_PASSWORD.sub(r"\1\2***", text)


def summary(error: BaseException) -> str:
    """What happened in one line that PostgreSQL can hold, without passwords.

    Example:
        >>> summary(ConnectionError("no answer\\nfrom postgresql://app:secret@db"))
        'ConnectionError: no answer from postgresql://app:***@db'
    """
    return f"{type(error).__name__}: {' '.join(_message(error).split())}"


# ---- from data ----


def _error(data: dict[str, Any]) -> Exception:
    cls = _loaded_class(str(data.get("module", "")), str(data.get("type", "")))
    error = None if cls is None else _rebuilt(cls, data)
    if error is None:
        module, name = str(data.get("module", "")), str(data.get("type", "Error"))
        shown_name = name if module in ("", "builtins") else f"{module}.{name}"
        error = RemoteError(shown_name, str(data.get("message", "")), str(data.get("traceback", "")))
    with contextlib.suppress(Exception):
        for note in data.get("notes", ()):
            error.add_note(note)
        if "cause" in data:
            error.__cause__ = _error(data["cause"])
        elif "context" in data:
            error.__context__ = _error(data["context"])
        elif data.get("from_none"):
            error.__suppress_context__ = True
    return error


def _loaded_class(module: str, qualname: str) -> type[Exception] | None:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        try:
            # vars, not getattr: a module's __getattr__ may import.
            found = vars(found).get(name)
        except TypeError:
            return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _rebuilt(cls: type[Exception], data: dict[str, Any]) -> Exception | None:
    """Return an exception of `cls` with the recorded message, or None if there is no way to one.

    Its own constructor comes first: it also makes what lies outside of `__dict__` (errno, a lock). Then as
    copy and pickle do, without one; at last, for arguments that JSON could not hold, by its message.
    """
    message = str(data.get("message", ""))
    members = [_error(member) for member in data.get("members", ())]
    ways: list[tuple[Callable[..., Exception], tuple[Any, ...]]] = [
        (_without_constructor, (message, members) if members else (message,))
    ]
    with contextlib.suppress(Refused):
        args = tuple(_argument(argument) for argument in data["args"]) if "args" in data else (message,)
        args = (*args, members) if members else args
        ways.insert(0, (_without_constructor, args))
        if data.get("exact"):
            ways.insert(0, (cls, args))
        if cls is ValidationError and "validation" in data:  # it has no constructor
            ways = [(ValidationError.from_exception_data, tuple(untag(data["validation"])))]
    for make, arguments in ways:
        with contextlib.suppress(Exception):
            error = make(cls, *arguments) if make is _without_constructor else make(*arguments)
            error.__setstate__(untag(data.get("state", {})))
            # A group says how many members it has, and not all of them may have been recorded.
            if type(error) is cls and (members or _text(str(error)) == message):
                return error
    return None


def _argument(data: Any) -> Any:
    is_error = isinstance(data, dict) and data.get(TAG) == _ERROR
    return _error(data[CONTENT]) if is_error else untag(data)


def _without_constructor(cls: type[Exception], *args: Any) -> Exception:
    error = cls.__new__(cls, *args)
    error.args = args
    return error
