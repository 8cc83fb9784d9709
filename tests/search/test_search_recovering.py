"""`train.order=tune_prune_recover` with real Ray and real processes, which are killed with SIGKILL in every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from effir_dist.runs.objectives import Goal
from effir_dist.runs.run_folder import Run
from tests.search.test_search import EXACT, OPTIONS, finish, kill_tree, start, wait_for

SETTINGS = [
    *(option for option in OPTIONS if not option.startswith("train.steps")),
    "train.order=tune_prune_recover", "train.steps=8", "train.distill_embeddings=1",
]  # fmt: skip


SPACE = "drop_mlp: {max: 2}\nwidth_ratio: {low: 0.5, high: 1.0, step: 0.25}\n"
HALF_WIDTH = "width_ratio: {low: 0.5, high: 0.5, step: 0.25}\n"


def arguments(tmp_path: Path, model: Path, collection: Path, text: str = SPACE) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text(text)
    return ["--model", str(model), "--data", str(collection), "--space", str(space), "--name", "mine", "--trials", "3"]


def check_whole(run: Run, trials: int = 3) -> None:
    """A base, the search's trials, and a full recovery of each model of their front."""
    records = run.results()
    assert [r.trial for r in records] == [f"{i:04d}" for i in range(len(records))]
    assert {r.state for r in records} == {"complete"}
    assert [r.spec.stage for r in records[: 1 + trials]] == ["base", *[""] * trials]
    front = {r.trial for r in Goal().front(records[: 1 + trials])} - {"0000"}
    assert {r.spec.continues for r in records[1 + trials :]} == front
    assert {(r.spec.stage, r.steps) for r in records[1 + trials :]} == {("recovery", 6)}
    assert {r.steps for r in records[1 : 1 + trials]} == {2}
    table = pd.read_csv(run.report_folder / "front.csv", dtype={"trial": str})
    assert table["test_ndcg_at_10"].notna().all()
    kept = {r.trial for r in records if run.has_weights(r.trial)}
    assert kept == {"0000", *table["trial"]}


def test_a_retriever_is_scored_as_it_is_and_its_front_recovers_in_full(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    own = ["model.retriever=true", *SETTINGS]
    output = finish(start(tmp_path, *arguments(tmp_path, checkpoints["bert"], collection), *own), tmp_path)
    run = Run.open(tmp_path / "runs" / "mine")
    check_whole(run)
    assert run.result("0000").steps == 0
    said = " ".join(output.split())  # lines are wrapped
    assert "is a retriever already (model.retriever says so): it is scored as it is" in said
    assert "the search ended: all 3 trials are done; each model of the front had its full recovery" in said
    assert output.count("starting Ray") == 1


@pytest.mark.slow
def test_a_bare_model_is_tuned_first_and_nothing_is_lost_by_kills_in_every_stage(
    tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    path, own = tmp_path / "runs" / "mine", [*SETTINGS, "train.checkpoint_steps=4", "train.steps=8"]
    process = start(tmp_path, *arguments(tmp_path, checkpoints["llama"], collection), *own)
    seen: dict[str, bytes] = {}
    for moment in ("trials/0000/log", "importance/log", "trials/0002/log", "trials/0004/log"):
        wait_for(process, (path / moment).exists, tmp_path)
        kill_tree(process)
        records = {p.parent.name: p.read_bytes() for p in path.glob("trials/*/result.json")}
        assert seen.items() <= records.items()
        seen = records
        process = start(tmp_path, "--resume", "runs/mine")
    output = finish(process, tmp_path)
    run = Run.open(path)
    check_whole(run)
    assert run.result("0000").steps == 8
    assert "is a bare language model" in " ".join(output.split())
    assert all((path / "trials" / trial / "result.json").read_bytes() == record for trial, record in seen.items())

    whole = tmp_path / "whole"
    whole.mkdir()
    finish(start(whole, *arguments(whole, checkpoints["llama"], collection), *own), whole)
    there = whole / "runs" / "mine"
    for record in run.results():
        other = json.loads((there / "trials" / record.trial / "trial.json").read_text())
        assert other["key"] == record.spec.key
        assert Run.open(there).result(record.trial).values["ndcg_at_10"] == record.values["ndcg_at_10"]


@pytest.mark.slow
def test_two_workers_give_the_scores_of_one(tmp_path: Path, checkpoints: dict[str, Path], collection: Path) -> None:
    """A base and a model of half width that recovers with it as teacher, for the whole training at once."""
    found = []
    for workers in ("1", "2"):
        folder = tmp_path / workers
        folder.mkdir()
        own = ["--workers-per-trial", workers, "--cpus-per-trial", workers, *SETTINGS, *EXACT, "train.zero_stage=2"]
        own += ["--trials", "1", "train.recovery=1"]
        finish(start(folder, *arguments(folder, checkpoints["llama"], collection, HALF_WIDTH), *own), folder)
        run = Run.open(folder / "runs" / "mine")
        found.append({r.trial: (r.spec.key, r.values["ndcg_at_10"]) for r in run.results()})
    one, two = found
    assert len(one) == 2
    assert {trial: key for trial, (key, _) in one.items()} == {trial: key for trial, (key, _) in two.items()}
    assert [score for _, score in one.values()] == pytest.approx([score for _, score in two.values()], abs=1e-3)
