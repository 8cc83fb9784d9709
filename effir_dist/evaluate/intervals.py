"""Bootstrap intervals of a mean over queries, and paired ones of the difference of two models.

A sample is data set -> [S, Q]: a metric for each of S trainings (seeds) and Q queries. Its value is the mean over seeds
and queries of each data set, then over data sets, as for a trial's quality. A draw resamples the seeds, and the queries
of each data set, with replacement. Both sides of a difference get the same queries (Efron and Tibshirani, 1993).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Sample = Mapping[str, "np.ndarray"]
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A value and the middle `level` of its bootstrap draws."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Of a difference: whether 0 lies within."""
        return self.low <= 0 <= self.high


def mean_interval(sample: Sample, level: float = 0.95, seed: int = 0) -> Interval:
    """The interval of one model's value."""
    return _interval(_value(sample), _draws(sample, seed), level)


def difference_interval(sample: Sample, other: Sample, level: float = 0.95, seed: int = 0) -> Interval:
    """The interval of `sample` minus `other`, on the same data sets and queries. The numbers of seeds may differ.

    Raises ValueError where data sets or queries do not match.
    """
    if sample.keys() != other.keys() or any(sample[d].shape[1] != other[d].shape[1] for d in sample):
        raise ValueError("a paired difference needs the same data sets and queries on both sides")
    # One seed for both: they share the draws of queries, which are made before those of seeds.
    return _interval(_value(sample) - _value(other), _draws(sample, seed) - _draws(other, seed), level)


def many_draws(
    samples: Mapping[str, np.ndarray], seed: int = 0, pooled: Mapping[int, Sequence[int]] | None = None
) -> dict[str, np.ndarray]:
    """Data set -> [DRAWS, N] resampled means of N models trained once each, from their metric [N, Q].

    pooled: column -> the columns, its own too, whose trainings are resampled as its seeds.
    A column's mean over data sets has the quantiles of `mean_interval`, and the difference of two columns those of
    `difference_interval`. So a thousand models cost one table of draws and not a thousand.
    """
    import numpy as np

    found = {}
    for number, name in enumerate(sorted(samples)):
        queries = samples[name].shape[1]
        counts = _query_counts(np.random.default_rng([seed, number]), queries)
        found[name] = counts @ samples[name].T / queries
        for column, members in (pooled or {}).items():
            found[name][:, column] = _dataset_draws(samples[name][[*members]], seed, number)
    return found


def _query_counts(rng: np.random.Generator, queries: int) -> np.ndarray:
    """[DRAWS, Q]: how often each query is drawn."""
    import numpy as np

    return rng.multinomial(queries, np.full(queries, 1 / queries), size=DRAWS)


def _value(sample: Sample) -> float:
    return float(sum(values.mean() for values in sample.values()) / len(sample))


def _draws(sample: Sample, seed: int) -> np.ndarray:
    """[DRAWS] values of resampled samples."""
    draws = [_dataset_draws(sample[name], seed, number) for number, name in enumerate(sorted(sample))]
    return sum(draws[1:], draws[0]) / len(sample)


def _dataset_draws(values: np.ndarray, seed: int, number: int) -> np.ndarray:
    """[DRAWS] resampled means of one data set's values [S, Q], the `number`th by name."""
    import numpy as np

    rng, (seeds, queries) = np.random.default_rng([seed, number]), values.shape
    counts = _query_counts(rng, queries)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
    return ((weights @ values) * counts).sum(axis=1) / (seeds * queries)


def _interval(value: float, draws: np.ndarray, level: float) -> Interval:
    import numpy as np

    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
