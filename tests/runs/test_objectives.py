"""Objectives by name: what may be one, the front and hypervolume of three, and constraints that steer the search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.measures import parse_constraint
from effir_dist.core.settings import RunConfig
from effir_dist.models.families.registry import BACKBONES
from effir_dist.report.frames import load_run
from effir_dist.report.front_plot import front_figure
from effir_dist.report.study_db import Mirror
from effir_dist.runs import pareto
from effir_dist.runs.objectives import Goal, goal_of
from effir_dist.runs.records import TrialRecord
from effir_dist.search import checks
from effir_dist.search.strategy import space_file
from tests import needs
from tests.driven import MODEL, SPACE, drive, make_run
from tests.synthetic import record, synthetic_run

THREE = ("index_bytes", "document_speedup", "ndcg_at_10")
WIDE = {"drop_mlp": {"max": 5}, "width_ratio": {"low": 0.1, "high": 1.0, "step": 0.02}}
CUT = {**SPACE, "model.dimension": [384, 256, 128]}


def points(seed: int, count: int, grid: int, dimensions: int = 3) -> list[tuple[float, ...]]:
    """Losses on a coarse grid, so that ties and duplicates are common."""
    values = np.random.default_rng(seed).integers(0, grid + 1, (count, dimensions)) / grid
    return [tuple(map(float, row)) for row in values]


@pytest.mark.parametrize("grid", [3, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_the_front_of_three_is_optunas(seed: int, grid: int) -> None:
    losses = points(seed, 50, grid)
    study = optuna.create_study(directions=["minimize"] * 3)
    study.add_trials([optuna.trial.create_trial(values=list(p)) for p in losses])
    found = pareto.non_dominated_losses(losses)
    assert {losses[i] for i in found} == {tuple(t.values) for t in study.best_trials}
    assert len({losses[i] for i in found}) == len(found), "of equal points one stays"


@pytest.mark.parametrize("grid", [3, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_the_hypervolume_of_three_is_optunas(seed: int, grid: int) -> None:
    compute_hypervolume = needs.module("optuna._hypervolume").compute_hypervolume
    losses = points(seed, 30, grid)
    reference = (0.9, 1.0, 0.8)
    inside = np.array([p for p in losses if all(v < r for v, r in zip(p, reference, strict=True))]).reshape(-1, 3)
    expected = compute_hypervolume(inside, np.array(reference)) if len(inside) else 0.0
    assert pareto.hypervolume_losses(losses, reference) == pytest.approx(expected, abs=1e-12)


def test_three_dimensions_by_hand() -> None:
    assert pareto.hypervolume_losses([(0.5, 0.5, -1.0)], (1, 1, 0)) == pytest.approx(0.25)
    assert pareto.hypervolume_losses([(0.5, 0.5, -1.0), (0.0, 0.5, -0.5)], (1, 1, 0)) == pytest.approx(0.25 + 0.125)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["parameters"], "ndcg_at_10 and one or two costs, got ['parameters']; the costs: parameters, block"),
        (["parameters", "index_bytes", "query_speedup", "ndcg_at_10"], "one or two costs"),
        (["parameters", "parameters", "ndcg_at_10"], "one or two costs"),
        (["recall_at_100", "ndcg_at_10"], "one or two costs"),
        (["documents_per_second", "ndcg_at_10"], "different machines would not compare; use 'document_speedup'"),
        (["parameters_fraction", "ndcg_at_10"], "is no objective; use 'parameters'"),
        (["paramters", "ndcg_at_10"], "unknown objective 'paramters'; did you mean 'parameters'?"),
    ],
)
def test_bad_objectives_are_named(values: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        c.replace(RunConfig(), {"search.objectives": values})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parameters < 0.5", "is no constraint; expected NAME <= NUMBER"),
        ("parameters <= half", "is no constraint"),
        ("parameters <= 1-2", "is no constraint"),
        ("parmeters <= 0.5", "unknown measure 'parmeters'; did you mean 'parameters'?"),
        ("parameters <= 20000000", "must bound a share of the unpruned model's, such as 0.5"),
    ],
)
def test_bad_constraints_are_named(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        c.replace(RunConfig(), {"search.constraints": [text]})
    assert f"search.constraints: {text!r}" in str(error.value)
    assert said in str(error.value)


def test_shares_and_absolute_values_of_constraints() -> None:
    baseline = {"ndcg_at_10": 0.6}
    values = {
        "ndcg_at_10": 0.57,
        "parameters": 50,
        "full_parameters": 100,
        "query_latency_ms": 4.0,
        "query_speedup": 2.0,
    }

    def kept(text: str, other: dict[str, Any] | None = baseline) -> bool | None:
        violation = parse_constraint(text).violation(values, other or {})
        return None if violation is None else violation <= 0

    assert [kept("ndcg_at_10 >= 0.95"), kept("ndcg_at_10 >= 0.96")] == [True, False]
    assert [kept("parameters <= 0.5"), kept("parameters <= 0.49")] == [True, False]
    assert [kept("query_speedup >= 2"), kept("query_latency_ms <= 3.9")] == [True, False]
    assert kept("ndcg_at_10 >= 0.9", None) is None, "not known before the unpruned model is scored"


def test_a_constraint_that_no_plan_can_keep_ends_before_it_starts() -> None:
    space = space_file.parse_space(SPACE, "x")
    config = c.replace(RunConfig(), {"search.constraints": ["parameters <= 0.5"]})
    with pytest.raises(InputError, match=r"'parameters <= 0.5' cannot hold: the smallest plan .* has 72.8 %"):
        checks.check(space, config, MODEL)
    checks.check(space, c.replace(config, {"search.constraints": ["parameters <= 0.73"]}), MODEL)
    with pytest.raises(InputError, match="model.dimension is beyond 384"):
        checks.check(space_file.parse_space({"model.dimension": [768, 384]}, "x"), RunConfig(), MODEL)


def test_what_a_plan_tells_of_a_named_backbone() -> None:
    for row in BACKBONES.values():
        checks.check(space_file.parse_space({"drop_block": {"max": 0.5}}, "x"), RunConfig(), row.config)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_plans_that_break_a_constraint_are_never_run(tmp_path: Path, sampler: str) -> None:
    values = {"search.constraints": ["parameters <= 0.85"], "search.sampler": sampler, "search.trials": 25}
    run = make_run(tmp_path / "run", values)
    drive(run)
    first, *others = run.results()
    assert first.values["parameters_fraction"] == 1.0, "the unpruned model is run in any case: all is measured by it"
    assert len(others) == 24
    assert all(r.values["parameters_fraction"] <= 0.85 for r in others)


@pytest.mark.parametrize(("sampler", "share"), [("tpe", 0.95), ("nsga2", 0.9)])
def test_a_constraint_on_quality_steers_the_sampler(tmp_path: Path, sampler: str, share: float) -> None:
    """share: of the unpruned model's quality, such that few plans of an unsteered search have it."""

    def good(constraints: list[str], seed: int) -> int:
        values = {"search.sampler": sampler, "search.seed": seed, "search.constraints": constraints}
        run = make_run(tmp_path / f"{len(constraints)}-{seed}", {**values, "search.trials": 40}, WIDE)
        drive(run)
        return sum(r.values["ndcg_at_10"] >= share * 0.6 for r in run.results())

    steered, free = (sum(good(texts, seed) for seed in range(2)) for texts in ([f"ndcg_at_10 >= {share}"], []))
    assert steered > 1.2 * free


