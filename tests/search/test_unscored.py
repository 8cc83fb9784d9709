"""A model of the front whose scoring on test data fails: the others are scored, the report says why, --resume tries it
again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.report import command as report_command
from effir_dist.runs.records import SplitScores
from effir_dist.runs.run_folder import Run
from effir_dist.runs.tries import unscored
from effir_dist.search import course
from effir_dist.search.cluster import calls
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.live.view import LiveView
from effir_dist.search.trial import scoring
from effir_dist.search.trial.faults import TrialFault, fault_told
from tests.driven import drive, make_run

METRICS = {"ndcg_at_10": 0.5, "recall_at_100": 0.5, "mrr_at_10": 0.5}
Scores = Callable[[Run, RunConfig, str, str], None]


def here(function: Callable[..., Any], resources: Resources, *args: Any) -> Callable[[], Any]:
    """`calls.call` without a cluster."""

    def wait() -> Any:
        try:
            with fault_told("", "here"):
                return function(*args)
        except TrialFault as fault:
            raise calls.shown(fault) from None

    return wait


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Six trials, some of which are on the front; each with what stands for its weights."""
    found = make_run(tmp_path / "run", {"search.trials": 6, "search.keep_weights": "all"})
    drive(found)
    for trial in found.trials():
        (found.trial_folder(trial) / "model.safetensors").touch()
    monkeypatch.setattr(calls, "call", here)
    return found


def score(run: Run, monkeypatch: pytest.MonkeyPatch, scores: Scores) -> str:
    """Score the front; what the user is told."""

    def score_saved(run: Run, config: RunConfig, trial: str, split: str) -> None:
        scores(run, config, trial, split)
        run.write_split_scores(trial, split, SplitScores(METRICS, {"toy": METRICS}))

    monkeypatch.setattr(scoring, "score_saved", score_saved)
    shown = io.StringIO()
    view = LiveView(Console(file=shown, width=400), "test", 6)
    course.score_front(run, config_module.from_dict(run.config), Resources(1, 1, 0, 1), view, "test")
    return shown.getvalue()


def works(run: Run, config: RunConfig, trial: str, split: str) -> None:
    pass


def test_the_others_are_scored_and_the_report_has_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    front = sorted(r.trial for r in run.results() if r.trial in course_front(run))
    broken = front[0]

    def fails(run: Run, config: RunConfig, trial: str, split: str) -> None:
        if trial == broken:
            raise RuntimeError("CUDA error: unspecified launch failure")

    shown = score(run, monkeypatch, fails)
    reason = "RuntimeError: CUDA error: unspecified launch failure"
    assert f"trial {broken} has no score on the test queries: {reason}; --resume {run.folder} tries it again" in shown
    assert sorted(run.split_scores("test")) == front[1:]
    assert run.result(broken).values["ndcg_at_10"] > 0
    assert "Traceback" in capsys.readouterr().err  # a worker's goes to the trial's log

    report_command.main([str(run.folder)])
    assert f"trial {broken} has no score on test data: {reason}; --resume" in " ".join(capsys.readouterr().out.split())
    table = pd.read_csv(run.report_folder / "front.csv", dtype={"trial": str}).set_index("trial")
    assert pd.isna(table.loc[broken, "test_ndcg_at_10"])
    assert table.loc[broken, "test_failed"] == reason
    assert table.loc[front[1:], "test_ndcg_at_10"].tolist() == [0.5] * len(front[1:])
    page = (run.report_folder / "report.html").read_text()
    assert json.dumps(reason) in page
    assert f"trial {broken} has no score on test data: {reason}; --resume" in page

    tried: list[str] = []
    score(run, monkeypatch, lambda run, config, trial, split: tried.append(trial))
    assert tried == [broken]
    assert sorted(run.split_scores("test")) == front
    assert unscored(run, "test") == {}
    report_command.main([str(run.folder)])
    assert "test_failed" not in pd.read_csv(run.report_folder / "front.csv")


def course_front(run: Run) -> set[str]:
    from effir_dist.runs.objectives import goal_of

    return goal_of(run.config).kept(run.results())


def test_scoring_is_tried_with_less_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def needs_memory(run: Run, config: RunConfig, trial: str, split: str) -> None:
        taken.append(config.score.batch_tokens)
        if len(taken) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    score(run, monkeypatch, needs_memory)
    assert unscored(run, "test") == {}
    assert set(run.split_scores("test")) == course_front(run)
    assert taken[1] == max(1, (taken[0] or 4096) // 8)
    assert set(taken[2:]) == {taken[0]}


def test_no_memory_at_all_is_a_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_memory(run: Run, config: RunConfig, trial: str, split: str) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    score(run, monkeypatch, needs_memory)
    found = unscored(run, "test")
    assert set(found) == course_front(run)
    assert all("out of memory at a peak of" in each.reason for each in found.values())
    assert all("with little memory too" in each.reason for each in found.values())
    assert run.split_scores("test") == {}


def test_a_full_disk_ends_the_search(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run, config: RunConfig, trial: str, split: str) -> None:
        raise InputError(f"no space left on {run.folder}/trials while writing test.json; free some")

    with pytest.raises(InputError, match="no space left"):
        score(run, monkeypatch, full)
