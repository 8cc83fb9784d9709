"""A run in pandas: documented columns, intervals that are those of `intervals`, runs side by side, records refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, distribution_to_json

import effir_dist
from effir_dist.core.errors import InputError
from effir_dist.core.measures import METRICS
from effir_dist.evaluate.intervals import difference_interval, mean_interval
from effir_dist.importance.store import drop_order
from effir_dist.models.facts import PlanFacts
from effir_dist.report import command as report_command
from effir_dist.report.compare import common_trials, load, same_queries
from effir_dist.report.progress import drops_table, hypervolume_table
from effir_dist.report.score_tables import INTERVAL
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import RungScore
from effir_dist.runs.run_folder import Run, read_queries
from tests import ROOT
from tests.synthetic import synthetic_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return synthetic_run(tmp_path / "demo", 14, blocks=6, failed=(4,))


def test_every_column_is_documented(run: Run) -> None:
    text = (ROOT / "docs/reference/report.md").read_text()
    documented = set(re.findall(r"`([a-z_0-9\[\]]+)`", text))
    frames = effir_dist.load_run(run.folder)
    assert set(frames.queries.columns) == {"trial", "split", "dataset", "query_id", *METRICS}
    for frame in (frames.trials, frames.front, frames.queries, frames.scores):
        plain = {name.replace("[scifact]", "[dataset]").replace("[fiqa]", "[dataset]") for name in frame.columns}
        assert plain - documented == {"train.learning_rate"}.intersection(plain)


def test_the_frames_hold_what_the_records_hold(run: Run) -> None:
    frames = effir_dist.load_run(str(run.folder))
    assert list(frames.trials["trial"]) == [f"{n:04d}" for n in range(14)]
    scored = [r.values["ndcg_at_10"] for r in run.results() if r.complete]
    assert list(frames.trials["ndcg_at_10"].dropna()) == scored
    tested = set(run.split_scores("test"))
    assert {*frames.front["trial"]} <= tested <= {*frames.front["trial"], "0000"}, (
        "what was scored on test is the front"
    )
    scores = read_queries(run.queries_path("0003"))
    own = frames.queries[(frames.queries["trial"] == "0003") & (frames.queries["split"] == "search")]
    assert {(r.dataset, r.query_id): r.ndcg_at_10 for r in own.itertuples()} == {
        (d, q): v["ndcg_at_10"] for d, part in scores.items() for q, v in part.items()
    }


def test_ids_that_look_like_numbers_or_nothing_stay_text(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "demo", 1, datasets=("NA", "007"))
    text = run.queries_path("0000").read_text().replace("q0,", "NA,").replace("q1,", "01,")
    run.queries_path("0000").write_text(text)
    queries = effir_dist.load_run(run.folder).queries
    assert {"NA", "01"} <= set(queries["query_id"])
    assert {"NA", "007"} == set(queries["dataset"])


def test_intervals_are_those_of_one_trial_at_a_time(run: Run) -> None:
    table = effir_dist.load_run(run.folder).trials.set_index("trial")

    def sample(trial: str) -> dict[str, np.ndarray]:
        scores = read_queries(run.queries_path(trial))
        return {name: np.array([[q["ndcg_at_10"] for q in part.values()]]) for name, part in scores.items()}

    for trial in ("0001", "0009"):
        alone, against = mean_interval(sample(trial)), difference_interval(sample(trial), sample("0000"))
        names = ["ndcg_at_10", *(f"ndcg_at_10_{name}" for name in INTERVAL)]
        expected = (alone.value, alone.low, alone.high, against.value, against.low, against.high)
        assert tuple(table.loc[trial, names]) == pytest.approx(expected, abs=1e-12)
    assert tuple(table.loc["0000", names[3:]]) == (0, 0, 0)
    assert table.loc["0004", names[1:]].isna().all()


def test_a_trial_scored_on_other_queries_has_no_interval(run: Run) -> None:
    path = run.queries_path("0003")
    path.write_text(path.read_text().replace("fiqa,q7,", "fiqa,q700,"))
    table = effir_dist.load_run(run.folder).trials.set_index("trial")
    assert np.isnan(table.loc["0003", "ndcg_at_10_low"])
    assert table.loc["0002", "ndcg_at_10_low"] > 0


def test_the_recipe_is_dropping_in_order_of_importance(run: Run) -> None:
    table, order = effir_dist.load_run(run.folder).trials, drop_order(run)
    for row in table.itertuples():
        gone = {int(b) for b in row.dropped_mlp.split(",") if b}
        assert row.recipe == (bool(gone) and gone == set(order[: len(gone)]))
    assert table["recipe"].sum() >= 2


def test_the_hypervolume_ends_where_the_search_says(run: Run) -> None:
    records = run.results()
    goal = Goal()
    table = hypervolume_table(records, goal, goal.scale([records]))
    assert len(table) == 14
    assert table["hypervolume"].is_monotonic_increasing
    assert table["hypervolume"].iloc[-1] == pytest.approx(goal.hypervolume(records))
    assert table["cost_seconds"].iloc[-1] == pytest.approx(sum(r.values.get("total_seconds", 48.0) for r in records))
    ends = sorted(record.finished for record in records)
    stopped = [RungScore(0, 0.0, 0.1, PlanFacts(), {"total_seconds": 7.0}, finished=end) for end in ("", ends[4])]
    more = hypervolume_table(records, goal, goal.scale([records]), stopped)["cost_seconds"] - table["cost_seconds"]
    assert [*more.round(6)] == [7.0] * 4 + [14.0] * 10, "what stopped on a lower rung cost as well"


def test_what_the_front_drops(run: Run) -> None:
    frames = effir_dist.load_run(run.folder)
    table = drops_table(frames.trials, 6, drop_order(run))
    plans = [text.split(",") for text in frames.front["dropped_mlp"]]
    assert list(table["front_share"]) == [sum(str(b) in plan for plan in plans) / len(plans) for b in range(6)]
    assert [*table.sort_values("importance_rank")["block"]] == drop_order(run)


def test_two_runs_are_one_front(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = synthetic_run(tmp_path / "other", 20, blocks=6, seed=1)
    table = common_trials(load([run, other]))
    best = table[table["on_front"]].sort_values("parameters")
    assert best["ndcg_at_10"].is_monotonic_increasing
    for row in table[table["state"] == "complete"].itertuples():
        better = (best["parameters"] <= row.parameters) & (best["ndcg_at_10"] >= row.ndcg_at_10)
        assert better.any(), "every trial is on the front or behind it"
    monkeypatch.chdir(tmp_path)
    report_command.main([str(run.folder), str(other.folder)])
    written = pd.read_csv("report-demo-other/front.csv", dtype={"trial": str})
    assert set(zip(written["run"], written["trial"], strict=True)) == set(zip(best["run"], best["trial"], strict=True))
    assert (tmp_path / "report-demo-other/report.html").exists()
    records = [r.results() for r in (run, other)]
    goal = Goal()
    tables = [hypervolume_table(r, goal, goal.scale(records)) for r in records]
    assert all(t["hypervolume"].iloc[-1] <= goal.hypervolume(r) + 1e-12 for t, r in zip(tables, records, strict=True))


def test_runs_on_other_data_are_not_compared(tmp_path: Path, run: Run) -> None:
    other = synthetic_run(tmp_path / "other", 2, datasets=("nfcorpus",))
    with pytest.raises(InputError, match=r"different data sets \(demo: scifact, fiqa; other: nfcorpus\)"):
        report_command.main([str(run.folder), str(other.folder)])
    with pytest.raises(InputError, match="the same run is named twice"):
        report_command.main([str(run.folder), str(run.folder)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ndcg_at_10": "high"}, "ndcg_at_10 must be a number from 0 to 1, got 'high'"),
        ({"ndcg_at_10": 62.4}, "ndcg_at_10 must be a number from 0 to 1, got '62.4'"),
        ({"ndcg_at_10": None}, "ndcg_at_10 must be a number from 0 to 1, got 'None'"),
        ({"parameters": -5}, "parameters must be a whole number above 0, got '-5'"),
        ({"parameters": True}, "parameters must be a whole number above 0"),
        ({"state": "done"}, "state must be 'complete' or 'failed', got 'done'"),
        ({"number": 7}, "number must be 3, its folder's, got 7"),
        ({"dropped_mlp": "0,1"}, "dropped_mlp must be a list of whole numbers"),
        ({"mlp_widths": [1.5]}, "mlp_widths must be a list of whole numbers"),
        ({"datasets": {"a": 3}}, "datasets must be an object of data sets"),
        ({"train_seconds": "fast"}, "train_seconds must be a number, 0 or more"),
        ({"suggested": []}, "suggested must be an object"),
        ({"schema": 99}, "was written by a newer version of effir_dist"),
        ({"schema": "new"}, "was written by a newer version of effir_dist"),
    ],
)
def test_a_record_edited_by_hand_is_named(run: Run, change: dict[str, Any], said: str) -> None:
    path = run.trial_folder("0003") / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=re.escape(said)) as error:
        report_command.main([str(run.folder)])
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", "dataset,query_id,ndcg_at_10,recall_at_100,mrr_at_10\nfiqa,q1,x,0,0\n",
     "dataset,query_id,ndcg_at_10,recall_at_100,mrr_at_10\nfiqa,q1,7,0,0\n",
     "dataset,query_id,ndcg_at_10,recall_at_100,mrr_at_10\nfiqa,q1,1,0,0\nfiqa,q1,1,0,0\n"],
    ids=["empty", "other columns", "no number", "above 1", "a query twice"],
)  # fmt: skip
def test_per_query_scores_edited_by_hand_are_named(run: Run, text: str) -> None:
    run.queries_path("0003").write_text(text)
    with pytest.raises(InputError, match=r"0003/queries.csv must hold dataset, query_id, ndcg_at_10"):
        effir_dist.load_run(run.folder)


def test_suggested_values_edited_by_hand_are_named(run: Run) -> None:
    path = run.trial_folder("0003") / "result.json"
    path.write_text(path.read_text().replace('"width_ratio": 1.0,', '"width_ratio": 7.0,', 1))
    with pytest.raises(InputError, match="the suggested values of trial 0003 do not fit their distributions"):
        report_command.main([str(run.folder)])


def test_importance_scores_edited_by_hand_are_named(run: Run) -> None:
    (run.importance_folder / "importance.json").write_text('{"mlp": "high"}')
    with pytest.raises(InputError, match=r"importance.json holds no importance of layers"):
        report_command.main([str(run.folder)])


def test_settings_of_mixed_types_fit_in_parquet(run: Run) -> None:
    for trial, ranking in (("0001", "slimming"), ("0002", 3)):
        path = run.trial_folder(trial) / "result.json"
        record = json.loads(path.read_text())
        record["suggested"]["prune.ranking"] = ranking
        record["distributions"]["prune.ranking"] = distribution_to_json(CategoricalDistribution(["slimming", 3]))
        path.write_text(json.dumps(record))
    report_command.main([str(run.folder)])
    table = pd.read_parquet(run.report_folder / "trials.parquet")
    assert list(table["prune.ranking"].iloc[1:3]) == ["slimming", "3"]
    numbers = pd.read_csv(run.report_folder / "trials.csv")["ndcg_at_10"]
    pd.testing.assert_series_equal(table["ndcg_at_10"], numbers)


def test_every_score_says_what_it_is_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frames = effir_dist.load_run(run.folder)
    scored = frames.trials[frames.trials["state"] == "complete"]
    assert (scored["documents"] == 2000).all()  # of two data sets
    assert (frames.front["test_documents"] == 2000).all()
    counted = frames.queries.groupby(["trial", "split", "dataset"]).size()
    for row in frames.scores[frames.scores["dataset"] != "*"].itertuples():
        assert (row.queries, row.documents) == (counted[row.trial, row.split, row.dataset], 1000)
        assert row.all_documents == 5000
    report_command.main([str(run.folder)])
    output = capsys.readouterr().out
    one = next(frames.scores[frames.scores["dataset"] != "*"].itertuples())
    assert f"{one.dataset} {one.queries} queries, 1,000 of 5,000 documents" in " ".join(output.split())
    assert "\nnDCG@10 is measured on: " in output
    assert "\ntest is measured on: " in output


def test_runs_scored_on_other_documents_are_told_apart(tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / name, 3, blocks=6) for name in ("whole", "cut")]
    assert same_queries(load(runs))
    path = runs[1].trial_folder("0000") / "result.json"
    path.write_text(path.read_text().replace('"documents": 1000', '"documents": 500'))
    assert not same_queries(load(runs))
