"""The async face is the sync one by rule: the same text with `async def`, AsyncX for X, and aio for sync."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import dbdurable
from dbdurable import aio, client, context, definitions, handle, parallel, sagas, waiting

CLASSES = [
    (handle, "Handle"),
    (definitions, "Function"),
    (definitions, "Call"),
    (definitions, "_Sync"),
    (definitions, "Workflow"),
    (definitions, "Step"),
    (definitions, "Transaction"),
    (client, "Client"),
    (waiting, "Promise"),
]
TWINS = {
    **{name: f"Async{name}" for _, name in CLASSES if name != "_Sync"},
    **{f"Async{name}": name for _, name in CLASSES if name != "_Sync"},
    "_Sync": "_Async",
    "SyncTx": "AsyncTx",
    "aio": "sync",
    "close": "aclose",
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
}
PLAIN = {"bind", "handle", "options", "workflow", "of"}  # no I/O: `def` in both colours
FN = "Callable[P, R_co]", "Callable[P, Coroutine[Any, Any, R_co]]"
TRANSACTION_FN = "Callable[Concatenate[Any, P], R_co]", "Callable[Concatenate[Any, P], Coroutine[Any, Any, R_co]]"

Member = ast.FunctionDef | ast.AsyncFunctionDef


def public_members(module: object, name: str) -> list[Member]:
    """The functions of a class as type checkers see them: `if TYPE_CHECKING:` counts, its `else:` does not."""
    tree = ast.parse(Path(inspect.getfile(module)).read_text())  # type: ignore[arg-type]
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    body: list[ast.stmt] = []
    for node in cls.body:
        body += node.body if isinstance(node, ast.If) else [node]
    found = [node for node in body if isinstance(node, Member)]
    return [node for node in found if not node.name.startswith("_") or node.name.endswith("__")]


def has_property(node: Member) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)


def twin_text(text: str) -> str:
    text = re.sub(r"\w+", lambda word: TWINS.get(word[0], word[0]), text)
    for sync, async_ in (FN, TRANSACTION_FN):
        text = async_ if text == sync else text
    return text


def described(node: Member, *, derive: bool) -> tuple[str, str, str, bool]:
    """(name, parameters, result, async?) of a member; derived: as its twin must be."""
    arguments, returns = ast.unparse(node.args), ast.unparse(node.returns) if node.returns else ""
    if not derive:
        return node.name, arguments, returns, isinstance(node, ast.AsyncFunctionDef)
    is_plain = has_property(node) or node.name in PLAIN or node.name in ("__init__", "__get__")
    return TWINS.get(node.name, node.name), twin_text(arguments), twin_text(returns), not is_plain


@pytest.mark.parametrize(("module", "name"), CLASSES, ids=[name for _, name in CLASSES])
def test_async_class_is_derived_from_the_sync_one(module: object, name: str):
    sync = [described(node, derive=True) for node in public_members(module, name)]
    async_ = [described(node, derive=False) for node in public_members(module, TWINS[name])]
    assert sorted(async_) == sorted(sync)
    assert sync


def awaitable(parameter: str) -> str:
    """A parameter of the sync function, as the async one has it."""
    parameter = re.sub(r"\bHandle\[", "AsyncHandle[", parameter)
    parameter = parameter.replace("Callable[[], Any]", "AsyncBranch[Any]")  # gather's: calls, or what they return
    parameter = re.sub(r"\bBranch\[", "AsyncBranch[", parameter)
    return re.sub(r"(Callable\[\[\w*\], )(R|Any)\]", r"\1Awaitable[\2]]", parameter)


def test_free_functions_come_twice_under_one_name():
    coloured = set(aio.__all__)
    assert coloured == {
        "fan_out", "gather", "promise", "race", "recv", "run_step", "saga", "send", "set_event", "sleep", "sleep_until"
    }  # fmt: skip
    for name in coloured - {"saga"}:  # a block, `async with` for `with`: no parameters, the same Saga
        sync, async_ = inspect.signature(getattr(dbdurable, name)), inspect.signature(getattr(aio, name))
        derived = {key: awaitable(str(each)) for key, each in sync.parameters.items()}
        assert {key: str(each) for key, each in async_.parameters.items()} == derived
        if not inspect.iscoroutinefunction(getattr(aio, name)):  # takes its place when it is called
            returned = str(sync.return_annotation).replace("Promise[", "AsyncPromise[")
            assert async_.return_annotation == f"Awaitable[{returned}]"
        else:
            assert async_.return_annotation == sync.return_annotation
    assert {name for name in vars(aio) if not name.startswith("_")} >= coloured


def test_the_public_coloured_functions_all_have_a_twin():
    colourless = {"current_step", "current_workflow", "now", "progress", "rng", "shield", "timeout", "uuid4"}
    modules = (context, parallel, sagas, waiting)
    functions = {name for module in modules for name in module.__all__ if name[0].islower()}
    assert functions - colourless == {f"{a}{name}" for name in aio.__all__ for a in ("", "a")}
