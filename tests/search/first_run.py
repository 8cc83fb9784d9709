"""What a first search prints, from its first line to the last: `python -m tests.search.first_run` writes it anew into
the texts beside this file. Read them as a user would."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.console import Console

from effir_dist.core import config as config_module
from effir_dist.core.measures import METRICS
from effir_dist.report import command as report_command
from effir_dist.runs.objectives import goal_of
from effir_dist.runs.records import SplitScores, TrialSpec
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.runs.sizes import SetSize
from effir_dist.search.live.steps import steps_of
from effir_dist.search.live.view import LiveView
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


def printed(order: str) -> str:
    """All that a search and its report print."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return _printed(driven.make_run(Path("runs/first"), {**SETTINGS, "train.order": order}), order)


def _printed(run: Run, order: str) -> str:
    screen = io.StringIO()
    recovers = order == "tune_prune_recover"

    def view(*_: Any, **__: Any) -> LiveView:
        shown = LiveView(Console(file=screen, width=80), "minilm on pydocs", 6 + recovers, clock=lambda: 0.0)
        shown.start()
        shown.will_do(steps_of(run, config_module.from_dict(run.config), recovers=recovers))
        shown.begin("search")
        return shown

    with mock.patch.object(driven, "LiveView", view):
        driven.drive(run, outcome)
    score(run)
    report_command.write([run], screen)
    return screen.getvalue()


def golden(order: str) -> Path:
    """The file with the text of an order of training."""
    return Path(__file__).parent / f"first_run_{order}.txt"


if __name__ == "__main__":
    for order in ORDERS:
        golden(order).write_text(printed(order))
