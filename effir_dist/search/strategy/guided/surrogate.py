"""A plan's score predicted from the plans scored so far: a Gaussian process, small enough to fit for every proposal.

It is for 10 to 200 data and 32 to 100 inputs. What is known beforehand carries most of it: the mean is a line of a few
summaries (damage that importance predicts, what is left, the score on a lower rung), bent by a smooth function of them.
Inputs add up one by one (parts do their damage each for itself, to a first approximation), with little weight until
data say otherwise; a squared exponential of all of them takes what is left. Evidence says how much of each there is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from effir_dist.runs.pareto import non_dominated_losses

LEAST_TRAINED = 4
"""Trials trained in full that a surrogate is fitted to, at least."""
MOST_WEIGHED = 120
"""Data that the evidence is computed of, at most: the last ones."""
LEAST_SPREAD = 0.2
"""Spread of a summary below which it does not count as one: a line through a short range says nothing far from it."""
ALIKE = (1.0, 2.0)
"""Length scales of summaries and of inputs, in units of their spread."""


class Weights(NamedTuple):
    """Of the parts of the kernel, in units of the scores' variance."""

    bend: float
    """Of a smooth function of the summaries."""
    each: float
    """Of a line of each input."""
    rest: float
    """Of a smooth function of all inputs."""
    noise: float


_EACH, _NOISE = (0.05, 0.3, 1.2), (0.01, 0.05, 0.2)
_SMOOTH = ((0.3, 0.1), (1.0, 0.4))
SETTINGS = [Weights(bend, each, rest, n) for (bend, rest), each, n in itertools.product(_SMOOTH, _EACH, _NOISE)]
"""What the evidence chooses among."""


