"""The arguments of one function: bound at the call, stored by name, given back to the body.

By name, so that `checkout(42)` and `checkout(order_id=42)` are the same start, a changed default does not
touch what is running, and SQL can read `input->>'order_id'`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, Final, Optional, get_type_hints

from dbdurable._core import limits
from dbdurable._core.codec import ValueCodec
from dbdurable._core.names import default_name
from dbdurable._core.show import shown, shown_type
from dbdurable._core.slices import split_array, split_object
from dbdurable.errors import BadArgument, BadConfiguration

__all__ = ["ArgumentsCodec", "UnresolvedHints", "resolve_hints"]

_EMPTY: Final = inspect.Parameter.empty
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class UnresolvedHints(Exception):
    """A name in an annotation is not known yet; it may be at the function's first use."""

    def __init__(self, fn: Callable[..., Any], missing: str) -> None:
        super().__init__(fn, missing)
        self.fn = fn
        self.missing = missing

    def as_bad_configuration(self) -> BadConfiguration:
        """Return the error for users, once it is too late."""
        name = getattr(self.fn, "__qualname__", repr(self.fn))
        hints = {
            key: text
            for key, text in getattr(self.fn, "__annotations__", {}).items()
            if isinstance(text, str) and self.missing in text
        }
        places = ", ".join(f"{key}: {text}" for key, text in hints.items()) or self.missing
        return BadConfiguration(
            f"the annotations of {name} ({places}) cannot be read: {self.missing!r} is unknown at run time. "
            "Import it at run time, not under TYPE_CHECKING (ruff: runtime-evaluated-decorators), and define "
            "local classes before the function"
        )


