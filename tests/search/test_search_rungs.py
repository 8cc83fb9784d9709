"""Searches with rungs: real Ray, real processes, killed with SIGKILL while promoted trials train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from effir_dist.runs.run_folder import Run
from tests.search.test_search import OPTIONS, finish, kill_tree, start, wait_for


def options(**search: Any) -> list[str]:
    own = ("search.sampler", "search.scheduler", "train.steps")
    plain = [option for option in OPTIONS if not option.startswith(own)]
    return [*plain, "train.steps=8", *(f"search.{name}={value}" for name, value in search.items())]


def arguments(tmp_path: Path, checkpoints: dict[str, Path], collection: Path) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text("drop_mlp: {max: 3}\nwidth_ratio: {low: 0.25, high: 1.0, step: 0.25, groups: 2}\n")
    return ["--model", str(checkpoints["bert"]), "--data", str(collection), "--space", str(space), "--name", "mine"]


def heads(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("trials/*/trial.json"))]


@pytest.mark.slow
def test_a_ladder_killed_while_a_promoted_trial_trains_loses_nobody(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    path = tmp_path / "runs" / "mine"
    climb = options(scheduler="asha", rungs="[0.0,0.5]", promotion_fraction=0.5, sampler="random")
    process = start(tmp_path, *arguments(tmp_path, checkpoints, collection), "--trials", "3", *climb)

    def promoted() -> bool:
        return any(head["rung"] == 1 and not Run(path).reached(head) for head in heads(path))

    wait_for(process, promoted, tmp_path, 400)
    before = {head["trial"]: head["rung"] for head in heads(path)}
    kill_tree(process)
    scored = {trial: (path / "trials" / trial / "rungs.json").read_bytes() for trial in before
              if (path / "trials" / trial / "rungs.json").exists()}
    output = finish(start(tmp_path, "--resume", "runs/mine"), tmp_path)

    run, after = Run.open(path), {head["trial"]: head for head in heads(path)}
    assert "Traceback" not in output
    assert all(run.reached(head) for head in after.values())
    assert all(after[trial]["rung"] >= rung for trial, rung in before.items())
    for trial, text in scored.items():  # what was scored before is not scored again
        known = json.loads(text)["rungs"]
        assert run.rungs(trial)[: len(known)] == known
    records = run.results()
    assert len(records) == 3
    for record in records:
        assert record["trial"] == "0000" or [rung["rung"] for rung in record["rungs"]] == [0, 1]
    middle = [rung for head in after.values() for rung in run.rungs(head["trial"]) if rung["rung"] == 1]
    assert len(middle) >= 2
    assert all(rung["steps"] == 4 and rung["cost"] > 0 for rung in middle)
    waiting = {t for t in after if not run.finished(t) and len(run.rungs(t)) == 2}
    assert {p.parent.name for p in path.glob("trials/*/checkpoint.safetensors")} == waiting
    table = pd.read_csv(path / "report" / "trials.csv", dtype={"trial": str})
    assert set(table["trial"]) == {r["trial"] for r in records}


@pytest.mark.parametrize(
    "objectives", ["[parameters,ndcg_at_10]", pytest.param("[document_speedup,ndcg_at_10]", marks=pytest.mark.slow)]
)
def test_a_guided_search_screens_first_and_shows_what_it_weeded_out(
    objectives: str, tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    path = tmp_path / "runs" / "mine"
    guided = [*options(screening_budget=0.5, objectives=objectives), "--trials", "6"]
    output = finish(start(tmp_path, *arguments(tmp_path, checkpoints, collection), *guided), tmp_path)
    run = Run.open(path)
    records, stopped = run.results(), [head for head in heads(path) if not run.finished(head["trial"])]
    assert len(records) == 6
    assert records[0]["parameters"] == records[0]["full_parameters"]
    assert stopped
    assert all(len(run.rungs(head["trial"])) == 1 for head in [*records, *stopped])
    rungs = pd.read_csv(path / "report" / "rungs.csv", dtype={"trial": str})
    assert set(rungs["trial"]) == {head["trial"] for head in [*records, *stopped]}
    costs = [rung["cost"] for head in [*records, *stopped] for rung in run.rungs(head["trial"])]
    assert rungs["cost"].sum() == pytest.approx(sum(costs))
    measured = "document_speedup" in objectives
    assert ("document_speedup" in rungs) == measured
    assert not measured or (rungs["document_speedup"] > 0).all()
    assert all(("document_speedup" in record) == measured for record in records)
    assert f"{len(stopped)} more (rungs.csv)" in output
