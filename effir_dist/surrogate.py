"""A guess at a plan's score from the plans scored so far: a Gaussian process, small enough for every suggestion.

Inputs are what a plan leaves of each part, in [0, 1], and what lower rungs of the ladder said of it. The mean is linear
(parts do their damage one by one, to a first approximation), the kernel takes what the line misses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from effir_dist.front import Point, non_dominated

LENGTHS = (0.7, 2.0)
"""Length scales tried, in units of the inputs' spread times the root of their number."""
SHARES = (0.03, 0.2)
"""Of the variance: what is taken for noise."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


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


def expected_growth(
    front: Sequence[Point], sizes: np.ndarray, mean: np.ndarray, deviation: np.ndarray, reference: Point = (1.0, 0.0)
) -> np.ndarray:
    """How much hypervolume a point of each size [M] is expected to add, its quality being normal: [M].

    The size is known, so this is an integral over one normal variable of the area that a quality would add.
    """
    known = [front[i] for i in non_dominated(front) if front[i][0] < reference[0]]
    edges = np.array([*(size for size, _ in known), reference[0]])
    heights = np.array([reference[1], *(max(quality, reference[1]) for _, quality in known)])
    low = np.concatenate([[-math.inf], edges[:-1]])
    widths = np.clip(edges[None] - np.maximum(low[None], sizes[:, None]), 0, None)  # [M, steps]
    found = np.zeros(len(sizes))
    for node, weight in zip(NODES, WEIGHTS / WEIGHTS.sum(), strict=True):
        quality = mean + node * deviation
        found += weight * (widths * np.clip(quality[:, None] - heights[None], 0, None)).sum(1)
    return found
