"""What the planner made of a statement, and what it did: as nodes that a test can look through."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from dbdurable._sql.statement import Statement

__all__ = ["Node", "below", "explained", "nodes", "pages", "scans", "show"]

Node: TypeAlias = dict[str, Any]


def explained(connection: psycopg.Connection[Any], statement: Statement, params: Sequence[Any]) -> list[Node]:
    """Runs the statement as a prepared one: the nodes of its plan, from above to below, with what they did."""
    name = sql.Identifier(statement.name)
    connection.execute(sql.SQL("prepare {} as ").format(name) + sql.SQL(statement.render("dbdurable")))
    try:
        values = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, params))) if params else sql.SQL("")
        run = sql.SQL("execute {}{}").format(name, values)
        (found,) = connection.execute(sql.SQL("explain (analyze, buffers, format json) ") + run).fetchone() or ()
    finally:
        connection.execute(sql.SQL("deallocate {}").format(name))
    return list(nodes(found[0]["Plan"]))


def pages(found: list[Node]) -> int:
    """How many it touched, in memory or not."""
    return int(found[0]["Shared Hit Blocks"] + found[0]["Shared Read Blocks"])


def nodes(plan: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def below(node: Node) -> Iterator[Node]:
    """Whatever feeds it; not the sub-plans, which run beside it."""
    for child in node.get("Plans", ()):
        if child["Parent Relationship"] in ("Outer", "Inner", "Member", "Subquery"):
            yield child
            yield from below(child)


def scans(found: list[Node], table: str) -> list[Node]:
    """Where the table is read."""
    return [node for node in found if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"]


def show(found: list[Node]) -> str:
    """For the message of an assertion."""
    return json.dumps([{key: node[key] for key in node if key != "Plans"} for node in found], indent=1, default=str)
