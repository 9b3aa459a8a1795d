"""Notebooks: cells run on the kernel's loop, block it as cells do, and define functions again and again."""

from __future__ import annotations

from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

CELLS = [
    """
from dbdurable import Durable
durable = Durable(URL)

@durable.step
def double(n: int) -> int:
    return n * 2

@durable.workflow
def work(n: int) -> int:
    return double(n) + 1

@durable.workflow
async def awork(n: int) -> int:
    return await double.aio(n) + 2
""",
    "executor = durable.executor().open()",
    "print(work(1), work.start(2).result(30))",
    "print(await work.aio(1), await awork(1), await (await awork.start(2)).result(30), awork.sync(3))",
    """
@durable.workflow
def work(n: int) -> int:
    return double(n) + 100
print(work(1), work.start(2).result(30))
""",
    """
@durable.workflow
def later(n: int) -> int:
    return double(n) + 1000
print(later.start(1).result(30), durable.client.workflow("later", returns=int).start(n=2).result(30))
""",
    """
with durable.executor() as inner:
    pass
""",
    "executor.wait_idle(30); executor.close()",
    """
async with durable.executor():
    print(await work.aio(1), await awork(1), work(2))
""",
    "work(1)",
]
OUTPUTS = [
    "",
    "",
    "3 5\n",
    "3 4 6 8\n",
    "102 104\n",
    "1002 1004\n",
    "BadConfiguration: an executor of this Durable is open already",
    "",
    "102 4 104\n",
    "NotRunning",
]


def test_cells(database_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    cells = [nbformat.v4.new_code_cell(cell.replace("URL", repr(database_url))) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = ["".join(_text(output) for output in cell.outputs) for cell in notebook.cells]
    for cell, text, expected in zip(CELLS, shown, OUTPUTS, strict=True):
        if "Durable is open" in expected or expected == "NotRunning":
            assert expected in text, cell
        else:
            assert text == expected, cell  # no warning, no traceback


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    return str(output)
