"""docs/front.ipynb runs from its first cell to its last, on the run that is committed, and shows what it computes."""

from __future__ import annotations

import ast
import json
from typing import Any

import pandas as pd
import pytest

from tests import ROOT

NOTEBOOK = ROOT / "docs" / "front.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does: the value of a last line that is an expression, else None."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if last else None


def shown(cell: dict[str, Any]) -> str:
    """The data frame that the committed notebook shows below a cell, as HTML; '' for none."""
    return "".join(line for output in cell["outputs"] for line in output.get("data", {}).get("text/html", ""))


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_is_committed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    for number, cell in enumerate(CELLS, 1):
        with pd.option_context("display.max_columns", 20):  # of a notebook; a terminal has as many as fit
            value = run_cell("".join(cell["source"]), names)
            table = value._repr_html_() if isinstance(value, pd.DataFrame) else ""
        assert cell["execution_count"] == number, "run it from top to bottom before it is committed"
        assert shown(cell).split() == table.split()
    assert capsys.readouterr().out == "".join(CELLS[0]["outputs"][0]["text"])
    assert "image/png" in CELLS[-1]["outputs"][-1]["data"]


def test_a_cell_that_fails_fails() -> None:
    assert run_cell("a = 1\na + 1", {}) == 2
    with pytest.raises(ZeroDivisionError):
        run_cell("1 / 0", {})
