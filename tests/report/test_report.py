"""Tables and the plot of a run, from records alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import effir_dist
from effir_dist.core import config, files
from effir_dist.core.errors import InputError
from effir_dist.report import command as report_command
from effir_dist.report import report_files
from effir_dist.report.compare import load
from effir_dist.report.frames import frames_of
from effir_dist.report.front_plot import front_figure
from effir_dist.report.front_text import front_text
from effir_dist.report.page import json_in_html
from effir_dist.report.page_data import page_data
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import RungScore, SplitScores, TrialRecord
from effir_dist.runs.run_folder import Run
from tests import ROOT
from tests.synthetic import FULL, record, spec, synthetic_run

LEARNING_RATE = {"train.learning_rate": 1e-4, "drop_3": True}


def new_run(folder: Path, records: list[TrialRecord], **settings: Any) -> Run:
    run = Run.create(folder, config.to_dict(config.replace(config.RunConfig(), settings)))
    for each in records:
        run.write_result(each)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    records = [
        record(0, 0.66, suggested=LEARNING_RATE),
        record(1, 0.60, 18_000_000, [3, 4, 5], width=0.8, suggested=LEARNING_RATE),
        record(2, None, 21_000_000, [4], reason="out of memory", suggested=LEARNING_RATE),
        record(3, 0.55, 19_000_000, [0, 1], width=0.9, suggested=LEARNING_RATE),
        record(4, 0.65, 21_500_000, [5], suggested=LEARNING_RATE),
    ]
    run = new_run(tmp_path / "demo", records)
    run.write_split_scores("0001", "test", SplitScores({"ndcg_at_10": 0.58}, {"pydocs": {"ndcg_at_10": 0.58}}))
    return run


def test_the_front_is_kept_apart_from_the_rest(run: Run) -> None:
    table = frames_of(run).front
    assert list(table["trial"]) == ["0000", "0004", "0001"]
    assert table["test_ndcg_at_10"].iloc[2] == 0.58
    assert table["test_ndcg_at_10"].iloc[:2].isna().all(), "not scored on test yet"
    assert list(table["dropped_mlp"]) == ["", "5", "3,4,5"]


def test_trials_hold_every_trial_and_every_promised_column(run: Run) -> None:
    table = frames_of(run).trials
    promised = "trial state parameters parameters_fraction ndcg_at_10 test_ndcg_at_10 dropped_mlp width_ratio"
    promised += " train_seconds score_seconds reason recall_at_100 mrr_at_10 dropped_attention total_seconds"
    assert set(promised.split()) <= set(table.columns)
    assert set(promised.split()) <= set(frames_of(run).front.columns)
    assert list(table["trial"]) == ["0000", "0001", "0002", "0003", "0004"]
    failed = table.iloc[2]
    assert (failed["state"], failed["reason"], failed["on_front"]) == ("failed", "out of memory", False)
    assert np.isnan(failed["ndcg_at_10"])
    assert list(table["train.learning_rate"]) == [1e-4] * 5
    assert "drop_3" not in table, "the plan says it already"


def test_several_data_sets_have_a_column_each(tmp_path: Path) -> None:
    scores = {"scifact": {"ndcg_at_10": 0.7}, "nfcorpus": {"ndcg_at_10": 0.3}}
    run = new_run(tmp_path / "demo", [record(0, 0.5, datasets=scores), record(1, None, 9, [1])])
    run.write_split_scores("0000", "test", SplitScores({"ndcg_at_10": 0.4}, {"scifact": {"ndcg_at_10": 0.6}}))
    table = frames_of(run).trials
    assert table["ndcg_at_10[nfcorpus]"].iloc[0] == 0.3
    assert table["test_ndcg_at_10[scifact]"].iloc[0] == 0.6


def write(run: Run) -> dict[str, int]:
    """File -> its size, of the report of a run."""
    return {path.name: path.stat().st_size for path in report_files.write_run(load([run])[0], run.report_folder)}


NAMES = ("trials", "front", "scores", "hypervolume", "drops")
TABLES = {f"{name}.{kind}" for name in NAMES for kind in ("csv", "parquet")}


def test_the_command_writes_the_report_mid_run(run: Run) -> None:
    run.write_spec(spec(5))
    done = subprocess.run(
        [sys.executable, "-m", "effir_dist.report", str(run.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "18,000,000" in done.stdout
    copied = ("wrote", "Export")  # paths and commands stay whole
    assert max(len(line) for line in done.stdout.splitlines() if not line.strip().startswith(copied)) <= 80
    assert f"wrote {run.report_folder / 'report.html'}" in done.stdout
    said = " ".join(done.stdout.split())
    assert f"beside it: {', '.join(NAMES)} (CSV and parquet); front (PNG and SVG)" in said
    for name in {*TABLES, "front.png", "front.svg"}:
        assert (run.report_folder / name).stat().st_size > 0
    assert (run.report_folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (run.report_folder / "front.csv").read_text().splitlines()[3].startswith("0001,complete,18000000,")


def test_a_run_without_a_finished_trial(tmp_path: Path) -> None:
    run = new_run(tmp_path / "demo", [])
    run.write_spec(spec(0))
    with pytest.raises(InputError, match="no trial of .*demo has finished yet"):
        report_command.main([str(run.folder)])
    with pytest.raises(InputError, match="no trial of .*demo has finished yet"):
        effir_dist.load_run(run.folder)
    run.write_config(run.config, {**run.extra, "ended": "search.time_budget: 80 s are over"})
    with pytest.raises(InputError, match=r"of .*demo finished before .* \(search.time_budget: 80 s are over\)"):
        report_command.main([str(run.folder)])
    assert not run.report_folder.exists()


def test_a_run_where_all_failed_still_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path / "demo", [record(0, None, reason="NaN loss")])
    report_command.main([str(run.folder)])
    assert "NaN loss" in (run.report_folder / "trials.csv").read_text()
    assert "no trial is complete" in capsys.readouterr().out
    assert not (run.report_folder / "front.png").exists()


def test_a_trial_that_failed_before_its_plan(tmp_path: Path) -> None:
    early = TrialRecord(spec(1), "failed", reason="no such file")
    run = new_run(tmp_path / "demo", [record(0, 0.66), early])
    assert set(write(run)) == {"report.html", *TABLES, "front.png", "front.svg"}
    assert f",{FULL}," in (run.report_folder / "trials.csv").read_text()
    assert np.isnan(frames_of(run).trials["width_ratio"].iloc[1]), "it has no plan"


def test_a_run_with_scores_shows_its_widths(run: Run) -> None:
    with io.BytesIO() as packed:
        np.savez(packed, activation=np.random.default_rng(0).random((6, 1536)))
        files.write_bytes_atomic(run.importance_folder / "neurons.npz", packed.getvalue())
    importance = dict.fromkeys(("mlp", "attention", "block"), [0.1] * 6)
    files.write_json_atomic(run.importance_folder / "importance.json", importance)
    assert set(write(run)) >= {f"widths.{kind}" for kind in ("csv", "parquet", "png", "svg")}
    table = pd.read_csv(run.report_folder / "widths.csv")
    assert table[table["width_ratio"] == 0.5]["width"].sum() == 0.5 * 6 * 1536


def test_scores_below_full_training_have_a_table_of_their_own(run: Run) -> None:
    facts = run.result("0001").facts
    for number, trial in ((0, "0001"), (0, "0007"), (1, "0007")):
        values = {**run.result("0001").values, "ndcg_at_10": 0.25, "query_speedup": 2.0}
        run.write_rung(trial, RungScore(number, 0.25 * number, 0.1, facts, values))
    assert {"rungs.csv", "rungs.parquet"} <= set(write(run))
    table = pd.read_csv(run.report_folder / "rungs.csv", dtype={"trial": str})
    assert list(table["trial"]) == ["0001", "0007", "0007"]
    assert list(table["trained_in_full"]) == [True, False, False]
    row = table.iloc[2]
    assert (row["rung"], row["share"], row["dropped_mlp"], row["width_ratio"]) == (1, 0.25, "3,4,5", 0.8)
    names = ("parameters", "rung_ndcg_at_10", "cost", "query_speedup")
    assert tuple(row[name] for name in names) == (18_000_000, 0.25, 0.1, 2.0)
    assert "ndcg_at_10" not in table, "a column of that name would be taken for the trials'"


def random_run(folder: Path, count: int) -> Run:
    rng = np.random.default_rng(count)
    records = [record(0, 0.66)]
    for number in range(1, count):
        dropped, width = list(range(rng.integers(0, 4))), float(rng.integers(5, 11)) / 10
        kept = 1 - 0.05 * len(dropped) - 0.3 * (1 - width)
        quality = float(0.66 * kept + rng.normal(0, 0.02))
        records.append(record(number, quality, int(FULL * kept), dropped, width=width))
    return new_run(folder, records)


@pytest.mark.parametrize("count", [1, 3, 14, 200])
def test_labels_cover_no_label_and_stay_inside(tmp_path: Path, count: int) -> None:
    run = random_run(tmp_path / "demo", count)
    figure = front_figure(frames_of(run).trials, "a $title_ with 100 %")
    ax = figure.axes[0]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert boxes, "at least one trial of the front has its label"
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(ax.bbox.x0 <= b.x0 and b.x1 <= ax.bbox.x1 and b.y1 <= ax.bbox.y1 for b in boxes)


def test_the_step_line_holds_the_best_score_of_that_size_or_less(run: Run) -> None:
    table = frames_of(run).trials
    ax = front_figure(table, "title").axes[0]
    x, y = (np.asarray(v, float) for v in ax.lines[0].get_data())
    for size in np.linspace(18.1, 22.8, 30):
        reached = table[table["parameters"] / 1e6 <= size]["ndcg_at_10"].max()
        assert y[np.searchsorted(x, size, side="right") - 1] == reached


def test_failed_trials_are_counted_below_the_plot(run: Run) -> None:
    figure = front_figure(frames_of(run).trials, "title", "demo")
    assert "demo: 5 trials, 1 failed (not shown)" in [t.get_text() for t in figure.texts]


def test_data_cannot_end_the_script_it_stands_in() -> None:
    data = {"reason": "</script><script>alert(1)</script>", "more": "<!--<script>&amp;"}
    text = json_in_html(data)
    assert not set("<>&") & set(text)
    assert json.loads(text) == data


@pytest.mark.parametrize("module", ["effir_dist", "effir_dist.report"])
def test_an_import_loads_nothing_heavy(module: str) -> None:
    heavy = {"pandas", "matplotlib", "torch", "ray", "plotly", "optuna"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    root = ROOT
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"


def staged(folder: Path) -> Run:
    """A base, a trial, its full recovery, which is better, and another one's, which is worse."""
    return new_run(folder, [
        record(0, 0.66, stage="base"),
        record(1, 0.55, 18_000_000, [3, 4]),
        record(2, 0.50, 16_000_000, [2, 3, 4]),
        record(3, 0.60, 18_000_000, [3, 4], stage="recovery", continues="0001"),
        record(4, 0.49, 16_000_000, [2, 3, 4], stage="recovery", continues="0002"),
    ])  # fmt: skip


