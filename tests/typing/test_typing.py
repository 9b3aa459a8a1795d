"""mypy --strict and pyright strict accept the right samples and reject exactly the marked lines of the wrong ones."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = "# error:"
CHECK_TIMEOUT_S = 110

pytestmark = pytest.mark.xdist_group("typing")


def marked() -> set[str]:
    return {
        f"{path.name}:{number}"
        for path in HERE.glob("wrong/*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARK in line
    }


def samples() -> list[str]:
    return [str(path.relative_to(ROOT)) for path in sorted(HERE.glob("[rw][ri]*/*.py"))]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[lint]'")
    return subprocess.run(
        [sys.executable, "-m", *command, *samples()], cwd=ROOT, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S
    )


def compare(found: dict[str, str]) -> None:
    expected = marked()
    surprising = [f"{place} {text}" for place, text in found.items() if place not in expected]
    assert not surprising, "rejected, though it is right:\n" + "\n".join(surprising)
    missed = sorted(expected - set(found))
    assert not missed, f"accepted, though it is wrong: {missed}"


def test_marks_are_found():
    assert len(marked()) > 60
    assert len(samples()) == len(list(HERE.glob("right/*.py"))) + len(list(HERE.glob("wrong/*.py")))


def test_mypy():
    done = run("mypy", "--strict", "--no-error-summary", "--no-pretty", "--hide-error-context")
    lines = [re.match(r"(.+?):(\d+): error: (.*)", line) for line in done.stdout.splitlines()]
    found = {f"{Path(line[1]).name}:{line[2]}": line[3] for line in lines if line}
    assert found, done.stdout + done.stderr
    compare(found)


def test_pyright():
    try:
        done = run("pyright", "--outputjson", "--pythonversion", "3.11", "--pythonpath", sys.executable)
        diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"pyright cannot run here; it needs Node.js, which it downloads once ({error})")
    compare(
        {
            f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}": each["message"]
            for each in diagnostics
            if each["severity"] == "error"
        }
    )
