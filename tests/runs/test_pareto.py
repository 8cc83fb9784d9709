"""The front and its hypervolume, against brute force and Optuna."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effir_dist.runs import pareto
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from tests import needs
from tests.synthetic import record


def random_points(seed: int, count: int, grid: int) -> list[pareto.Point]:
    """Points on a coarse grid, so that ties and duplicates are common."""
    values = np.random.default_rng(seed).integers(0, grid + 1, (count, 2)) / grid
    return [(float(x), float(y)) for x, y in values]


def brute_force(points: list[pareto.Point]) -> set[int]:
    def beaten(i: int) -> bool:
        x, y = points[i]
        return any((p <= x and q >= y) and ((p, q) != (x, y) or j < i) for j, (p, q) in enumerate(points) if j != i)

    return {i for i in range(len(points)) if not beaten(i)}


@pytest.mark.parametrize("grid", [4, 20, 10_000])
@pytest.mark.parametrize("seed", range(10))
def test_non_dominated_is_brute_force(seed: int, grid: int) -> None:
    points = random_points(seed, 60, grid)
    found = pareto.non_dominated(points)
    assert set(found) == brute_force(points)
    assert len(set(found)) == len(found)
    assert [points[i] for i in found] == sorted(points[i] for i in found)


@pytest.mark.parametrize("grid", [4, 10_000])
@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_is_optunas(seed: int, grid: int) -> None:
    compute_hypervolume = needs.module("optuna._hypervolume").compute_hypervolume
    points = random_points(seed, 40, grid)
    losses = np.array([(x, -y) for x, y in points])
    assert pareto.hypervolume(points) == pytest.approx(compute_hypervolume(losses, np.array([1.0, 0.0])), abs=1e-12)


def test_the_front_is_optunas_best_trials() -> None:
    optuna = needs.module("optuna")
    points = random_points(0, 40, 10_000)
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials([optuna.trial.create_trial(values=list(p)) for p in points])
    assert {t.number for t in study.best_trials} == set(pareto.non_dominated(points))


def test_hypervolume_by_hand() -> None:
    assert pareto.hypervolume([]) == 0.0
    assert pareto.hypervolume([(0.5, 0.8)]) == pytest.approx(0.4)
    assert pareto.hypervolume([(0.5, 0.8), (0.8, 1.0)]) == pytest.approx(0.4 + 0.04)
    assert pareto.hypervolume([(1.0, 1.0), (1.5, 2.0)]) == 0.0


def test_scores_that_are_no_numbers_are_never_on_the_front() -> None:
    assert pareto.non_dominated([(1.0, math.nan), (math.nan, 1.0), (2.0, math.inf), (3.0, 0.1)]) == [3]


def records(*scored: tuple[int, float | None]) -> list[TrialRecord]:
    """Of (size, quality); the unpruned model has 100 parameters."""
    return [record(number, quality, size, full=100) for number, (size, quality) in enumerate(scored)]


def test_the_front_of_records_reads_from_large_to_small() -> None:
    found = Goal().front(records((100, 0.6), (60, 0.3), (80, 0.55), (90, 0.5), (10, None)))
    assert [r.values["parameters"] for r in found] == [100, 80, 60]


def test_quality_is_measured_by_the_unpruned_model() -> None:
    assert Goal().hypervolume(records((100, 0.6), (50, 0.3))) == pytest.approx(0.25)
    assert Goal().hypervolume(records((50, 0.3))) == pytest.approx(0.15), "nothing to measure by: nDCG@10 as it is"
    assert Goal().hypervolume(records((100, None), (50, 0.3))) == pytest.approx(0.15)
    assert Goal().hypervolume(records((100, 0.0), (50, 0.3))) == pytest.approx(0.15)
    assert Goal().hypervolume([]) == 0.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(22_713_216, "22.7 M"), (999_800_000, "1.00 B"), (7_241_732_096, "7.24 B"), (109_482_240, "109 M"), (12, "12")],
)
def test_parameters_in_three_digits(value: int, text: str) -> None:
    assert pareto.parameters_text(value) == text


def test_a_plan_in_a_few_words() -> None:
    assert pareto.plan_text(0, 1.0) == "unpruned"
    assert pareto.plan_text(3, 0.7) == "-3 MLP, 70 %"
    assert pareto.plan_text(0, 0.7) == "width 70 %"
    assert pareto.plan_text(1, 1.0, 2) == "-1 MLP, -2 attn"