def test_stages_have_columns_and_a_better_recovery_stands_for_its_trial(tmp_path: Path) -> None:
    frames = frames_of(staged(tmp_path / "demo"))
    assert [*frames.trials["stage"]] == ["base", "", "", "recovery", "recovery"]
    assert [*frames.trials["continues"]] == ["", "", "", "0001", "0002"]
    assert [*frames.front["trial"]] == ["0000", "0003", "0002"]
    lines = front_text(frames.front.assign(run="demo")).splitlines()
    assert "recovery of 0001" in lines[3], "below the two lines of the head"
    assert "stage" not in frames_of(new_run(tmp_path / "plain", [record(0, 0.66)])).trials


def test_a_wide_front_fits_80_columns(tmp_path: Path) -> None:
    """Of two runs, with stages, attentions, two costs, speed-ups, test and held-out scores."""
    blocks = range(10, 28)
    speed = {"document_speedup": 12.345, "query_speedup": 10.2, "index_bytes": 1536, "block_parameters": 5_000_000_000}
    speed["full_index_bytes"] = 1536
    speed |= {"full_block_parameters": 6_000_000_000, "block_parameters_fraction": 5 / 6}
    staged = {"stage": "recovery", "continues": "0001"}
    found = record(2, 0.55, 7_000_000_000, blocks, full=8_000_000_000, width=0.4375, values=speed, **staged)
    goal = Goal(("index_bytes", "document_speedup", "ndcg_at_10"))
    found = replace(found, facts=replace(found.facts, dropped_attention=tuple(blocks)))
    run = new_run(tmp_path / "demo", [found], **{"search.objectives": goal.objectives})
    for split in ("test", "held_out"):
        run.write_split_scores("0002", split, SplitScores({"ndcg_at_10": 0.5}, {}))
    front = frames_of(run).front
    table = pd.concat([front.assign(run="a-run-of-mistral-7b"), front.assign(run="b")])
    lines = front_text(table, goal).splitlines()
    assert max(map(len, lines)) <= 80
    for needed in ("0002", "83.3 %", "87.5 %", "0.5500", "0.5000", "12.35×"):
        assert needed in lines[-1]


