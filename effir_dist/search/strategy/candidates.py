"""Values drawn from Optuna's distributions, for a sampler to choose among; and values as numbers for a surrogate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from effir_dist.core.renamed import sort_name
from effir_dist.core.values import Point
from effir_dist.search.strategy.numbers import scaled

__all__ = ["DRAWS", "draw", "points", "scaled"]

DRAWS = 400
"""Points that are drawn for one proposal, at most: where none of them is new, all are taken to be tried."""


def points(
    distributions: Mapping[str, BaseDistribution], best: Sequence[Point], rng: np.random.Generator
) -> Iterator[Point]:
    """DRAWS points: every other one at random, the rest those of `best` with one or two new values."""
    best = sorted(best, key=repr)  # their order in a resumed search is another one
    for attempt in range(DRAWS):
        point = {name: draw(distribution, rng) for name, distribution in distributions.items()}
        if best and attempt % 2:
            kept = best[rng.integers(len(best))]
            order = sorted(point, key=sort_name)
            new = set(rng.choice(order, size=min(len(point), int(rng.integers(1, 3))), replace=False))
            point = {name: value if name in new else kept[name] for name, value in point.items()}
        yield point


def draw(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """A value of a distribution, all equally likely (on a logarithmic scale where it has one)."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[rng.integers(len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    whole = isinstance(distribution, IntDistribution)
    if distribution.log:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        return min(high, max(low, round(value))) if whole else value
    if step is None:
        return float(rng.uniform(low, high))
    value = low + step * int(rng.integers(round((high - low) / step) + 1))
    return int(value) if whole else round(value, 9)
