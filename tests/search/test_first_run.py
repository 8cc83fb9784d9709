"""What a first search prints, from its first line to the table: read the texts beside this file as a user would."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from rich.console import Console

from effir_dist.core.measures import METRICS
from effir_dist.report import command as report_command
from effir_dist.runs.objectives import goal_of
from effir_dist.runs.records import SplitScores, TrialSpec
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.runs.sizes import SetSize
from effir_dist.search.live import LiveView
from tests import driven

ORDERS = ("prune_then_tune", "tune_prune_recover")
QUERIES = 300
SETTINGS = {
    "search.trials": 6,
    "search.sampler": "random",
    "search.scheduler": "screening",
    "search.screening_cost": "flops",
    "data.paths": ["pydocs"],
}


def outcome(spec: TrialSpec, share: float) -> dict[str, float]:
    """That of a driven search, without speed; a base is worse, and a full recovery gains."""
    gained = {"base": -0.02, "recovery": 0.012}.get(spec.stage, 0.0)
    found = {name: value for name, value in driven.smooth(spec, share).items() if "speedup" not in name}
    return {**found, "ndcg_at_10": found["ndcg_at_10"] + gained}


def per_query(number: int, mean: float) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of this mean: hard and easy queries, and a little that is the trial's own."""
    at = np.arange(QUERIES)
    values = 0.3 * np.sin(at) + 0.08 * np.sin((2 + number) * at)
    values += mean - values.mean()
    return {"pydocs": {f"q{i}": dict.fromkeys(METRICS, float(v)) for i, v in enumerate(np.clip(values, 0, 1))}}


def score(run: Run) -> None:
    """Per-query scores of all trials, and test scores of those that a search keeps."""
    records = run.results()
    kept = goal_of(run.config).kept(records)
    for found in records:
        mean = found.values["ndcg_at_10"]
        write_queries(run.queries_path(found.trial), per_query(found.spec.number, mean))
        if found.trial in kept:
            write_queries(run.queries_path(found.trial, "test"), per_query(found.spec.number, mean + 0.01))
            means, sizes = dict.fromkeys(METRICS, mean + 0.01), {"pydocs": SetSize(QUERIES, 1000, 2842, 2842)}
            run.write_split_scores(found.trial, "test", SplitScores(means, {"pydocs": means}, sizes=sizes))


def printed(folder: Path, order: str, capsys: pytest.CaptureFixture[str]) -> str:
    """All that a search and its report print, with the folder's name shortened."""
    file = io.StringIO()

    def view(*_: Any, **__: Any) -> LiveView:
        trials = 6 + (order == "tune_prune_recover")  # and the base
        return LiveView(Console(file=file, width=200), "minilm on pydocs", trials, clock=lambda: 0.0)

    run = driven.make_run(folder, {**SETTINGS, "train.order": order})
    with mock.patch.object(driven, "LiveView", view):
        driven.drive(run, outcome)
    score(run)
    report_command.main([str(run.folder)])
    return (file.getvalue() + capsys.readouterr().out).replace(str(folder.parent), "runs")


@pytest.mark.parametrize("order", ORDERS)
def test_it_reads_as_it_should(tmp_path: Path, order: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(tmp_path / "first", order, capsys)
    assert text.splitlines() == (Path(__file__).parent / f"first_run_{order}.txt").read_text().splitlines()
    table = text[text.index("\ntrial ") : text.index("~ no significant")]
    assert max(map(len, table.splitlines())) <= 100
