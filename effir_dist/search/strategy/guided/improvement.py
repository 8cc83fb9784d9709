"""By how much points would raise the hypervolume, as far as the trials of a study tell.

Quality is predicted by a `Surrogate`, and so is a cost that is not known before a point is evaluated. A constraint has
a surrogate of its own: the expected hypervolume improvement is multiplied by the probability of feasibility (Gardner et
al., 2014). Arrays and numbers only: `guided` reads them from a study.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from effir_dist.search.strategy.guided.points import Points
from effir_dist.search.strategy.guided.quality import Quality, scale_of, with_low
from effir_dist.search.strategy.guided.surrogate import (
    LEAST_TRAINED,
    expected_hypervolume_improvement,
    fitted,
    probability_below,
)

MARGIN = 0.1
"""Where no worst values are given: how far they are beyond the worst seen, as a share of the range seen."""


@dataclass(frozen=True)
class Worst:
    """Where the hypervolume ends; None: `MARGIN` beyond the worst of the trials."""

    costs: tuple[float, ...] | None = None
    quality: float | None = None


class Evidence:
    """What a study knows, and what follows for points that it does not know."""

    def __init__(
        self,
        complete: Points,
        running: Points,
        screened: Callable[[], Points],
        worst: Worst,
        known_constraints: Collection[str] = (),
    ) -> None:
        """complete: evaluated in full. running: on their way there, or to a cheap score. screened: points with a cheap
        score alone, asked for where it teaches something. known_constraints: those that no proposed point violates."""
        self.complete, self.running = complete, running
        self.worst, self.known_constraints = worst, known_constraints
        self._screened = screened

    @cached_property
    def screened(self) -> Points:
        """Points with a cheap score alone."""
        return self._screened()

    @cached_property
    def measured(self) -> Points:
        """All that was measured in some way."""
        return Points.joined([self.screened, self.complete, self.running])

    @cached_property
    def worst_costs(self) -> np.ndarray:
        """[C] the reference point's."""
        if self.worst.costs is not None:
            return np.array(self.worst.costs)
        return np.array([_beyond(axis[np.isfinite(axis)]) for axis in self.complete.costs.T])

    @cached_property
    def worst_quality(self) -> float:
        """The reference point's."""
        return -_beyond(-self.complete.quality) if self.worst.quality is None else self.worst.quality

    def with_low(self) -> int:
        """How many trials tell what a cheap score is worth."""
        return int(np.isfinite(self.complete.low).sum())

    def improvement(self, points: Points) -> np.ndarray:
        """[M] expected hypervolume improvement by evaluating each point, times the probability that it is feasible."""
        mean, deviation = self.quality.predict(points)
        shares = self._shares(self.expected_costs(points))
        gain = expected_hypervolume_improvement(self.front, shares, mean - self.worst_quality, deviation)
        return np.asarray(gain * self.feasibility(points))

    @cached_property
    def quality(self) -> Quality:
        """What quality is expected, once running trials have come out as expected: so several workers do not evaluate
        the same corner of the space."""
        found = Quality(self.complete, lambda: self.screened)
        return found.expecting(self.running) if len(self.running) else found

    @cached_property
    def front(self) -> list[tuple[float, ...]]:
        """Losses of the feasible trials, from the reference point (1, .., 1, 0); of those that run, expected ones."""
        known = self.complete.take(np.flatnonzero(self.complete.feasible))
        found = self._losses(known.costs, known.quality)
        # With cheap scores at hand, a trial that runs without one is on its way to one, and no further.
        there = np.isfinite(self.running.low) | (not self.quality.by_low)
        running = self.running.take(np.flatnonzero(there))
        if len(running):
            running = running.take(np.flatnonzero(self.feasibility(running) > 0.5))
            found += self._losses(self.expected_costs(running), self.quality.predict(running)[0])
        return found

    def expected_costs(self, points: Points) -> np.ndarray:
        """[M, C] costs of points. Those that are yet to be measured are predicted from the points measured so far."""
        found = points.costs.copy()
        for axis in np.flatnonzero(np.isnan(found).any(axis=0)):
            known = self.measured.take(np.flatnonzero(np.isfinite(self.measured.costs[:, axis])))
            guess = _predicted(known, known.costs[:, axis], points)[0] if len(known) else 0.0
            found[:, axis] = np.where(np.isnan(found[:, axis]), guess, found[:, axis])
        return found

    def feasibility(self, points: Points) -> np.ndarray:
        """[M] how likely points violate no constraint that is yet to be learned: 0 or 1 where it is known."""
        found = np.ones(len(points))
        names = {name: None for each in self._constrained.constraints for name in each}
        for name in [name for name in names if name not in self.known_constraints]:
            over, told = self._constrained.violations(name), points.violations(name)
            known = self._constrained.take(np.flatnonzero(np.isfinite(over)))
            likely = np.ones(len(points))
            if len(known) and np.isnan(told).any():
                likely = probability_below(0.0, *_predicted(known, over[np.isfinite(over)], points))
            found *= np.where(np.isnan(told), likely, told <= 0)
        return found

    def by_low(self, points: Points) -> np.ndarray:
        """[M] the same before enough trials tell what a cheap score is worth: the quality is taken to follow from it
        (`_recovered`), but unsure."""
        begun = Points.joined([self.complete, self.running])
        every = Points.joined([points, begun.take(np.flatnonzero(np.isfinite(begun.low)))])
        every = replace(every, costs=self.expected_costs(every), quality=every.low)
        pretended, count = Evidence(every, Points.of([]), lambda: Points.of([]), self.worst), len(points)
        expected = pretended.worst_quality + _recovered(every.low - pretended.worst_quality)
        front = pretended._losses(every.costs[count:], expected[count:]) if len(every) > count else []
        mean, deviation = expected[:count] - pretended.worst_quality, np.full(count, expected.std() / 2 + 1e-9)
        gain = expected_hypervolume_improvement(front, pretended._shares(every.costs[:count]), mean, deviation)
        return np.asarray(gain * self.feasibility(points))

    @cached_property
    def _constrained(self) -> Points:
        """What tells of constraints. Where no finished trial has any, nothing else does either."""
        told = any(name not in self.known_constraints for each in self.complete.constraints for name in each)
        return self.measured if told else Points.joined([])

    def _losses(self, costs: np.ndarray, quality: np.ndarray) -> list[tuple[float, ...]]:
        rows = np.column_stack([self._shares(costs), self.worst_quality - quality])
        return [*map(tuple, rows.tolist())]

    def _shares(self, costs: np.ndarray) -> np.ndarray:
        """[M, C] costs, where the reference point's are 1. With quality alone there is one cost, 0 for all: the
        hypervolume is then the best quality."""
        return 1 + (costs - self.worst_costs) if costs.shape[1] else np.zeros((len(costs), 1))


def _recovered(low: np.ndarray) -> np.ndarray:
    """[N] what evaluating in full makes of cheap scores above the worst one, where nothing tells yet: it brings back
    more where more was lost. So a small model is not taken for worthless by what it scores without training."""
    best = max(float(low.max()), 1e-30)
    return np.asarray(best * np.sqrt(np.clip(low / best, 0, None)))


def _beyond(losses: np.ndarray) -> float:
    """A loss worse than all of those."""
    if not len(losses):
        return 1.0
    worst, spread = float(losses.max()), float(losses.max() - losses.min())
    return worst + (MARGIN * spread or 1.0)


def _predicted(known: Points, values: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [M] of something that is known of other points; by cheap scores where all have one."""
    told = np.isfinite(known.low)
    if np.isfinite(points.low).all() and told.sum() >= LEAST_TRAINED:
        known, values = known.take(np.flatnonzero(told)), values[told]
        inputs = [with_low(each, each.low, scale_of(known.low)) for each in (known, points)]
        return fitted(known.features, values, inputs[0]).predict(points.features, inputs[1])
    return fitted(known.features, values, known.prior).predict(points.features, points.prior)
