"""Bootstrap intervals: as wide as theory says, covering as often as promised, paired where they must be."""

from __future__ import annotations

import numpy as np
import pytest

from effir_dist.evaluate.intervals import difference_interval, mean_interval


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
