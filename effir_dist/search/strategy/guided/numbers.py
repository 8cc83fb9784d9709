"""Values of Optuna's distributions as numbers from 0 to 1, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


def scaled(distribution: BaseDistribution, value: Any) -> list[float]:
    """A value as numbers from 0 to 1: one, or for a choice among several one for each."""
    if isinstance(distribution, CategoricalDistribution):
        return [float(value == choice) for choice in distribution.choices]
    return [to_unit(distribution, value)]


def to_unit(distribution: BaseDistribution, value: Any) -> float:
    """A number of a range, from 0 to 1; on a logarithmic scale where it has one."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, value = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.0


def steps(distribution: BaseDistribution) -> int:
    """How many steps a range has; 0 where it is continuous."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None or distribution.log:
        return 0
    return round((distribution.high - distribution.low) / distribution.step)


def from_unit(distribution: BaseDistribution, units: np.ndarray) -> np.ndarray:
    """[P] the values of a range that are nearest to numbers from 0 to 1."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, count = distribution.low, distribution.high, steps(distribution)
    whole = isinstance(distribution, IntDistribution)
    if distribution.log:
        found = np.exp(math.log(low) + units * (math.log(high) - math.log(low)))
        found = np.clip(np.round(found) if whole else found, low, high)
    elif distribution.step is None:
        found = low + units * (high - low)
    else:
        found = np.round(low + distribution.step * np.round(units * count), 9)
    return np.asarray(found.astype(int) if whole else found)
