"""What we change in pydantic's schema of an annotation, so that JSON loses nothing.

pydantic is made for JSON from elsewhere: by default it forgets what `Any` was, writes bytes as UTF-8, NaN
as null, sets in an order that differs from process to process, and cannot tell `Decimal | str` apart. The
schema is plain data, so these places are replaced by rules of our own before validator and serializer are
built from it. pydantic models are left alone: they carry their own rules (the codec checks the result).
"""

from __future__ import annotations

from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_core import CoreConfig, CoreSchema, SchemaSerializer, SchemaValidator

from dbdurable._core.tags import CONTENT, TAG, compact_json, is_tagged, tag, tag_names, untag

__all__ = ["Schema"]

_CONFIG: CoreConfig = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "constants",  # shows in the text, where it is refused; null would hide it
    "revalidate_instances": "always",
    "validate_by_alias": True,
    "validate_by_name": True,
}

_Node = dict[str, Any]

# What a schema node holds besides schemas; a default value may look like a schema.
_NO_SCHEMAS = frozenset(
    {"metadata", "default", "default_factory", "expected", "members", "cls", "ref", "schema_ref", "function"}
)

# Choices of a union that JSON alone cannot tell from a string, a number or an array, with their tags.
_TAG_OF_KIND = {name: name for name in tag_names.values() if name not in ("dict", "path")}
_TAG_OF_KIND["lax-or-strict"] = "path"

_SCALARS: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "none": type(None)}


class Schema:
    """Validator and serializer of one annotation; building it raises what pydantic raises.

    Example:
        >>> schema = Schema(set[int])
        >>> schema.serializer.to_json({2, 1}), schema.exact_scalars
        (b'[1,2]', frozenset())
    """

    def __init__(self, annotation: Any) -> None:
        adapter = TypeAdapter[Any](annotation)
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)  # says which name is missing
        original = adapter.core_schema
        schema = cast(CoreSchema, _rewritten(original))
        self.validator = SchemaValidator(schema, _CONFIG)
        self.serializer = SchemaSerializer(schema, _CONFIG)
        self.exact_scalars: frozenset[type] = frozenset(_exact_scalars(cast(_Node, original)))
        """Types whose values are their own JSON under this annotation, without any further rule."""
        kinds = set(_kinds(original))
        self.is_recursive = not kinds.isdisjoint({"definition-ref", "model"})
        """Whether a value may be nested deeper than the annotation shows."""


def _any() -> _Node:
    return {
        "type": "function-plain",
        "function": {"type": "no-info", "function": untag},
        "serialization": {"type": "function-plain", "function": tag_part},
    }


def tag_part(value: Any) -> Any:
    """`tag` with the one argument that pydantic passes."""
    return tag(value)


def _rewritten(node: Any) -> Any:
    if isinstance(node, list):
        return [_rewritten(item) for item in node]
    if isinstance(node, tuple):  # a choice with its label
        return tuple(_rewritten(item) for item in node)
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if not isinstance(kind, str):  # fields or choices by name, and one of them may be called "type"
        return {key: _rewritten(item) for key, item in node.items()}
    if _has_own_rules(kind, node):
        return node
    if kind == "any":
        return node if "serialization" in node else _any()
    result = {
        key: item
        if key in _NO_SCHEMAS
        else _rewritten_serialization(item)
        if key == "serialization"
        else {**_CONFIG, **item}
        if key == "config"
        else _rewritten(item)
        for key, item in node.items()
    }
    if _is_sequence(kind, node):
        return _union_with_tags(_list_or_tuple(result))
    if "serialization" in node:
        return result
    if kind in ("set", "frozenset"):
        return _in_fixed_order(result)
    if kind == "dict" and _is_any(node.get("keys_schema")):
        return _dict_of_any_keys(node)
    if kind == "union" and any(_tag_of_choice(choice) for choice in node["choices"]):
        return _union_with_tags(result)
    return result


def _has_own_rules(kind: str, node: _Node) -> bool:
    # pydantic's own dataclasses are finished classes like models; those of the standard library are not.
    return kind == "model" or (kind == "dataclass" and "__pydantic_validator__" in vars(node["cls"]))


def _rewritten_serialization(node: _Node) -> _Node:
    # Only wraps hold full schemas; {"type": "any"} here is an instruction, not a place for Any.
    return (
        {**node, "schema": _rewritten(node["schema"])}
        if node.get("type") == "function-wrap" and "schema" in node
        else node
    )


