"""Which ad-hoc SQL may run: one SELECT over the documented views, with functions that change nothing.

A READ ONLY transaction alone would let `pg_notify`, advisory locks, `set_config` and `pg_terminate_backend`
run, and its errors teach nothing. So the text is parsed and judged here, by lists of what is allowed; what then
runs is the original text (`wrapped`), never one made from the parse: generated SQL is not always the same SQL.

Importing this module imports sqlglot (0.1 s): import it where a query is checked.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Final

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import OptimizeError, ParseError, SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope

from dbdurable.errors import BadArgument

__all__ = ["Catalog", "check_query", "wrapped"]

logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

Catalog = Mapping[str, Mapping[str, str]]
"""View to column to type, as they are in the database."""

DIALECT: Final = "postgres"
LENGTH_MAX: Final = 20_000

_FORBIDDEN: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((exp.Lock,), "row locks (FOR UPDATE, FOR SHARE) are not allowed: they would hold up executors"),
    ((exp.Into,), "SELECT INTO is not allowed: it makes a table"),
    ((exp.Placeholder, exp.Parameter), "there are no parameters here: write the value"),
    ((exp.Operator,), "OPERATOR(...) is not allowed: write the plain operator"),
    ((exp.Command, exp.DDL, exp.DML, exp.Drop, exp.Alter, exp.Copy), "only SELECT may run here"),
)

# What sqlglot does not know by name, and what it knows but PostgreSQL does not count as a plain function.
FUNCTIONS: Final = frozenset(
    """
    age clock_timestamp date_bin date_part date_trunc format gen_random_uuid isfinite justify_days
    justify_hours justify_interval make_date make_interval make_time make_timestamp make_timestamptz mode
    now percentile_cont percentile_disc statement_timestamp timeofday timezone to_char to_date to_json
    to_jsonb to_number to_timestamp transaction_timestamp uuid_extract_timestamp uuid_extract_version
    width_bucket array_agg array_cat array_dims array_lower array_ndims array_position array_positions
    array_prepend array_remove array_replace array_upper cardinality string_to_array array_to_json
    row_to_json json_agg jsonb_agg json_object_agg jsonb_object_agg json_build_array json_build_object
    jsonb_build_array jsonb_build_object json_array_elements json_array_elements_text json_array_length
    json_each json_each_text json_extract_path json_extract_path_text json_object_keys json_to_record
    json_to_recordset json_typeof jsonb_array_elements jsonb_array_elements_text jsonb_array_length
    jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object
    jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array
    jsonb_path_query_first jsonb_pretty jsonb_set jsonb_strip_nulls jsonb_to_record jsonb_to_recordset
    jsonb_typeof bool_and bool_or every btrim casefold initcap overlay quote_ident quote_literal
    quote_nullable regexp_count regexp_instr regexp_like regexp_match regexp_matches
    regexp_split_to_array regexp_split_to_table regexp_substr string_to_table to_hex translate
    unistr encode decode md5 sha256 lpad rpad num_nonnulls num_nulls pg_typeof cume_dist dense_rank
    percent_rank rank ntile any_value corr covar_pop covar_samp regr_count regr_slope regr_intercept
    regr_r2 stddev stddev_pop stddev_samp var_pop var_samp variance div gcd lcm mod random scale trim_scale
    isodow starts_with split_part strpos
    """.split()  # noqa: SIM905 - easier to read and to keep sorted by subject
)


def check_query(text: str, catalog: Catalog, schema: str) -> None:
    """Makes sure that `text` is one SELECT that reads the views of `schema` and nothing else.

    Raises:
        BadArgument: It is not; the message says what to write instead.

    Example:
        >>> check_query("select nam from workflows", {"workflows": {"name": "text"}}, "dbdurable")
        Traceback (most recent call last):
        dbdurable.errors.BadArgument: no column “nam” - did you mean “name”?
    """
    tree = _parse(text)
    try:
        _check_nodes(tree)
        _check_sources(tree, catalog, schema)
        _check_columns(tree, catalog)
    except OptimizeError as error:
        raise BadArgument(_column_sentence(str(error), catalog)) from None
    except (SqlglotError, RecursionError, AttributeError, KeyError, ValueError) as error:
        # A parser's failure is not proof of a mistake; but what is not understood does not run.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadArgument(f"this query is not understood ({reason:.100}); write it in a simpler way") from None


def wrapped(text: str, limit: int) -> str:
    """What runs: the text as it was written, cut after `limit` rows and one more, which tells that there are more.

    Example:
        >>> wrapped("select 1;", 10)
        'select * from (\\nselect 1 \\n) as q limit 11'
    """
    characters = list(text)
    for token in sqlglot.tokenize(text, dialect=DIALECT):
        if token.token_type is TokenType.SEMICOLON:  # of one statement: they end it
            characters[token.start] = " "
    return f"select * from (\n{''.join(characters)}\n) as q limit {int(limit) + 1}"  # noqa: S608


# ---- one SELECT --------------------------------------------------------------------------------------------


def _parse(text: str) -> exp.Expression:
    if len(text) > LENGTH_MAX:
        raise BadArgument(f"the query has {len(text)} characters; at most {LENGTH_MAX} are allowed")
    try:
        trees = [tree for tree in sqlglot.parse(text, dialect=DIALECT) if tree is not None]
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        near = f" near “{first['highlight']}”" if first.get("highlight") else ""
        where = f" at line {first.get('line')}, column {first.get('col')}" if first.get("line") else ""
        raise BadArgument(f"syntax error{where}{near}") from None
    except (SqlglotError, RecursionError) as error:
        raise BadArgument(f"this is not SQL: {str(error).splitlines()[0]:.200}") from None
    if not trees:
        raise BadArgument("there is no statement; write for example: select status, count(*) from workflows group by 1")
    if len(trees) > 1:
        raise BadArgument(f"one statement, please; these are {len(trees)}")
    if not isinstance(trees[0], (exp.Select, exp.SetOperation)):
        word = text.split(None, 1)[0].upper()[:20]
        raise BadArgument(f"only SELECT (or WITH ... SELECT) may run here, not {word}")
    return normalize_identifiers(trees[0], dialect=DIALECT)


def _check_nodes(tree: exp.Expression) -> None:
    for node in tree.walk():
        for kinds, sentence in _FORBIDDEN:
            if isinstance(node, kinds):
                raise BadArgument(sentence)
        if isinstance(node, exp.CTE) and not isinstance(node.this, (exp.Select, exp.SetOperation, exp.Values)):
            raise BadArgument("only SELECT may run here, in WITH too")
        if isinstance(node, exp.Func):
            _check_function(node)


def _check_function(node: exp.Func) -> None:
    parent = node.parent
    qualified = (isinstance(parent, exp.Dot) and parent.expression is node) or (
        isinstance(parent, exp.Table) and parent.this is node and parent.args.get("db")
    )
    if qualified:
        raise BadArgument("write functions without a schema's name")
    if isinstance(node, exp.Anonymous):
        name = node.name.lower()
        if name not in FUNCTIONS:
            raise BadArgument(
                f"function {name}() is not on the list of allowed functions{_hint(name, FUNCTIONS, False)}"
            )


# ---- what it reads -----------------------------------------------------------------------------------------


def _check_sources(tree: exp.Expression, catalog: Catalog, schema: str) -> None:
    seen: set[int] = set()
    for scope in traverse_scope(tree):
        for table in scope.tables:
            seen.add(id(table))
            source = scope.sources.get(table.alias_or_name)
            is_cte = isinstance(source, Scope) and not table.args.get("db") and table.name in scope.cte_sources
            if not is_cte:
                _check_table(table, catalog, schema)
    for table in tree.find_all(exp.Table):
        if id(table) not in seen and not isinstance(table.this, exp.Func):
            _check_table(table, catalog, schema)  # somewhere that scopes do not show


def _check_table(table: exp.Table, catalog: Catalog, schema: str) -> None:
    if isinstance(table.this, exp.Func):
        return  # a function's rows; the function was checked
    name = table.name
    if not name:
        raise BadArgument("this kind of FROM is not understood; name a view")
    if table.catalog or table.db not in ("", schema):
        raise BadArgument(f"only the views of schema “{schema}” can be read, not “{table.sql(DIALECT)}”")
    if name not in catalog:
        raise BadArgument(f"no table “{name}”{_hint(name, catalog)}")


def _check_columns(tree: exp.Expression, catalog: Catalog) -> None:
    copy = tree.copy()
    for table in copy.find_all(exp.Table):
        table.set("db", None)
    for scope in traverse_scope(copy):
        for column in scope.columns:
            # PostgreSQL reads a table's name as the whole row: to_jsonb(w), generate_series(...) g.
            if not column.table and column.name in scope.sources and not _has_column(scope, column.name, catalog):
                column.replace(exp.null())
    qualify(
        copy,
        dialect=DIALECT,
        schema={view: dict(columns) for view, columns in catalog.items()},
        validate_qualify_columns=True,
        quote_identifiers=False,
        identify=False,
    )


def _has_column(scope: Scope, name: str, catalog: Catalog) -> bool:
    return any(name in catalog.get(table.name, ()) for table in scope.tables)


# ---- sentences ---------------------------------------------------------------------------------------------


def _hint(name: str, known: Iterable[str], list_all: bool = True) -> str:
    close = difflib.get_close_matches(name.lower(), known, 1, 0.6)
    if close:
        return f" - did you mean “{close[0]}”?"
    return f" - there are: {', '.join(sorted(known))}" if list_all else ""


def _column_sentence(said: str, catalog: Catalog) -> str:
    first = said.splitlines()[0]
    found = re.search(r"[Cc]olumn:? '?(?P<name>\w+)'?(?: could not be resolved for table: '(?P<table>\w+)')?", first)
    if not found:
        return first
    name, table = found["name"], found["table"]
    if table is not None:
        return f"no column “{name}” in “{table}”: is that table in FROM, and under this name?"
    columns = {column for view in catalog.values() for column in view}
    if name in columns and not first.startswith("Unknown"):
        return f"column “{name}” is in more than one of the tables, or in none: write view.{name}"
    return f"no column “{name}”{_hint(name, columns, False)}"
