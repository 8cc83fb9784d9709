"""The smallest safe model: by a plain computation, and what is said where there is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import effir_dist
from effir_dist.core.errors import InputError
from effir_dist.core.measures import METRICS
from effir_dist.evaluate.intervals import Interval, difference_interval
from effir_dist.export import command as export_command
from effir_dist.export import selection
from effir_dist.report import command as report_command
from effir_dist.report.safety import Safety
from effir_dist.report.safety_text import card_text, safety_lines
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import SplitScores, TrialRecord
from effir_dist.runs.run_folder import Run, read_queries, write_queries
from tests.report.test_report import new_run
from tests.synthetic import record, synthetic_run


def per_query(run: Run, trial: str, split: str) -> dict[str, np.ndarray]:
    """Data set -> [1, Q] of one trial, straight from its file."""
    found = read_queries(run.queries_path(trial, split))
    return {name: np.array([[q["ndcg_at_10"] for q in part.values()]]) for name, part in found.items()}


def slowly(run: Run, split: str, limit: float) -> str:
    """The smallest safe trial, one interval after the other and without any table."""
    complete = [r for r in run.results() if r.complete]
    quality = {r.trial: r.values["ndcg_at_10"] for r in complete}
    whole = [r.trial for r in complete if r.values["parameters"] == r.values["full_parameters"]]
    reference, best = max(whole, key=lambda t: quality[t]), -1.0
    for trial in sorted(quality, key=lambda t: (run.result(t).values["parameters"], -quality[t])):
        if quality[trial] <= best or trial in whole:
            continue
        best = quality[trial]  # on the front: better than all that are smaller
        found = difference_interval(per_query(run, trial, split), per_query(run, reference, split))
        if found.low > -limit:
            return trial
    return ""


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_a_plain_computation_names(tmp_path: Path, seed: int) -> None:
    run = synthetic_run(tmp_path / "demo", 20, queries=160, seed=seed)
    safety = effir_dist.load_run(run.folder).safety
    assert (safety.split, safety.queries, safety.limit) == ("test", 320, 0.02)
    named = {limit: replace(safety, limit=limit).smallest for limit in (0.005, 0.02, 0.03, 0.05)}
    assert named == {limit: slowly(run, "test", limit) for limit in named}
    assert len({*named.values()}) > 1


def test_the_limit_is_the_runs_own(tmp_path: Path) -> None:
    run = made(tmp_path / "demo", SIZES[1:], (0.0, 0.03, 0.1), 300, 0.0)
    assert effir_dist.load_run(run.folder).safety.smallest == ""
    run.write_config({**run.config, "search": {**run.config["search"], "safe_loss": 0.04}})
    assert effir_dist.load_run(run.folder).safety.smallest == "0002"


def made(folder: Path, records: Sequence[TrialRecord], losses: Sequence[float], queries: int, noise: float) -> Run:
    """A run whose trials lose so much of each query's score, and noise on top: on the search's and on test queries."""
    rng = np.random.default_rng(0)
    run, hard = new_run(folder, []), rng.uniform(0.3, 0.9, queries)
    for each, loss in zip(records, losses, strict=True):
        values = np.clip(hard - loss + rng.normal(0, noise, queries), 0, 1)
        found = {f"q{i}": dict.fromkeys(METRICS, float(v)) for i, v in enumerate(values)}
        means = dict.fromkeys(METRICS, float(values.mean()))
        run.write_result(replace(each, values={**each.values, **means}, datasets={"toy": means}))
        for split in ("search", "test"):
            write_queries(run.queries_path(each.trial, split), {"toy": found})
        run.write_split_scores(each.trial, "test", SplitScores(means, {"toy": means}))
    return run


SIZES = (record(0, 0.6), record(1, 0.6), record(2, 0.59, 18_000_000, [1]), record(3, 0.5, 16_000_000, [1, 2]))


def test_the_better_unpruned_model_is_the_one_to_compare_with(tmp_path: Path) -> None:
    """Of the model as it is and the tuned one: beside the worse one, 0.025 would look like 0.005."""
    run = made(tmp_path / "demo", SIZES, (0.02, 0.0, 0.025, 0.1), 300, 0.0)
    frames = effir_dist.load_run(run.folder)
    assert frames.safety.reference == "0001"
    assert frames.safety.judged["0002"].value == pytest.approx(-0.025)
    assert frames.safety.smallest == ""
    assert [*frames.front["safe"]] == [None, False, False]
    assert safety_lines(frames.safety, frames.front) == [
        "No pruned model is safe: 2 models were judged, and no interval is above -0.02 (search.safe_loss).",
        "The nearest: 0002, total 79 %.",
        "nDCG@10 -0.025 [-0.025, -0.025] against the unpruned 0001, on 300 test queries.",
    ]


def test_where_more_queries_would_tell_their_number_is_said(tmp_path: Path) -> None:
    run = made(tmp_path / "demo", SIZES[1:], (0.0, 0.01, 0.1), 300, 0.1)
    frames = effir_dist.load_run(run.folder)
    found = frames.safety.judged["0002"]
    assert found.low < -0.02 < found.value
    needed = frames.safety.queries_needed("0002")
    assert needed is not None
    assert found.value - (found.value - found.low) * (300 / needed) ** 0.5 == pytest.approx(-0.02, abs=1e-4)
    assert safety_lines(frames.safety, frames.front)[-1].startswith(f"With that difference, about {needed:,} queries")
    assert frames.safety.queries_needed("0003") is None, "it is too much worse for any number"


def test_too_few_queries_call_nothing_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made(tmp_path / "demo", SIZES[1:], (0.0, 0.001, 0.1), 299, 0.0)
    frames = effir_dist.load_run(run.folder)
    assert frames.safety.judged["0002"].low > -0.002, "however good it is"
    assert [*frames.front["safe"]] == [None, None, None]
    assert not frames.front["smallest_safe"].any()
    said = "299 test queries are too few, 300 are needed"
    assert said in safety_lines(frames.safety, frames.front)[0]
    assert card_text(frames.safety, "0002") == ""
    with pytest.raises(InputError, match=said):
        selection.safe(run)
    monkeypatch.setattr(sys, "argv", ["export", str(run.folder), "--safe", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        export_command.main()
    assert not (tmp_path / "out").exists()


def test_without_test_scores_the_searchs_own_queries_judge_and_it_is_said(tmp_path: Path) -> None:
    run = made(tmp_path / "demo", SIZES[1:], (0.0, 0.001, 0.1), 300, 0.0)
    for trial in ("0002", "0003"):
        run.queries_path(trial, "test").unlink()
    frames = effir_dist.load_run(run.folder)
    assert (frames.safety.split, frames.safety.smallest) == ("search", "0002")
    assert "The search chose by the same queries" in safety_lines(frames.safety, frames.front)[-1]


def test_repeats_widen_the_interval_by_the_luck_of_training(tmp_path: Path) -> None:
    again = [record(4, 0.6, 18_000_000, [1], repeat_of="0002"), record(5, 0.6, repeat_of="0001")]
    run = made(tmp_path / "demo", [*SIZES[1:], *again], (0.0, 0.003, 0.1, 0.009, 0.002), 300, 0.0)
    found = effir_dist.load_run(run.folder).safety.judged["0002"]
    sides = [
        np.concatenate([per_query(run, t, "test")["toy"] for t in pair])
        for pair in (("0002", "0004"), ("0001", "0005"))
    ]
    expected = difference_interval(*({"toy": side} for side in sides))
    assert (found.value, found.low) == pytest.approx((expected.value, expected.low))
    assert found.low < found.value - 0.005


def test_all_who_show_a_front_name_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "demo", SIZES[1:], (0.0, 0.001, 0.1), 300, 0.0)
    report_command.main([str(run.folder)])
    output = capsys.readouterr().out
    assert (
        "Smallest safe model: 0002, total 79 %.\n  nDCG@10 -0.001 [-0.001, -0.001] against the unpruned 0001" in output
    )
    assert f"effir_dist.export {run.folder} --safe OUT" in output
    front = pd.read_csv(run.report_folder / "front.csv", dtype={"trial": str})
    assert [*front.loc[front["smallest_safe"], "trial"]] == ["0002"]
    assert front["safe_low"].iloc[1] == pytest.approx(-0.001)
    assert "**safe**" in card_text(effir_dist.load_run(run.folder).safety, "0002")
    assert "**not safe**" in card_text(effir_dist.load_run(run.folder).safety, "0003")
    (run.trial_folder("0002") / "model.safetensors").write_bytes(b"")
    assert selection.safe(run).trial == "0002"


def test_a_larger_model_that_failed_is_told_with_the_smaller_one_that_passed() -> None:
    judged = {"0001": Interval(-0.02, -0.03, -0.01), "0002": Interval(-0.01, -0.015, -0.005)}
    front = pd.DataFrame({"trial": [*judged], "parameters_fraction": [0.9, 0.8]})
    lines = safety_lines(Safety(0.02, "0000", "test", 300, judged, 2), front)
    assert lines[0] == "Smallest safe model: 0002, total 80 %."
    assert lines[-1] == "Larger and not safe: 0001. So luck may have helped."


def test_the_unpruned_model_is_kept_and_tested_though_a_pruned_one_beats_it() -> None:
    """Or a safe model would be judged by the queries that chose it."""
    records = [record(0, 0.60), record(1, 0.61, 18_000_000, [1])]
    assert [r.trial for r in Goal().front(records)] == ["0001"]
    assert Goal().kept(records) == {"0000", "0001"}
