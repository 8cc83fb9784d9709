"""Bootstrap intervals: as wide as theory says, covering as often as promised, paired where they must be."""

from __future__ import annotations

import numpy as np
import pytest

from effir_dist.evaluate.intervals import (
    difference_interval,
    many_draws,
    mean_interval,
    seeds_part,
    student_quantile,
    widened,
)


def test_the_width_is_that_of_the_standard_error() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.3, (1, 400))
    found = mean_interval({"a": scores})
    assert found.value == pytest.approx(scores.mean())
    error = scores.std() / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_data_sets_weigh_alike_whatever_their_size() -> None:
    found = mean_interval({"a": np.full((1, 10), 0.2), "b": np.full((3, 500), 0.6)})
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))


def test_it_covers_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        found = mean_interval({"a": rng.exponential(1.0, (1, 150))})
        inside += found.low <= 1.0 <= found.high
    assert 180 <= inside <= 199


TIMES, QUERIES, INTERACTION = 1000, 60, 0.1


def simulated(seeds: int, ratio: float, paired: bool) -> tuple[float, float]:
    """How often 95 % intervals cover the truth, and their mean width in units of that with known variances.

    ratio: variance of the mean by seeds, to that by queries.

    A score is what its query gives (variance 1), what its seed gives, and what both give together. paired: the
    difference of two such models that have another effect of the queries in common.
    """
    rng, sides = np.random.default_rng([seeds, round(10 * ratio), paired]), 2 if paired else 1
    luck = rng.normal(0, np.sqrt(ratio * seeds / QUERIES / sides), (sides, TIMES, seeds, 1))
    hard = rng.normal(0, np.sqrt(1 / sides), (sides, TIMES, 1, QUERIES))
    both = rng.normal(0, np.sqrt(INTERACTION / sides), (sides, TIMES, seeds, QUERIES))
    values = luck + hard + both + rng.normal(0, 1, (TIMES, 1, QUERIES)) * paired
    rows, trainings = values.mean(axis=2), values.mean(axis=3)
    differences = rows[0] - rows[1] if paired else rows[0]
    draws, means = many_draws({"a": differences})["a"], differences.mean(axis=1)
    parts = np.array([seeds_part(*(side[i] for side in trainings)) for i in range(TIMES)])
    low, high = widened(means, np.quantile(draws, [0.025, 0.975], axis=0), parts)
    right = 2 * 1.96 * np.sqrt((1 + ratio + INTERACTION / seeds) / QUERIES)
    return float(((low <= 0) & (high >= 0)).mean()), float((high - low).mean()) / right


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_it_covers_the_truth_with_few_seeds(seeds: int, paired: bool) -> None:
    """A bootstrap of the seeds covers it 67 to 91 % of the time with two, 74 to 95 % with three."""
    found = {ratio: simulated(seeds, ratio, paired) for ratio in (0.0, 0.1, 1.0, 10.0, 100.0)}
    assert min(covered for covered, _ in found.values()) > 0.925, found
    assert found[0.0][1] < {2: 1.25 if paired else 1.7, 3: 1.15, 5: 1.1}[seeds], "not much wider where seeds agree"
    t = student_quantile(seeds - 1 + paired * (seeds - 1), 0.95)
    assert found[100.0][1] < 1.1 * t / 1.96, "nor than Student's where seeds are all"


def test_students_quantiles_are_those_of_tables() -> None:
    known = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445, 9: 2.262157, 30: 2.042272}
    assert {n: student_quantile(n, 0.95) for n in known} == pytest.approx(known, rel=1e-6)
    assert student_quantile(4, 0.5) == pytest.approx(0.740697, rel=1e-5)


def test_one_seed_on_a_side_is_taken_to_vary_as_the_other() -> None:
    two, one = np.array([0.1, 0.3]), np.array([0.5])
    assert seeds_part(one) == seeds_part(one, one) == 0
    assert seeds_part(two) == pytest.approx(12.706205 * 0.1)
    assert seeds_part(two, one) == pytest.approx(12.706205 * np.sqrt(0.02 * 1.5))


def test_a_difference_is_paired_by_query() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(0.5, 0.3, (1, 300))  # what the queries have in common
    better, worse = ({"a": hard + shift + rng.normal(0, 0.02, (3, 300))} for shift in (0.02, 0.0))
    found = difference_interval(better, worse)
    assert found.value == pytest.approx(0.02, abs=0.003)
    assert found.low > 0
    assert not found.is_noise
    assert found.high - found.low < 0.2 * (mean_interval(better).high - mean_interval(better).low)
    same = difference_interval(worse, worse)
    assert same.value == 0
    assert same.is_noise


def test_seeds_that_disagree_widen_it() -> None:
    queries = np.random.default_rng(3).normal(0.5, 0.01, 300)
    agreeing = mean_interval({"a": np.stack([queries] * 3)})
    apart = mean_interval({"a": np.stack([queries, queries + 0.1, queries - 0.1])})
    assert apart.high - apart.low > 10 * (agreeing.high - agreeing.low)


def test_it_is_the_same_each_time_and_refuses_other_queries() -> None:
    sample = {"a": np.random.default_rng(4).random((2, 50))}
    assert mean_interval(sample) == mean_interval(sample)
    with pytest.raises(ValueError, match="the same data sets and queries"):
        difference_interval(sample, {"a": np.zeros((2, 49))})
    with pytest.raises(ValueError, match="the same data sets and queries"):
        difference_interval(sample, {"b": np.zeros((2, 50))})
