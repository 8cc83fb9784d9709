"""The quality that points are expected to have, by trials evaluated in full and by cheap scores.

A trial's own cheap score is one more number that quality is predicted by. Of a point that has none it is predicted as
well, from all cheap scores so far, and counts with its uncertainty.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from effir_dist.search.strategy.guided.points import Points
from effir_dist.search.strategy.guided.surrogate import LEAST_TRAINED, Surrogate, fitted

MOST_LOW = 240
"""Cheap scores that are learned from, at most: the last ones; half of them of trials evaluated in full."""
LOW_STEP = 8
"""From so many on, they are learned from in steps of this many: a surrogate lasts for some proposals."""


class Quality:
    """A model of the quality."""

    def __init__(self, complete: Points, screened: Callable[[], Points]) -> None:
        """complete: evaluated in full, at least one. screened: points with a cheap score alone."""
        told = np.isfinite(complete.low)
        self.by_low = bool(told.sum() >= LEAST_TRAINED)
        """Whether cheap scores are looked at."""
        known = complete.take(np.flatnonzero(told)) if self.by_low else complete
        if self.by_low:
            self.scale = scale_of(known.low)
            self.low = _low_model(known, screened())
        self.model = fitted(known.features, known.quality, self._summaries(known, known.low))

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """[M] mean and standard deviation of the quality."""
        low, unsure = self._lows(points)
        summaries = self._summaries(points, low)
        if not unsure.any():
            return self.model.predict(points.features, summaries)
        more = self._summaries(points, low + unsure)
        mean, deviation, shifted = self.model.predict_both(points.features, summaries, more)
        return mean, np.hypot(deviation, shifted - mean)

    def expecting(self, points: Points) -> Quality:
        """The same once points have come out as expected."""
        found = copy.copy(self)
        found.model = self.model.expecting(points.features, self._summaries(points, self._lows(points)[0]))
        return found

    def _lows(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """[M] cheap scores, and the deviation of those that are predicted."""
        low, unsure = points.low.copy(), np.zeros(len(points))
        missing = np.isnan(low)
        if self.by_low and missing.any():
            low[missing], unsure[missing] = self.low.predict(points.features[missing], points.prior[missing])
        return low, unsure

    def _summaries(self, points: Points, low: np.ndarray) -> np.ndarray:
        return with_low(points, low, self.scale) if self.by_low else points.prior


def scale_of(low: np.ndarray) -> tuple[float, float]:
    """Middle and spread of cheap scores."""
    return float(low.mean()), float(low.std()) or 1.0


def with_low(points: Points, low: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """[M, S + 1] what is known beforehand, and cheap scores in units of their spread."""
    return np.column_stack([points.prior, (low - scale[0]) / scale[1]])


def _low_model(complete: Points, screened: Points) -> Surrogate:
    """Of cheap scores, by those of the last trials evaluated in full and of the last ones that wait."""
    last = len(screened) - (len(screened) % LOW_STEP if len(screened) > LOW_STEP**2 else 0)
    parts = [(complete, len(complete)), (screened, last)]
    known = Points.joined([part.take(np.arange(end)[-MOST_LOW // 2 :]) for part, end in parts])
    return fitted(known.features, known.low, known.prior)
