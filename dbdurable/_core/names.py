"""Which names, keys and schemas are allowed: they end up in SQL, URLs, logs and terminals."""

from __future__ import annotations

import re
from typing import Any

from dbdurable._core import limits
from dbdurable._core.show import shown
from dbdurable.errors import BadArgument, BadConfiguration, DurableError

__all__ = ["check_key", "check_name", "check_schema", "default_name"]

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-:/]*")
_BETWEEN_WORDS = frozenset(".-:/")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]*")


def check_name(name: object, what: str, *, error: type[DurableError] = BadArgument) -> str:
    """Return `name` if it can name a workflow, step, queue, topic or event; else raise `error`.

    Allowed is whatever Python allows in an identifier (any alphabet), and `. - : /` after the first letter.

    Example:
        >>> check_name("Orders.charge", "step")
        'Orders.charge'
    """
    if not isinstance(name, str):
        raise error(f"the name of a {what} must be a str, got {shown(name)}")
    if not name:
        raise error(f"the name of a {what} is empty")
    if len(name) > limits.name_chars_max:
        raise error(
            f"the name of a {what} has {len(name)} characters, at most {limits.name_chars_max} are allowed: "
            f"{shown(name)}"
        )
    if _PLAIN_NAME.fullmatch(name):
        return name
    if not name[0].isidentifier():
        raise error(f"the name of a {what} must start with a letter or `_`, got {shown(name)}")
    for character in name:
        # The letter in front makes digits and combining marks count as what follows a first letter.
        if character not in _BETWEEN_WORDS and not ("a" + character).isidentifier():
            raise error(
                f"the name of a {what} may contain letters, digits, `_`, and `. - : /`; "
                f"{character!a} is not allowed in {shown(name)}"
            )
    return name


def check_schema(name: object) -> str:
    """Return `name` if it can be the schema of the tables, without any quoting; else raise BadConfiguration.

    Example:
        >>> check_schema("dbdurable")
        'dbdurable'
    """
    if not isinstance(name, str) or not _SCHEMA.fullmatch(name):
        raise BadConfiguration(f"a schema is named with a-z, 0-9 and `_`, and starts with no digit; got {shown(name)}")
    if len(name) > limits.schema_chars_max:
        raise BadConfiguration(
            f"the schema's name has {len(name)} characters, at most {limits.schema_chars_max} are allowed"
        )
    if name.startswith("pg_"):
        raise BadConfiguration(f"PostgreSQL keeps schemas that start with `pg_` for itself; got {shown(name)}")
    return name


def check_key(key: object) -> str:
    """Return `key` if it can be a caller's key: any text that is not empty, too long, or beyond PostgreSQL.

    Example:
        >>> check_key("order-43")
        'order-43'
    """
    if not isinstance(key, str):
        raise BadArgument(f"a key must be a str, got {shown(key)}")
    if not key:
        raise BadArgument("a key must not be empty")
    if len(key) > limits.key_chars_max:
        raise BadArgument(
            f"a key has at most {limits.key_chars_max} characters, got {len(key)}: {shown(key)}; use a hash of it"
        )
    if "\0" in key:
        raise BadArgument(f"PostgreSQL cannot store the character NUL, found in the key {shown(key)}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise BadArgument(f"the key {shown(key)} contains a lone surrogate, which is not text") from None
    return key


def default_name(fn: Any) -> str:
    """Return the name of a function that was given none: `__qualname__` after the last `<locals>.`.

    Never the module: `python flows.py` would call it `__main__`, and no worker would find the work.

    Example:
        >>> def checkout(): ...
        >>> default_name(checkout)
        'checkout'
    """
    qualname = getattr(fn, "__qualname__", None)
    if not isinstance(qualname, str):
        raise BadConfiguration(f"{shown(fn)} has no name of its own: pass name=")
    name = qualname.rpartition("<locals>.")[2]
    if "<" in name:
        raise BadConfiguration(f"a lambda has no name that another process could find: pass name= (got {name})")
    return check_name(name, "function", error=BadConfiguration)
