"""What a workflow's body must not call: found by reading its source, before it runs.

A body is replayed, so what it does between its steps has to come out the same each time. The names in its
calls are resolved to objects as Python would do it (closure, module, builtins, imports inside the body), so
`from time import time as clock` is found and a method of the application's that is named `time` is not.
It costs nothing while workflows run. What reading cannot see: a function that was put into a variable, an
attribute of an object, what other modules do, code without a source file.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import random
import sys
from collections.abc import Callable, Iterator
from datetime import date
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

ALLOW = "# dbdurable: allow"
"""In a line of its own code, what a user writes to say that a call there is meant."""

_VALUE, _WAIT, _EFFECT = (
    "gives another value when the body is replayed",
    "is forgotten when the process ends",
    "happens again when the body is replayed",
)
_NOW = _VALUE, "write dbdurable.now()"
_STEP = _EFFECT, "do it in a step"
_RULES: dict[str, tuple[str, str]] = {
    "time.time time.time_ns time.localtime time.gmtime time.ctime": _NOW,
    "time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns time.process_time": _NOW,
    "uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7": (_VALUE, "write dbdurable.uuid4()"),
    "random.Random": (_VALUE, "write dbdurable.rng()"),
    "random.SystemRandom secrets.choice secrets.randbelow secrets.randbits secrets.token_bytes secrets.token_hex "
    "secrets.token_urlsafe os.urandom os.getrandom": (_VALUE, "draw it in a step"),
    "time.sleep": (_WAIT, "write dbdurable.sleep(...)"),
    "asyncio.sleep": (_WAIT, "write `await dbdurable.aio.sleep(...)`"),
    "asyncio.timeout asyncio.timeout_at asyncio.wait_for": (_WAIT, "write `with dbdurable.timeout(...):`"),
    "socket.socket socket.create_connection socket.getaddrinfo socket.gethostbyname asyncio.open_connection "
    "urllib.request.urlopen urllib.request.urlretrieve http.client.HTTPConnection http.client.HTTPSConnection "
    "smtplib.SMTP smtplib.SMTP_SSL subprocess.run subprocess.call subprocess.check_call subprocess.check_output "
    "subprocess.Popen os.system psycopg.connect requests.request requests.get requests.post requests.put "
    "requests.patch requests.delete requests.head httpx.request httpx.get httpx.post httpx.put httpx.patch "
    "httpx.delete httpx.head httpx.stream": _STEP,
}
_FINE_WITH_ARGUMENTS = {"time.localtime", "time.gmtime", "time.ctime", "random.Random"}
_MISSING = object()


class Finding(NamedTuple):
    """One call that a body must not make."""

    file: str
    line: int
    text: str


class Sources:
    """The syntax trees of the files that functions come from, each parsed once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[list[str], dict[tuple[int, str], ast.AST]]] = {}

    def of(self, fn: Any) -> tuple[ast.AST, list[str]] | None:
        """The function's tree, and the lines of its file; None without a source."""
        code = fn.__code__
        if code.co_filename not in self._files:
            self._files[code.co_filename] = self._parse(fn)
        lines, functions = self._files[code.co_filename]
        node = functions.get((code.co_firstlineno, code.co_name))
        return None if node is None else (node, lines)

    @staticmethod
    def _parse(fn: Any) -> tuple[list[str], dict[tuple[int, str], ast.AST]]:
        lines = linecache.getlines(fn.__code__.co_filename, fn.__globals__)
        try:
            tree = ast.parse("".join(lines))
        except (SyntaxError, ValueError, SystemError):  # the last: Python 3.11, a finalizer that parses too (gh-106905)
            return lines, {}
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        # A function begins where its first decorator stands.
        return lines, {(min(n.lineno, *(d.lineno for d in n.decorator_list), n.lineno), n.name): n for n in found}


def find(fn: Callable[..., Any], name: str, sources: Sources | None = None) -> list[Finding]:
    """What the body of the workflow `name` must not call, in itself and in plain functions of its module."""
    return sorted(set(_Reader(name, sources or Sources()).read(inspect.unwrap(fn), "")))


