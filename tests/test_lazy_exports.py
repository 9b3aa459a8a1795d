"""`import dbdurable` is cheap, and still offers what type checkers see."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import dbdurable


def seen_by_type_checkers() -> dict[str, str]:
    """Name to module, of the imports under TYPE_CHECKING."""
    tree = ast.parse(inspect.getsource(dbdurable))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module or "" for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_type_checkers_and_python_see_the_same():
    static = seen_by_type_checkers()
    assert sorted([*static, "__version__"]) == sorted(dbdurable.__all__)
    for name, module in static.items():
        if module == "dbdurable":
            assert getattr(dbdurable, name) is importlib.import_module(f"dbdurable.{name}")
        else:
            assert getattr(dbdurable, name) is getattr(importlib.import_module(module), name)
            assert dbdurable._MODULE_OF[name] == module.removeprefix("dbdurable.")


def test_a_name_that_is_none():
    assert not hasattr(dbdurable, "Durrable")
    assert set(dbdurable.__all__) <= set(dir(dbdurable))


def test_each_module_can_be_the_first(tmp_path):
    program = (
        "import sys, dbdurable\n"
        "assert not {'psycopg', 'pydantic', 'asyncio'} & set(sys.modules)\n"
        "names = list(dbdurable.__all__)\n"
        "for first in sorted(dbdurable._MODULES):\n"
        "    for name in [n for n in sys.modules if n.partition('.')[0] == 'dbdurable']: del sys.modules[name]\n"
        "    import importlib\n"
        "    importlib.import_module('dbdurable.' + first)\n"
        "exec('from dbdurable import *')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
