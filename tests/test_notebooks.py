"""The notebooks of the bundles run from top to bottom, draw a picture, show a table, and are committed without outputs.

The cells are executed in this process, as Jupyter would but without a kernel: starting one costs more than the cells do.
"""

from __future__ import annotations

import ast
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from bundle_cases import ROOT

NOTEBOOKS = sorted(ROOT.glob("bundles/*/docs/*.ipynb"))

notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.parents[1].name)


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def execute(path: Path) -> list[Any]:
    """Execute the code cells in one namespace; return what each would display: the value of its last expression."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(c for c in cells_of(path) if c["cell_type"] == "code"):
        body = ast.parse("".join(cell["source"]), filename=f"{path.name}, code cell {number}").body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"{path.name}, code cell {number}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"{path.name}, code cell {number}", "eval"), namespace))
    return shown


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """The notebooks silence MONAI's engines, and the next test may want to hear them."""
    yield
    logging.disable(logging.NOTSET)


def test_every_bundle_has_a_notebook() -> None:
    assert {path.parents[1] for path in NOTEBOOKS} == {path.parent for path in ROOT.glob("bundles/*/configs")}


@notebook
def test_notebook_is_committed_without_outputs(path: Path) -> None:
    content = json.loads(path.read_text())
    assert content["nbformat"] == 4
    assert "synthetic" in "".join(content["cells"][0]["source"]), "the first cell does not say that the data are synthetic"
    for cell in content["cells"]:
        assert not cell.get("outputs"), f"{path.name} holds outputs: clear them before committing."
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if "fmri_learning" in str(path) or "fmri_motor" in str(path) else [])
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.parents[1].name,
)
@pytest.mark.usefixtures("restored_logging")
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the notebook's own folder, where Jupyter starts it; what it writes lies in a temporary folder."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    plt.close("all")
    shown = execute(path)
    pictures = [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")
    assert any(axes.has_data() for figure in pictures for axes in figure.axes), "no picture"
    tables = [value for value in shown if isinstance(value, pd.DataFrame)]
    assert tables
    assert all(len(table) and table.notna().any(axis=None) for table in tables)
    assert {p: p.stat().st_mtime_ns for p in path.parent.iterdir()} == before, "the notebook wrote beside itself"
