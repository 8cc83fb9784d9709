"""A plan's score predicted from the plans scored so far: a Gaussian process, small enough to fit for every proposal.

Inputs are what a plan leaves of each part, in [0, 1], and its scores on lower rungs. The mean is linear (parts do their
damage one by one, to a first approximation); the kernel takes what the line misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from effir_dist.runs.pareto import non_dominated_losses

LEAST_TRAINED = 4
"""Trials trained in full that a surrogate is fitted to, at least."""
LENGTHS = (0.7, 2.0)
"""Length scales tried, in units of the inputs' spread times the root of their number."""
SHARES = (0.03, 0.2)
"""Of the variance: what is taken for noise."""
_ERF = np.vectorize(math.erf, otypes=[float])


class Surrogate:
    """Fitted to inputs x [N, K] and scores y [N]; N >= 1. The kernel's settings are those of the largest evidence."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.shift, spread = x.mean(0), x.std(0)
        self.scale = np.where(spread > 1e-9, spread, 1.0)
        self.x, self.offset = self._inputs(x), float(y.mean())
        self.unit = float(y.std()) or 1.0
        residual = (y - self.offset) / self.unit
        found = [self._evidence(length, noise, residual) for length in LENGTHS for noise in SHARES]
        _, self.length, self.noise = max(found)
        self.root = np.linalg.cholesky(self._kernel(self.x, self.x, self.length) + self.noise * np.eye(len(y)))
        self.alpha = np.linalg.solve(self.root.T, np.linalg.solve(self.root, residual))

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        return (x - self.shift) / self.scale

    def _kernel(self, a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
        """A line through all inputs, and a squared exponential on top: [N, M]."""
        inputs = a.shape[1]
        far = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        line = a @ b.T / inputs + 1.0
        return line + 0.5 * np.exp(-np.maximum(far, 0) / (2 * inputs * length**2))

    def _evidence(self, length: float, noise: float, y: np.ndarray) -> tuple[float, float, float]:
        root = np.linalg.cholesky(self._kernel(self.x, self.x, length) + noise * np.eye(len(y)))
        half = np.linalg.solve(root, y)
        return -0.5 * float(half @ half) - float(np.log(np.diag(root)).sum()), length, noise

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the score at x [M, K], the noise of a measurement left out: [M] each."""
        inputs = self._inputs(x)
        across = self._kernel(inputs, self.x, self.length)
        half = np.linalg.solve(self.root, across.T)
        own = (inputs**2).sum(1) / inputs.shape[1] + 1.5
        variance = np.maximum(own - (half**2).sum(0), 1e-9)
        return self.offset + self.unit * (across @ self.alpha), self.unit * np.sqrt(variance)


def probability_below(bound: float | np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Probability that normal variables are at most `bound`; the shapes broadcast."""
    return np.asarray(0.5 + 0.5 * _ERF((bound - mean) / (math.sqrt(2) * deviation)))


def expected_hypervolume_improvement(
    front: Sequence[Sequence[float]], shares: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """[M] by how much points are expected to raise the hypervolume of `front`, their quality being normal.

    front: losses, costs and then quality, negative. shares: [M, C] costs of the points, which are known; C is 1 or 2.
    The reference point has all costs 1 and quality 0. Between two neighbouring qualities of the front the costs that
    nothing dominates are the same. So this is a sum over those slabs: how much of the slab's height a point is expected
    to fill, times the length or area of costs that it newly dominates there.
    """
    points = [(*front[i][:-1], -front[i][-1]) for i in non_dominated_losses(front)]
    bottoms = np.array(sorted({0.0, *(p[-1] for p in points if p[-1] > 0)}))
    far = (bottoms - mean[:, None]) / deviation[:, None]
    density = np.exp(-0.5 * far**2) / math.sqrt(2 * math.pi)
    at_most = probability_below(-far, np.zeros(1), np.ones(1))
    above = deviation[:, None] * (density - far * at_most)  # E max(quality - bottom, 0)
    filled = above - np.append(above[:, 1:], np.zeros((len(mean), 1)), axis=1)
    dominated = [_newly_dominated(shares, np.array([p[:-1] for p in points if p[-1] > bottom])) for bottom in bottoms]
    return np.asarray((filled * np.stack(dominated, 1)).sum(1))


def _newly_dominated(shares: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[M] length or area of costs up to 1 that `shares` [M, C] dominate and none of `taken` [N, C] does."""
    if not len(taken):
        return np.clip(1 - shares, 0, None).prod(axis=1)
    if shares.shape[1] == 1:
        return np.clip(min(1.0, taken.min()) - shares[:, 0], 0, None)
    # A staircase: from each step of the first cost on, the second cost is dominated from a lower height on.
    stairs = taken[non_dominated_losses(taken.tolist())]
    stairs = stairs[stairs[:, 0].argsort()]
    left, right = np.append(-np.inf, stairs[:, 0]), np.append(stairs[:, 0], 1.0)
    height = np.minimum(np.append(1.0, stairs[:, 1]), 1.0)
    widths = np.clip(np.minimum(right, 1.0) - np.maximum(left, shares[:, :1]), 0, None)
    return np.asarray((widths * np.clip(height - shares[:, 1:], 0, None)).sum(1))
