"""Intervals of a mean over queries and trainings, and paired ones of the difference of two models.

A sample is data set -> [S, Q]: a metric for each of S trainings (seeds) and Q queries. Its value is the mean over seeds
and queries of each data set, then over data sets, as for a trial's quality. A draw resamples the queries of each data
set, with replacement; both sides of a difference get the same ones (Efron and Tibshirani, 1993).

Seeds are too few to be resampled: a bootstrap of two takes the same one twice half of the time. Their part is Student's
t interval of the seeds' means; in a difference with the variance of both sides pooled, as in a t test of two samples.
The two parts are of independent effects, so their half widths are joined as the root of the sum of their squares (Zou
and Donner, 2008). With one seed a side that part is not known: the interval is then over queries alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Sample = Mapping[str, "np.ndarray"]
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A value and the interval that covers it with probability `level`, about."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Of a difference: whether 0 lies within."""
        return self.low <= 0 <= self.high


def mean_interval(sample: Sample, level: float = 0.95, seed: int = 0) -> Interval:
    """The interval of one model's value."""
    return _interval(_value(sample), _draws(sample, seed), _seeds_part(sample, None, level), level)


def difference_interval(sample: Sample, other: Sample, level: float = 0.95, seed: int = 0) -> Interval:
    """The interval of `sample` minus `other`, on the same data sets and queries. The numbers of seeds may differ.

    Raises ValueError where data sets or queries do not match.
    """
    if sample.keys() != other.keys() or any(sample[d].shape[1] != other[d].shape[1] for d in sample):
        raise ValueError("a paired difference needs the same data sets and queries on both sides")
    # One seed for both: they share the draws of queries.
    value, draws = _value(sample) - _value(other), _draws(sample, seed) - _draws(other, seed)
    return _interval(value, draws, _seeds_part(sample, other, level), level)


def many_draws(
    samples: Mapping[str, np.ndarray], seed: int = 0, pooled: Mapping[int, Sequence[int]] | None = None
) -> dict[str, np.ndarray]:
    """Data set -> [DRAWS, N] means of N models over resampled queries, from their metric [N, Q] of one training each.

    pooled: column -> the columns, its own too, of trainings that it stands for: it becomes their mean. A thousand
    models cost one table of draws. The part of the seeds is added by `seeds_part` and `widened`.
    """
    import numpy as np

    found = {}
    for number, name in enumerate(sorted(samples)):
        queries = samples[name].shape[1]
        counts = _query_counts(np.random.default_rng([seed, number]), queries)
        found[name] = over_trainings(counts @ samples[name].T / queries, pooled or {})
    return found


def over_trainings(values: np.ndarray, pooled: Mapping[int, Sequence[int]]) -> np.ndarray:
    """[.., N] of trainings -> [.., N], each column of `pooled` the mean of its columns."""
    found = values.copy()
    for column, members in pooled.items():
        found[..., column] = values[..., [*members]].mean(axis=-1)
    return found


def seeds_part(one: np.ndarray, other: np.ndarray | None = None, level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean of `one` [S], or of its difference from that of `other` [S'].

    0 where no side has two seeds. A side with one is taken to vary as the other. Seeds are taken to vary alike on both
    sides; where one varies three times as much as the other, 95 % become 92.
    """
    sides = [one] if other is None else [one, other]
    freedom = sum(len(side) - 1 for side in sides)
    if not freedom:
        return 0.0
    variance = sum(float(((side - side.mean()) ** 2).sum()) for side in sides) / freedom
    return student_quantile(freedom, level) * math.sqrt(variance * sum(1 / len(side) for side in sides))


@functools.lru_cache
def student_quantile(freedom: int, level: float) -> float:
    """t with which |T| <= t has probability `level`, T of Student's distribution with `freedom` degrees, 1 or more."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(freedom, middle) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student_within(freedom: int, angle: float) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)), a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd, cosine = freedom % 2, math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def widened(value: np.ndarray | float, bounds: np.ndarray, seeds: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds over queries and seeds, from those over queries alone, [2] or [2, N], and `seeds_part`."""
    import numpy as np

    low, high = bounds
    return value - np.hypot(value - low, seeds), value + np.hypot(high - value, seeds)


def _query_counts(rng: np.random.Generator, queries: int) -> np.ndarray:
    """[DRAWS, Q]: how often each query is drawn."""
    import numpy as np

    return rng.multinomial(queries, np.full(queries, 1 / queries), size=DRAWS)


def _value(sample: Sample) -> float:
    return float(sum(values.mean() for values in sample.values()) / len(sample))


def _draws(sample: Sample, seed: int) -> np.ndarray:
    """[DRAWS] means of resampled queries."""
    draws = [_dataset_draws(sample[name], seed, number) for number, name in enumerate(sorted(sample))]
    return sum(draws[1:], draws[0]) / len(sample)


def _dataset_draws(values: np.ndarray, seed: int, number: int) -> np.ndarray:
    """[DRAWS] resampled means of one data set's values [S, Q], the `number`th by name."""
    import numpy as np

    counts = _query_counts(np.random.default_rng([seed, number]), values.shape[1])
    return np.asarray(counts @ values.mean(axis=0) / values.shape[1])


def _seeds_part(sample: Sample, other: Sample | None, level: float) -> float:
    """`seeds_part` of the mean over data sets. A training is scored on all of them, so that its luck is in all."""
    import numpy as np

    sides = [{name: values.mean(axis=1) for name, values in side.items()} for side in (sample, other) if side]
    if all(len({len(means) for means in side.values()}) == 1 for side in sides):
        sides = [{"": np.mean([*side.values()], axis=0)} for side in sides]
    each = [seeds_part(sides[0][name], sides[-1][name] if other else None, level) for name in sides[0]]
    return sum(each) / len(each)  # not all trainings were scored on all data sets: as if they had the same luck


def _interval(value: float, draws: np.ndarray, seeds: float, level: float) -> Interval:
    import numpy as np

    low, high = widened(value, np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]), seeds)
    return Interval(value, float(low), float(high))