class _Reader:
    def __init__(self, workflow: str, sources: Sources) -> None:
        self._workflow = workflow
        self._sources = sources
        self._read: set[Any] = set()
        self._forbidden = _forbidden()

    def read(self, fn: Any, via: str) -> Iterator[Finding]:
        if fn.__code__ in self._read:
            return
        self._read.add(fn.__code__)
        found = self._sources.of(fn)
        if found is None:
            return
        node, lines = found
        names = _Names(fn, node)
        for call in _calls(node, names):
            called = names.resolve(call.func)
            helper = isinstance(called, FunctionType) and called.__module__ == fn.__module__
            if helper and not hasattr(called, "__wrapped__"):
                yield from self.read(called, f"{via}{called.__name__}(), which calls ")
                continue
            rule = self._rule(called, call)
            if rule is not None and ALLOW not in lines[call.lineno - 1]:
                why, write = rule
                text = f"workflow {self._workflow} calls {via}{ast.unparse(call.func)}(): it {why}; {write}"
                yield Finding(fn.__code__.co_filename, call.lineno, text)

    def _rule(self, called: Any, call: ast.Call) -> tuple[str, str] | None:
        if isinstance(called, _Method):
            clock = issubclass(called.owner, date) and called.name in ("now", "utcnow", "today")
            return _NOW if clock else None
        name, *rule = self._forbidden.get(_key(called), (None,))
        if name is None or (name in _FINE_WITH_ARGUMENTS and (call.args or call.keywords)):
            return None
        if name == "asyncio.sleep" and call.args and isinstance(call.args[0], ast.Constant) and not call.args[0].value:
            return None  # lets other tasks run: no wait
        return rule[0], rule[1]


class _Method(NamedTuple):
    """An attribute of a class."""

    owner: type
    name: str


class _Names:
    """What the names in one function mean."""

    def __init__(self, fn: Any, node: ast.AST) -> None:
        self._known: dict[str, Any] = {**vars(builtins), **fn.__globals__, **_closure(fn)}
        imported: dict[str, Any] = {}
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                self._known.pop(each.id, None)
            elif isinstance(each, ast.arg):
                self._known.pop(each.arg, None)
            elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and each is not node:
                self._known.pop(each.name, None)
            elif isinstance(each, ast.Import):
                for alias in each.names:
                    top = alias.name if alias.asname else alias.name.partition(".")[0]
                    imported[alias.asname or top] = sys.modules.get(top, _MISSING)
            elif isinstance(each, ast.ImportFrom) and each.module and not each.level:
                for alias in each.names:
                    module = vars(sys.modules[each.module]) if each.module in sys.modules else {}
                    imported[alias.asname or alias.name] = module.get(alias.name, _MISSING)
        self._known.update(imported)

    def resolve(self, node: ast.expr) -> Any:
        """The object that an expression names; runs no code of the user's."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, _MISSING)
        if not isinstance(node, ast.Attribute):
            return _MISSING
        base = self.resolve(node.value)
        if isinstance(base, ModuleType):
            ours = base.__name__ in ("dbdurable", "dbdurable.aio")  # its names are imported when first asked for
            return getattr(base, node.attr, _MISSING) if ours else vars(base).get(node.attr, _MISSING)
        return _Method(base, node.attr) if isinstance(base, type) else _MISSING


def _closure(fn: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            found[name] = _MISSING
    return found


def _calls(node: ast.AST, names: _Names) -> list[ast.Call]:
    """The calls of a function and of the functions inside it, without those that run in steps."""
    steps: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and _is_run_step(names.resolve(each.func)):
            steps.update(arg.id for arg in _arguments(each) if isinstance(arg, ast.Name))
    found: list[ast.Call] = []
    waiting: list[ast.AST] = list(getattr(node, "body", []))
    while waiting:
        each = waiting.pop()
        children = list(ast.iter_child_nodes(each))
        if isinstance(each, ast.Call):
            found.append(each)
            if _is_run_step(names.resolve(each.func)):
                children = [child for child in children if not isinstance(child, ast.Lambda)]
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and (each.decorator_list or each.name in steps):
            continue
        waiting += children
    return found


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _is_run_step(called: Any) -> bool:
    ours = isinstance(called, FunctionType) and called.__module__ == "dbdurable.context"
    return ours and called.__name__ in ("run_step", "arun_step")


def _forbidden() -> dict[Any, tuple[str, str, str]]:
    """The functions themselves, of the modules that are loaded: one that is not cannot be called."""
    found: dict[Any, tuple[str, str, str]] = {}
    for names, rule in _RULES.items():
        for name in names.split():
            module, _, attribute = name.rpartition(".")
            function = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
            if function is not None:
                found[_key(function)] = (name, *rule)
    for attribute, function in vars(random).items():
        if getattr(function, "__self__", None) is random._inst:
            found[_key(function)] = (f"random.{attribute}", _VALUE, "draw it from dbdurable.rng()")
    return found


def _key(function: Any) -> Any:
    """By identity: what is called may be anything, even unhashable."""
    return id(function)
