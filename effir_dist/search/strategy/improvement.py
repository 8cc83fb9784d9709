"""By how much points would raise the hypervolume, as far as the trials of a study tell.

Quality is predicted by a `Surrogate`, and so is a cost that is not known before a point is evaluated. A constraint has
a surrogate of its own: the expected hypervolume improvement is multiplied by the probability of feasibility (Gardner et
al., 2014). Arrays and numbers only: `observe` reads them from a study.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from effir_dist.search.strategy.non_dominated_sort import best_first
from effir_dist.search.strategy.surrogate import Surrogate, expected_hypervolume_improvement, probability_below

MARGIN = 0.1
"""Where no worst values are given: how far they are beyond the worst seen, as a share of the range seen."""


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
    constraints: Mapping[str, float] = field(default_factory=dict)
    """Name -> how far beyond the bound (0 or less: feasible), where that is known."""
    prior: float | None = None
    """The loss of quality that is expected beforehand."""
    expense: float = 1.0
    """What evaluating it in full takes."""

    @property
    def feasible(self) -> bool:
        """Whether it violates no constraint, as far as is known."""
        return all(value <= 0 for value in self.constraints.values())


@dataclass(frozen=True)
class Worst:
    """Where the hypervolume ends; None: `MARGIN` beyond the worst of the trials."""

    costs: tuple[float, ...] | None = None
    quality: float | None = None


class Evidence:
    """What a study knows, and what follows for points that it does not know."""

    def __init__(
        self,
        complete: Sequence[Observed],
        running: Sequence[Observed],
        screened: Callable[[], Sequence[Observed]],
        worst: Worst,
        known_constraints: Collection[str] = (),
    ) -> None:
        """complete: evaluated in full. running: on their way there. screened: points with a cheap score alone, asked
        for where costs or constraints are to be learned. known_constraints: those that no proposed point violates."""
        self.complete, self.running = list(complete), list(running)
        self.worst, self.known_constraints = worst, known_constraints
        self._screened = screened

    @cached_property
    def measured(self) -> list[Observed]:
        """All that was measured in some way."""
        return [*self._screened(), *self.complete, *self.running]

    @cached_property
    def worst_costs(self) -> np.ndarray:
        """[C] the reference point's."""
        if self.worst.costs is not None:
            return np.array(self.worst.costs)
        costs = np.array([each.costs for each in self.complete])
        return np.array([_beyond(axis[np.isfinite(axis)]) for axis in costs.T])

    @cached_property
    def worst_quality(self) -> float:
        """The reference point's."""
        if self.worst.quality is not None:
            return self.worst.quality
        return -_beyond(-np.array([each.quality for each in self.complete]))

    def with_low(self) -> int:
        """How many trials tell what a cheap score is worth."""
        return sum(math.isfinite(each.low) for each in self.complete)

    def improvement(self, points: Sequence[Observed], low: bool = False) -> np.ndarray:
        """[M] expected hypervolume improvement by evaluating each point, times the probability that it is feasible.

        low: by the points' cheap scores as well; all have one.
        """
        known = [each for each in self.complete if not low or math.isfinite(each.low)]
        model = _fit(known, [each.quality - self.worst_quality for each in known], low)
        front = [self._losses(each.costs, each.quality - self.worst_quality) for each in known if each.feasible]
        front += self._expected_of_running(model, low)
        mean, deviation = _predict(model, points, low)
        shares = self._shares(self.expected_costs(points))
        gain = expected_hypervolume_improvement(front, shares, mean, deviation)
        return np.asarray(gain * self.feasibility(points, low))

    def expected_costs(self, points: Sequence[Observed]) -> np.ndarray:
        """[M, C] costs of points. Those that are yet to be measured are predicted from the points measured so far."""
        found = np.array([each.costs for each in points], float)
        for axis in np.flatnonzero(np.isnan(found).any(axis=0)):
            known = [each for each in self.measured if math.isfinite(each.costs[axis])]
            guess = _guess(known, [float(each.costs[axis]) for each in known], points)
            found[:, axis] = np.where(np.isnan(found[:, axis]), guess, found[:, axis])
        return found

    def feasibility(self, points: Sequence[Observed], low: bool = False) -> np.ndarray:
        """[M] how likely points violate none of the constraints that must be learned: 0 or 1 where it is known."""
        found = np.ones(len(points))
        names = {name: None for each in self._constrained for name in each.constraints}
        for name in [name for name in names if name not in self.known_constraints]:
            known = [each for each in self._constrained if name in each.constraints]
            known = [each for each in known if not low or math.isfinite(each.low)]
            told = np.array([each.constraints.get(name, math.nan) for each in points])
            likely = np.ones(len(points))
            if known and np.isnan(told).any():
                model = _fit(known, [each.constraints[name] for each in known], low)
                likely = probability_below(0.0, *_predict(model, points, low))
            found *= np.where(np.isnan(told), likely, told <= 0)
        return found

    def by_rank(self, points: Sequence[Observed]) -> np.ndarray:
        """[M] from 0 down: by non-dominated rank and crowding distance of the cheap scores."""
        costs = np.nan_to_num(self.expected_costs(points), nan=0.0, posinf=1e300, neginf=-1e300)
        over = [sum(max(0.0, value) for value in each.constraints.values()) for each in points]
        order = best_first([(*map(float, c), -each.low) for c, each in zip(costs, points, strict=True)], over)
        found = np.empty(len(points))
        found[order] = -np.arange(len(points), dtype=float)
        return found

    @cached_property
    def _constrained(self) -> list[Observed]:
        """What tells of constraints. Where no finished trial has any, nothing else does either."""
        told = any(name not in self.known_constraints for each in self.complete for name in each.constraints)
        return self.measured if told else []

    def _expected_of_running(self, model: Surrogate, low: bool) -> list[tuple[float, ...]]:
        """Running trials with the quality that is expected of them, those likely to be feasible: so several workers do
        not evaluate the same corner of the space."""
        running = [each for each in self.running if not low or math.isfinite(each.low)]
        if not running:
            return []
        guess = _predict(model, running, low)[0]
        likely, costs = self.feasibility(running, low) > 0.5, self.expected_costs(running)
        return [self._losses(c, float(g)) for c, g, ok in zip(costs, guess, likely, strict=True) if ok]

    def _losses(self, costs: np.ndarray, quality: float) -> tuple[float, ...]:
        """Of a point of the front, from the reference point (1, .., 1, 0)."""
        return (*map(float, self._shares(costs[None])[0]), -quality)

    def _shares(self, costs: np.ndarray) -> np.ndarray:
        """[M, C] costs, where the reference point's are 1. With quality alone there is one cost, 0 for all: the
        hypervolume is then the best quality."""
        return 1 + (costs - self.worst_costs) if costs.shape[1] else np.zeros((len(costs), 1))


def _beyond(losses: np.ndarray) -> float:
    """A loss worse than all of those."""
    if not len(losses):
        return 1.0
    worst, spread = float(losses.max()), float(losses.max() - losses.min())
    return worst + (MARGIN * spread or 1.0)


def _inputs(points: Sequence[Observed], low: bool) -> np.ndarray:
    """[M, K], or [M, K + 1] with the cheap scores."""
    found = np.stack([each.features for each in points])
    return np.column_stack([found, [each.low for each in points]]) if low else found


def _fit(known: Sequence[Observed], values: Sequence[float], low: bool) -> Surrogate:
    return Surrogate(_inputs(known, low), np.array(values))


def _predict(model: Surrogate, points: Sequence[Observed], low: bool) -> tuple[np.ndarray, np.ndarray]:
    return model.predict(_inputs(points, low))


def _guess(known: Sequence[Observed], values: Sequence[float], points: Sequence[Observed]) -> np.ndarray | float:
    """[M] values of points by their features; 0 where nothing is known."""
    return _predict(_fit(known, values, False), points, False)[0] if known else 0.0