def test_the_front_keeps_to_the_constraints_and_nothing_is_kept_where_none_does(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 30})
    drive(run)
    records = run.results()
    goal = Goal(constraints=(parse_constraint("ndcg_at_10 >= 0.97"), parse_constraint("parameters <= 0.95")))
    best = goal.front(records)
    assert best
    assert all(r.values["ndcg_at_10"] >= 0.97 * 0.6 and r.values["parameters_fraction"] <= 0.95 for r in best)
    assert goal.kept(records) == {"0000", *(r.trial for r in best)}
    assert goal.hypervolume(records) < Goal().hypervolume(records)
    assert Goal(constraints=(parse_constraint("parameters <= 0.2"),)).front(records) == []


def test_equal_seeds_equal_searches_with_three_objectives_and_a_kill_between(tmp_path: Path) -> None:
    values = {"search.objectives": THREE, "search.constraints": ["ndcg_at_10 >= 0.8"], "search.trials": 24}
    whole, cut, other = (
        make_run(tmp_path / n, {**values, "search.seed": s}, CUT) for n, s in (("a", 1), ("b", 1), ("c", 2))
    )
    drive(whole, mirror=Mirror), drive(other)
    drive(cut, most=11)
    drive(cut)
    keys = [[r.spec.key for r in run.results()] for run in (whole, cut, other)]
    assert keys[0] == keys[1] != keys[2]
    assert {r.facts.dimension for r in whole.results()} == {384, 256, 128}
    study = optuna.load_study(study_name="a", storage=f"sqlite:///{whole.study_path}")
    assert study.metric_names == list(THREE)
    best = goal_of(whole.config)
    assert {t.user_attrs["trial"] for t in study.best_trials} >= {r.trial for r in best.front(whole.results())}


def test_tables_and_plot_follow_three_objectives(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "three", 30, search={"search.objectives": list(THREE)})
    frames = load_run(run.folder)
    losses = frames.trials[["index_bytes", "document_speedup", "ndcg_at_10"]].to_numpy(float) * (1, -1, -1)
    expected = pareto.non_dominated_losses([tuple(row) for row in losses])
    assert set(frames.front["trial"]) == set(frames.trials["trial"].iloc[expected])
    assert frames.front["index_bytes"].is_monotonic_decreasing
    ax = front_figure(frames.trials, "three", goal=Goal(THREE)).axes[0]
    assert ax.get_xlabel() == "bytes of a document in the index"
    blue = next(line for line in ax.lines if line.get_label() == "Pareto front")
    assert sorted(map(float, blue.get_xdata())) == sorted(frames.front["index_bytes"])


def test_a_full_recovery_stands_for_the_trial_that_it_continues_where_it_is_better() -> None:
    """Though its speed, measured again, came out lower: of one plan a front lists one model."""
    goal = Goal(("document_speedup", "ndcg_at_10"))

    def trial(number: int, quality: float, speed: float, continues: str = "") -> TrialRecord:
        staged = {"stage": "recovery", "continues": continues} if continues else {}
        return record(number, quality, values={"document_speedup": speed}, **staged)

    found = [trial(0, 0.6, 1.0), trial(1, 0.5, 1.5), trial(2, 0.55, 1.45, "0001")]
    assert [r.trial for r in goal.front(found)] == ["0000", "0002"]
    assert goal.hypervolume(found) == pytest.approx(goal.hypervolume([found[0], found[2]]))
    worse = [*found[:2], trial(2, 0.49, 1.6, "0001")]
    assert [r.trial for r in goal.front(worse)] == ["0000", "0001"]
    assert [r.trial for r in goal.front([*worse[:2], replace(worse[2], state="failed")])] == ["0000", "0001"]