def _is_any(node: Any) -> bool:
    return node is None or node.get("type") == "any"


def _is_sequence(kind: str, node: _Node) -> bool:
    if kind == "generator":  # Iterable[...]: pydantic would read it lazily, and once
        return True
    return (
        kind == "json-or-python"
        and node["json_schema"]["type"] == "list"
        and node["python_schema"]["type"] == "chain"
        and "Sequence" in str(node["python_schema"]["steps"][0].get("cls_repr"))
    )


def _list_or_tuple(node: _Node) -> _Node:
    items = node.get("items_schema") or node["json_schema"].get("items_schema") or _any()
    a_tuple = {"type": "tuple", "items_schema": [items], "variadic_item_index": 0}
    return {"type": "union", "choices": [{"type": "list", "items_schema": items}, a_tuple]}


def _in_fixed_order(node: _Node) -> _Node:
    def serialize(value: Any, inner: Any) -> Any:
        return sorted(inner(value), key=compact_json)

    return {**node, "serialization": {"type": "function-wrap", "function": serialize, "schema": node}}


def _dict_of_any_keys(node: _Node) -> _Node:
    # An object of JSON has keys of text only: the dict is one value of the closed set, checked afterwards.
    return {
        "type": "chain",
        "steps": [_any(), node],
        "serialization": {"type": "function-plain", "function": tag_part},
    }


def _union_with_tags(union: _Node) -> _Node:
    """Wrap what JSON cannot tell apart as `{"$t": kind, "v": content by the choice's own schema}`."""
    tagged: dict[str, list[Any]] = {}
    for choice in union["choices"]:
        if name := _tag_of_choice(choice):
            tagged.setdefault(name, []).append(choice)

    def serialize(value: Any, inner: Any) -> Any:
        name = tag_names.get(type(value))
        return {TAG: name, CONTENT: inner(value)} if name in tagged else inner(value)

    def discriminate(data: Any) -> str:
        if type(data) is str and has_text:
            return "text"
        return data[TAG] if is_tagged(data) and data[TAG] in tagged else "plain"

    # What has no tag is JSON's own if it can be: pydantic would take text that looks like a UUID for one, and
    # of an array the first choice that fits.
    has_text = {"type": "str"} in union["choices"]
    plain = {**union, "choices": sorted(union["choices"], key=lambda choice: bool(_tag_of_choice(choice)))}
    return {
        "type": "tagged-union",
        "discriminator": discriminate,
        "choices": {
            **{name: _content(choices) for name, choices in tagged.items()},
            "plain": plain,
            "text": {"type": "str"},
        },
        "serialization": {"type": "function-wrap", "function": serialize, "schema": union},
    }


def _tag_of_choice(choice: Any) -> str | None:
    node = choice[0] if isinstance(choice, tuple) else choice
    while "schema" in node and node["type"].startswith(("nullable", "default", "function-")):
        node = node["schema"]
    return _TAG_OF_KIND.get(node["type"])


def _content(choices: list[Any]) -> _Node:
    content = choices[0] if len(choices) == 1 else {"type": "union", "choices": choices}
    fields = {
        TAG: {"type": "typed-dict-field", "schema": {"type": "str"}, "required": True},
        CONTENT: {"type": "typed-dict-field", "schema": content, "required": True},
    }
    return {
        "type": "function-after",
        "function": {"type": "no-info", "function": lambda data: data[CONTENT]},
        "schema": {"type": "typed-dict", "fields": fields, "config": _CONFIG},
    }


def _exact_scalars(node: _Node) -> set[type]:
    kind = node["type"]
    rules = node.keys() - {"type", "metadata", "ref"}
    if kind in _SCALARS and not rules:
        return {_SCALARS[kind]}
    if kind == "nullable" and rules == {"schema"}:
        inner = _exact_scalars(node["schema"])
        return inner | {type(None)} if inner else set()
    if kind == "union" and rules == {"choices"} and all(isinstance(each, dict) for each in node["choices"]):
        choices = [_exact_scalars(choice) for choice in node["choices"]]
        return set().union(*choices) if all(choices) else set()
    return set()


def _kinds(node: Any) -> list[str]:
    if isinstance(node, list | tuple):
        return [kind for item in node for kind in _kinds(item)]
    if not isinstance(node, dict):
        return []
    own = node.get("type")
    items = [item for key, item in node.items() if not isinstance(own, str) or key not in _NO_SCHEMAS]
    return ([own] if isinstance(own, str) else []) + _kinds(items)
