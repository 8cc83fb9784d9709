"""Searches with rungs: real Ray, real processes, killed with SIGKILL while promoted trials train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from tests.search.test_search import OPTIONS, finish, kill_tree, start, wait_for


def options(**search: Any) -> list[str]:
    own = ("search.sampler", "search.scheduler", "train.steps")
    others = [option for option in OPTIONS if not option.startswith(own)]
    return [*others, "train.steps=8", *(f"search.{name}={value}" for name, value in search.items())]


def arguments(tmp_path: Path, checkpoints: dict[str, Path], collection: Path) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text("drop_mlp: {max: 3}\nwidth_ratio: {low: 0.25, high: 1.0, step: 0.25, groups: 2}\n")
    return ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space), "--name", "mine"]


def specs(run: Path) -> list[TrialSpec]:
    return [TrialSpec.from_json(json.loads(path.read_text()), path) for path in sorted(run.glob("trials/*/trial.json"))]


@pytest.mark.slow
def test_asha_killed_while_a_promoted_trial_trains_loses_nobody(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    path = tmp_path / "runs" / "mine"
    asha = options(scheduler="asha", rungs="[0.0,0.5]", promotion_fraction=0.5, sampler="random")
    process = start(tmp_path, *arguments(tmp_path, checkpoints, collection), "--trials", "3", *asha)

    def promoted() -> bool:
        return any(spec.rung == 1 and not Run(path).reached(spec) for spec in specs(path))

    wait_for(process, promoted, tmp_path)
    before = {spec.trial: spec.rung or 0 for spec in specs(path)}
    kill_tree(process)
    scored = {
        trial: (path / "trials" / trial / "rungs.json").read_bytes()
        for trial in before
        if (path / "trials" / trial / "rungs.json").exists()
    }
    output = finish(start(tmp_path, "--resume", "runs/mine"), tmp_path)

    run, after = Run.open(path), {spec.trial: spec for spec in specs(path)}
    assert "Traceback" not in output
    assert all(run.reached(spec) for spec in after.values())
    assert all((after[trial].rung or 0) >= rung for trial, rung in before.items())
    for trial, text in scored.items():  # what was scored before is not scored again
        known = json.loads(text)["rungs"]
        assert [score.to_json() for score in run.rungs(trial)][: len(known)] == known
    records = run.results()
    assert len(records) == 3
    for record in records:
        assert record.trial == "0000" or [score.rung for score in record.rungs] == [0, 1]
    middle = [score for trial in after for score in run.rungs(trial) if score.rung == 1]
    assert len(middle) >= 2
    assert all(score.steps == 4 and score.cost > 0 for score in middle)
    waiting = {t for t in after if not run.finished(t) and len(run.rungs(t)) == 2}
    assert {p.parent.name for p in path.glob("trials/*/checkpoint.safetensors")} == waiting
    table = pd.read_csv(path / "report" / "trials.csv", dtype={"trial": str})
    assert set(table["trial"]) == {r.trial for r in records}


@pytest.mark.parametrize(
    "objectives", ["[parameters,ndcg_at_10]", pytest.param("[document_speedup,ndcg_at_10]", marks=pytest.mark.slow)]
)
def test_a_guided_search_screens_first_and_shows_the_trials_that_stopped_there(
    objectives: str, tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    path = tmp_path / "runs" / "mine"
    # By FLOPs: of a model this small the seconds of screening are those of a trial.
    own = options(screening_budget=0.9, screening_cost="flops", objectives=objectives)
    guided = [*own, "--trials", "3", "train.steps=2"]
    output = finish(start(tmp_path, *arguments(tmp_path, checkpoints, collection), *guided), tmp_path)
    run = Run.open(path)
    records, stopped = run.results(), [spec.trial for spec in specs(path) if not run.finished(spec.trial)]
    assert len(records) == 3
    assert records[0].values["parameters"] == records[0].values["full_parameters"]
    assert stopped
    trials = [*(record.trial for record in records), *stopped]
    assert all(len(run.rungs(trial)) == 1 for trial in trials)
    rungs = pd.read_csv(path / "report" / "rungs.csv", dtype={"trial": str})
    assert set(rungs["trial"]) == set(trials)
    costs = [score.cost for trial in trials for score in run.rungs(trial)]
    assert rungs["cost"].sum() == pytest.approx(sum(costs))
    measured = "document_speedup" in objectives
    assert ("document_speedup" in rungs) == measured
    assert not measured or (rungs["document_speedup"] > 0).all()
    assert all(("document_speedup" in record.values) == measured for record in records)
    said = "screened on part of the data and not trained in full: rungs.csv"
    assert f"{len(stopped)} more plan{'s were' if len(stopped) > 1 else ' was'} {said}" in " ".join(output.split())
    assert "ndcg_at_10" not in rungs
    assert rungs["of_unpruned"].iloc[0] == 1
