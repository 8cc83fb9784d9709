"""Points and what is known of each: one by one as they are read, and as arrays for what reckons with all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Constraints = Mapping[str, float]
"""Name -> how far beyond the bound (0 or less: feasible), where that is known."""


@dataclass(frozen=True)
class Observed:
    """A point and what is known of it."""

    features: np.ndarray
    """[K] numbers that a surrogate predicts by."""
    costs: np.ndarray
    """[C] small is good; NaN: not known yet."""
    quality: float = math.nan
    """Large is good; NaN: not evaluated yet."""
    low: float = math.nan
    """The same by a cheap evaluation; NaN: there was none."""
    constraints: Constraints = field(default_factory=dict)
    prior: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[S] numbers that the quality is expected to rise or fall with; the first may be the loss that is expected."""
    expense: float = 1.0
    """What evaluating it in full takes."""


ARRAYS = ("features", "costs", "prior", "expense", "quality", "low")


@dataclass(frozen=True)
class Points:
    """M points: what `Observed` says of each."""

    features: np.ndarray
    """[M, K]"""
    costs: np.ndarray
    """[M, C]"""
    prior: np.ndarray
    """[M, S]"""
    expense: np.ndarray
    """[M]"""
    quality: np.ndarray
    """[M]"""
    low: np.ndarray
    """[M]"""
    constraints: Sequence[Constraints]
    """[M]"""

    @staticmethod
    def of(points: Sequence[Observed]) -> Points:
        """Points one by one as arrays."""
        found = {n: np.array([getattr(each, n) for each in points], float) for n in ARRAYS[3:]}
        empty = np.zeros((0, 0))
        found |= {n: np.stack([getattr(each, n) for each in points]) if points else empty for n in ARRAYS[:3]}
        return Points(**found, constraints=[each.constraints for each in points])

    @staticmethod
    def joined(parts: Sequence[Points]) -> Points:
        """All of them, in order."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else Points.of([])
        found = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        return Points(**found, constraints=[each for part in parts for each in part.constraints])

    def __len__(self) -> int:
        return len(self.expense)

    @property
    def feasible(self) -> np.ndarray:
        """[M] whether it violates no constraint, as far as is known."""
        return np.array([all(value <= 0 for value in each.values()) for each in self.constraints], bool)

    def violations(self, name: str) -> np.ndarray:
        """[M] how far each is beyond the bound of a constraint; NaN where that is not known."""
        return np.array([each.get(name, math.nan) for each in self.constraints])

    def take(self, places: np.ndarray) -> Points:
        """Some of them."""
        found = {name: getattr(self, name)[places] for name in ARRAYS}
        return Points(**found, constraints=[self.constraints[i] for i in places])


class Rows:
    """Rows of numbers that become more, as one array."""

    def __init__(self) -> None:
        self.array, self.count = np.zeros((0, 0)), 0

    def append(self, row: Sequence[float]) -> int:
        """Returns its place."""
        if self.count == len(self.array):
            more = np.zeros((2 * self.count + 8, len(row)))
            more[: self.count, : self.array.shape[1]] = self.array
            self.array = more
        self.array[self.count] = row
        self.count += 1
        return self.count - 1

    def take(self, places: Sequence[int]) -> np.ndarray:
        """[N, K]"""
        return np.asarray(self.array[places])