def resolve_hints(fn: Callable[..., Any], localns: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the annotations of `fn` as objects; raise UnresolvedHints where a name is not known yet.

    `localns` are the caller's locals, so that classes of a function's own scope are found.

    Example:
        >>> def checkout(order_id: "int") -> str: ...
        >>> resolve_hints(checkout)
        {'order_id': <class 'int'>, 'return': <class 'str'>}
    """
    try:
        return get_type_hints(fn, localns=None if localns is None else dict(localns), include_extras=True)
    except NameError as error:
        raise UnresolvedHints(fn, error.name or str(error)) from error
    except (TypeError, AttributeError, SyntaxError) as error:
        raise BadConfiguration(f"the annotations of {shown(fn)} cannot be read: {error}") from error


class _Parameter:
    """One parameter that callers pass."""

    def __init__(self, parameter: inspect.Parameter, annotation: Any, where: str) -> None:
        self.name = parameter.name
        self.kind = parameter.kind
        self.default = parameter.default
        self.is_required = parameter.default is _EMPTY and parameter.kind not in _VARIADIC
        self.json_name = encode_basestring(parameter.name)
        if parameter.default is None and annotation is not _EMPTY:
            # `x: int = None` is common: the default must be as good as any other value.
            annotation = Optional[annotation]  # noqa: UP045 - a value, not an annotation
        self.codec = ValueCodec.for_annotation(annotation, f"parameter {self.name} of {where}")
        self.what = f"argument {self.name} of {where}"
        stars = "*" * (1 + _VARIADIC.index(self.kind)) if self.kind in _VARIADIC else ""
        hint = "" if annotation is _EMPTY else f": {shown_type(annotation)}"
        default = "" if parameter.default is _EMPTY else f"{' = ' if hint else '='}{shown(parameter.default)}"
        self.shown = f"{stars}{self.name}{hint}{default}"

    def settle(self, value: Any) -> tuple[str, Any]:
        if self.kind is inspect.Parameter.VAR_POSITIONAL:
            pairs = [self.codec.settle(item, f"{self.what}[{n}]") for n, item in enumerate(value)]
            return f"[{','.join(text for text, _ in pairs)}]", [item for _, item in pairs]
        if self.kind is inspect.Parameter.VAR_KEYWORD:
            by_name = {key: self.codec.settle(item, f"{self.what}[{key!r}]") for key, item in value.items()}
            texts = [f"{encode_basestring(key)}:{text}" for key, (text, _) in by_name.items()]
            return f"{{{','.join(texts)}}}", {key: item for key, (_, item) in by_name.items()}
        return self.codec.settle(value, self.what)

    def decode(self, text: str) -> Any:
        try:
            if self.kind is inspect.Parameter.VAR_POSITIONAL:
                return [self.codec.decode(item) for item in split_array(text)]
            if self.kind is inspect.Parameter.VAR_KEYWORD:
                return {key: self.codec.decode(item) for key, item in split_object(text).items()}
            return self.codec.decode(text)
        except BadArgument as error:
            raise BadArgument(f"{self.what}: {error}") from None


class ArgumentsCodec:
    """Binds, encodes and decodes the arguments of one function; built once.

    Example:
        >>> def checkout(order_id: int, gift: bool = False): ...
        >>> codec = ArgumentsCodec.for_function(checkout, where="workflow checkout")
        >>> codec.encode(codec.bind((42,), {}))
        '{"order_id":42,"gift":false}'
        >>> codec.decode('{"order_id": 42}')
        ((42, False), {})
    """

    def __init__(self, name: str, parameters: Sequence[_Parameter]) -> None:
        self.name = name
        self._parameters = tuple(parameters)
        self._by_name = {each.name: each for each in parameters}
        self._positional = tuple(each.name for each in parameters if each.kind in _POSITIONAL)
        self._by_keyword = frozenset(
            each.name
            for each in parameters
            if each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        )
        kinds = {each.kind: each.name for each in parameters}
        self._rest = kinds.get(inspect.Parameter.VAR_POSITIONAL)
        self._keywords = kinds.get(inspect.Parameter.VAR_KEYWORD)

    @classmethod
    def for_function(
        cls,
        fn: Callable[..., Any],
        *,
        skip: int = 0,
        where: str = "",
        hints: Mapping[str, Any] | None = None,
    ) -> ArgumentsCodec:
        """Build it: `skip` leading parameters (self, connection) are not passed by callers.

        `where` names the function in errors ("workflow checkout"); `hints` are its resolved annotations.
        """
        if hints is None:
            hints = resolve_hints(fn)
        where = where or default_name(fn)
        parameters = list(inspect.signature(fn).parameters.values())[skip:]
        return cls(
            where.rpartition(" ")[2],
            [_Parameter(each, hints.get(each.name, _EMPTY), where) for each in parameters],
        )

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, in the order of the parameters, defaults filled in."""
        given = dict(zip(self._positional, args, strict=False))
        rest = args[len(self._positional) :]
        if rest and self._rest is None:
            raise self._bad(f"takes {len(self._positional)} positional arguments, got {len(args)}")
        keywords: dict[str, Any] = {}
        for name, value in kwargs.items():
            if name in self._by_keyword:
                if name in given:
                    raise self._bad(f"got argument {name} twice")
                given[name] = value
            elif self._keywords is not None:
                keywords[name] = value
            else:
                raise self._bad(f"has no parameter {shown(name)[1:-1]}")
        if self._rest is not None:
            given[self._rest] = list(rest)
        if self._keywords is not None:
            given[self._keywords] = keywords
        return {each.name: given[each.name] if each.name in given else self._default(each) for each in self._parameters}

    def encode(self, bound: Mapping[str, Any]) -> str:
        """Return bound arguments as a JSON object by name; BadArgument names the one that cannot be."""
        return self.settle(bound)[0]

    def settle(self, bound: Mapping[str, Any]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Return the text, and the arguments as the body will see them at every replay."""
        texts: list[str] = []
        values: dict[str, Any] = {}
        for each in self._parameters:
            text, values[each.name] = each.settle(bound[each.name])
            texts.append(f"{each.json_name}:{text}")
        document = f"{{{','.join(texts)}}}"
        size_bytes = len(document) if document.isascii() else len(document.encode())
        if size_bytes > limits.payload_bytes_max:
            raise self._bad(f"got {size_bytes:,} bytes of arguments, at most {limits.payload_bytes_max:,}")
        return document, *self._as_call(values)

    def decode(self, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return args and kwargs of a recorded JSON object by name, or of an array by position."""
        text = text.strip()
        if text.startswith("["):
            items = split_array(text)
            texts = dict(zip(self._positional, items, strict=False))
            rest = items[len(self._positional) :]
            if rest and self._rest is None:
                raise self._bad(f"takes {len(self._positional)} positional arguments, got {len(items)}")
            if rest and self._rest is not None:
                texts[self._rest] = f"[{','.join(rest)}]"
        else:
            texts = split_object(text)
            for name in texts:
                if name not in self._by_name:
                    raise self._bad(f"has no parameter {shown(name)[1:-1]}")
        return self._as_call(
            {
                each.name: each.decode(texts[each.name]) if each.name in texts else self._default(each)
                for each in self._parameters
            }
        )

    def _default(self, parameter: _Parameter) -> Any:
        if parameter.is_required:
            raise self._bad(f"missing argument {parameter.name}")
        if parameter.kind in _VARIADIC:
            return [] if parameter.kind is inspect.Parameter.VAR_POSITIONAL else {}
        return parameter.default

    def _as_call(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = [values[name] for name in self._positional]
        if self._rest is not None:
            args += values[self._rest]
        kwargs = {
            each.name: values[each.name] for each in self._parameters if each.kind is inspect.Parameter.KEYWORD_ONLY
        }
        if self._keywords is not None:
            kwargs |= values[self._keywords]
        return tuple(args), kwargs

    def _bad(self, problem: str) -> BadArgument:
        takes = ", ".join(each.shown for each in self._parameters)
        return BadArgument(f"{self.name}() {problem}; it takes ({takes})")