class Surrogate:
    """Fitted to inputs x [N, K], which compare (all in [0, 1], say), and scores y [N]; N >= 1."""

    def __init__(self, x: np.ndarray, y: np.ndarray, prior: np.ndarray | None = None) -> None:
        """prior: [N] or [N, S] numbers that scores are expected to rise or fall with, from 0 to 1 or with spread 1."""
        low, high = x.min(0), x.max(0)
        self.range = np.where((low < -1e-9) | (high > 1 + 1e-9), np.maximum(high - low, 1e-9), 1.0)
        """Inputs beyond 0 and 1 are divided by the range that was seen."""
        summaries = _summaries(x / self.range, prior)
        self.shift, self.middle = (x / self.range).mean(0), summaries.mean(0)
        self.scale = float(np.sqrt(((x / self.range - self.shift) ** 2).sum(1).mean())) or 1.0
        self.spread = np.maximum(summaries.std(0), LEAST_SPREAD)
        self.inputs: tuple[np.ndarray, np.ndarray] = self._inputs(x, prior)
        self.offset, self.unit = float(y.mean()), float(y.std()) or 1.0
        residual = (y - self.offset) / self.unit
        parts = _parts(self.inputs, self.inputs)
        recent = [part[-MOST_WEIGHED:, -MOST_WEIGHED:] for part in parts]
        self.weights = max(SETTINGS, key=lambda weights: _evidence(recent, weights, residual[-MOST_WEIGHED:]))
        root = np.linalg.cholesky(_kernel(parts, self.weights) + self.weights.noise * np.eye(len(y)))
        self.inverse = np.linalg.inv(root)
        """[N, N] of the root of the kernel of the data."""
        self.alpha = self.inverse.T @ (self.inverse @ residual)

    def predict(self, x: np.ndarray, prior: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the score at x [M, K], the noise of a measurement left out: [M] each."""
        points = self._inputs(x, prior)
        return self._predicted(points, _parts(points, self.inputs))

    def predict_both(
        self, x: np.ndarray, prior: np.ndarray, other: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, and the mean with another prior: [M] each."""
        points = self._inputs(x, prior)
        parts = _parts(points, self.inputs)
        summaries = _of_summaries(self._inputs(x, other)[1], self.inputs[1])
        shifted = self._mean(_kernel([*summaries, *parts[2:]], self.weights))
        return *self._predicted(points, parts), shifted

    def _predicted(
        self, points: tuple[np.ndarray, np.ndarray], parts: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        across = _kernel(parts, self.weights)
        variance = _own(points, self.weights) - ((across @ self.inverse.T) ** 2).sum(1)
        return self._mean(across), self.unit * np.sqrt(np.maximum(variance, 1e-9))

    def _mean(self, across: np.ndarray) -> np.ndarray:
        return np.asarray(self.offset + self.unit * (across @ self.alpha))

    def expecting(self, x: np.ndarray, prior: np.ndarray | None = None) -> Surrogate:
        """The same once scores at x [M, K] have come out as expected: surer near them. For trials that still run."""
        points, found = self._inputs(x, prior), object.__new__(Surrogate)
        found.__dict__ |= self.__dict__
        found.inputs = np.concatenate([self.inputs[0], points[0]]), np.concatenate([self.inputs[1], points[1]])
        below = _kernel(_parts(points, self.inputs), self.weights) @ self.inverse.T
        own = _kernel(_parts(points, points), self.weights) + self.weights.noise * np.eye(len(x))
        corner = np.linalg.inv(np.linalg.cholesky(own - below @ below.T))
        wide = np.zeros((len(self.inverse), len(x)))
        found.inverse = np.block([[self.inverse, wide], [-corner @ below @ self.inverse, corner]])
        found.alpha = np.append(self.alpha, np.zeros(len(x)))  # what comes as expected changes no mean
        return found

    def _inputs(self, x: np.ndarray, prior: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """[M, K] inputs and [M, S] summaries in units of their spread."""
        summaries = _summaries(x / self.range, prior)
        return (x / self.range - self.shift) / self.scale, (summaries - self.middle) / self.spread


@lru_cache(maxsize=8)
def _fitted(shapes: tuple[tuple[int, ...], ...], data: bytes) -> Surrogate:
    sizes = [math.prod(shape) for shape in shapes]
    pieces = np.split(np.frombuffer(data), np.cumsum(sizes)[:-1])
    return Surrogate(*(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)))


def fitted(x: np.ndarray, y: np.ndarray, prior: np.ndarray | None = None) -> Surrogate:
    """A `Surrogate`, kept for the next proposals: between two full trials they all ask for the same one."""
    arrays = [np.ascontiguousarray(each, float) for each in (x, y, *([] if prior is None else [prior]))]
    return _fitted(tuple(each.shape for each in arrays), b"".join(each.tobytes() for each in arrays))


def _summaries(x: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
    """[N, S] what is known beforehand; where nothing is, the inputs themselves."""
    found = x if prior is None or prior.shape[1:] == (0,) else np.asarray(prior, float)
    return found[:, None] if found.ndim == 1 else found


def _parts(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """[N, M] each: the line of the summaries, their smooth function, the line of each input, their smooth function."""
    return [*_of_summaries(a[1], b[1]), *_line_and_smooth(a[0], b[0], 2 * ALIKE[1] ** 2)]


def _of_summaries(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = max(1, a.shape[1])
    line, smooth = _line_and_smooth(a, b, 2 * count * ALIKE[0] ** 2)
    return 1 + line / count, smooth


def _line_and_smooth(a: np.ndarray, b: np.ndarray, wide: float) -> tuple[np.ndarray, np.ndarray]:
    line = a @ b.T
    near = line * (2 / wide)
    near -= (_squares(a) / wide)[:, None]
    near -= _squares(b) / wide
    return line, np.exp(near, out=near)


def _kernel(parts: Sequence[np.ndarray], weights: Weights) -> np.ndarray:
    found = parts[0] + weights.bend * parts[1]
    found += weights.each * parts[2]
    found += weights.rest * parts[3]
    return np.asarray(found)


def _own(points: tuple[np.ndarray, np.ndarray], weights: Weights) -> np.ndarray:
    """[M] the kernel of each point with itself."""
    line = 1 + _squares(points[1]) / max(1, points[1].shape[1])
    return np.asarray(line + weights.bend + weights.each * _squares(points[0]) + weights.rest)


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.asarray((rows**2).sum(1))


def _evidence(parts: Sequence[np.ndarray], weights: Weights, y: np.ndarray) -> float:
    """Logarithm of the probability of the data, but for a constant."""
    count = len(y)
    bordered = np.empty((count + 1, count + 1))  # the root's last row is then the inverse of the rest times y
    bordered[:count, :count] = _kernel(parts, weights) + weights.noise * np.eye(count)
    bordered[count, :count] = bordered[:count, count] = y
    bordered[count, count] = y @ y / weights.noise + 1.0
    root = np.linalg.cholesky(bordered)
    half = root[count, :count]
    return -0.5 * float(half @ half) - float(np.log(np.diag(root)[:count]).sum())


def probability_below(bound: float | np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Probability that normal variables are at most `bound`; the shapes broadcast."""
    return _erfc((mean - bound) / (math.sqrt(2) * deviation)) / 2


def _erfc(x: np.ndarray) -> np.ndarray:
    """Complementary error function, its relative error below 1.2e-7: the Chebyshev fit of Press et al., Numerical
    Recipes (1992), section 6.2. numpy has none, and the standard library's takes one number at a time."""
    t = 1 / (1 + np.abs(x) / 2)
    series = np.polynomial.polynomial.polyval(t, _ERFC)
    tail = t * np.exp(series - x * x)
    return np.asarray(np.where(x >= 0, tail, 2 - tail))


_ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806,
    0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip


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
    if shares.shape[1] == 1:
        costs, quality = np.reshape(points, (-1, 2)).T
        least = np.where(quality > bottoms[:, None], costs, 1.0).min(axis=1, initial=1.0)
        return np.asarray((filled * np.clip(least - shares, 0, None)).sum(1))
    dominated = [_newly_dominated(shares, np.array([p[:-1] for p in points if p[-1] > bottom])) for bottom in bottoms]
    return np.asarray((filled * np.stack(dominated, 1)).sum(1))


def _newly_dominated(shares: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[M] area of costs up to 1 that `shares` [M, 2] dominate and none of `taken` [N, 2] does."""
    if not len(taken):
        return np.clip(1 - shares, 0, None).prod(axis=1)
    # A staircase: from each step of the first cost on, the second cost is dominated from a lower height on.
    stairs = taken[non_dominated_losses(taken.tolist())]
    stairs = stairs[stairs[:, 0].argsort()]
    left, right = np.append(-np.inf, stairs[:, 0]), np.append(stairs[:, 0], 1.0)
    height = np.minimum(np.append(1.0, stairs[:, 1]), 1.0)
    widths = np.clip(np.minimum(right, 1.0) - np.maximum(left, shares[:, :1]), 0, None)
    return np.asarray((widths * np.clip(height - shares[:, 1:], 0, None)).sum(1))
