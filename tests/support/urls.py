"""URLs of databases."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict


def through_socket(url: str, directory: str) -> str:
    """The same database, through whoever listens at port 5432 in that directory."""
    said: dict[str, Any] = dict(conninfo_to_dict(url))
    login = quote(said.get("user") or "postgres", safe="")
    if said.get("password"):
        login += f":{quote(said['password'], safe='')}"
    return f"postgresql://{login}@/{said['dbname']}?host={quote(directory, safe='')}&port=5432"