def test_the_page_has_the_safe_model_the_stages_and_the_axis_of_the_blocks(tmp_path: Path) -> None:
    data = page_data(load([staged(tmp_path / "demo")]))
    assert [t["stage"] for t in data["trials"]] == ["base", "", "", "recovery of 0001", "recovery of 0002"]
    assert [t["stands"] for t in data["trials"]] == [True, False, True, True, False]
    assert data["axis"] == "parameters", "these records lack the blocks'"
    run = synthetic_run(tmp_path / "judged", 20, queries=160, seed=3)
    frames, data = frames_of(run), page_data(load([run]))
    safety = data["runs"][0]["safety"]
    assert safety["smallest"] == frames.safety.smallest != ""
    assert {t: each["safe"] for t, each in safety["judged"].items()} == dict(
        zip(frames.front["trial"][1:], frames.front["safe"][1:], strict=True)
    )
    assert safety["text"].startswith(f"Smallest safe model: {frames.safety.smallest}, blocks ")
    assert data["axis"] == "block_parameters"


def test_both_sizes_order_the_plans_of_a_model_alike(tmp_path: Path) -> None:
    """So plots offer the one without embeddings first, and objectives stay as they were."""
    trials = frames_of(synthetic_run(tmp_path / "demo", 30)).trials
    by = [trials.sort_values([name, "trial"])["trial"].tolist() for name in ("parameters", "block_parameters")]
    assert by[0] == by[1]
    front = frames_of(synthetic_run(tmp_path / "again", 30)).front
    figure = front_figure(trials, "title")
    figure.draw_without_rendering()
    ax = figure.axes[0]
    assert ax.get_xlabel() == "parameters without embeddings (million)"
    blue = next(line for line in ax.lines if line.get_label() == "Pareto front")
    assert sorted(blue.get_xdata()) == pytest.approx(sorted(front["block_parameters"] / 1e6))
    labels = [label.get_text() for label in ax.child_axes[0].get_xticklabels()]
    row = trials.iloc[0]
    rest = 100 * (1 - row["block_parameters"] / row["parameters"])
    assert f"50 ({50 + rest / 2:.0f}) %" in labels, "half of the blocks, and what that is of all"
