"""Points drawn from Optuna's distributions, one by one, for a sampler to choose among."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from effir_dist.core.values import Point
from effir_dist.search.strategy.guided.drawing import Drawing
from effir_dist.search.strategy.guided.pool import plain

DRAWS = 400
"""Points that are drawn for one proposal, at most: where none of them is new, all are taken to be tried."""


def points(
    distributions: Mapping[str, BaseDistribution], best: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> Iterator[Point]:
    """DRAWS points, half of them changed from `best` where there are any, in a mixed order."""
    found = Drawing(distributions).draw(DRAWS, best, rng)
    for place in rng.permutation(DRAWS):
        yield {name: plain(values[place]) for name, values in found.items()}
