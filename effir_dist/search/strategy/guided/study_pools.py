"""Pools of points for a plain study: functions of a point say what is known of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from effir_dist.search.strategy.guided import observe
from effir_dist.search.strategy.guided.candidates import points as drawn
from effir_dist.search.strategy.guided.drawing import Drawing
from effir_dist.search.strategy.guided.observe import Axes, Distributions, Key, Observer, Params
from effir_dist.search.strategy.guided.points import Points
from effir_dist.search.strategy.guided.pool import Pool, columns_of

Draw = Callable[[Distributions, Sequence[Any], np.random.Generator], Iterable[Params]]
"""(search space, params of the front, random numbers) -> points, of which the new ones are candidates."""


class StudyPools:
    """Of one proposal."""

    def __init__(
        self,
        observer: Observer,
        space: Distributions,
        axes: Axes,
        tried: Collection[Key | None],
        allowed: Callable[[Params], bool] | None,
        points: Draw | None,
    ) -> None:
        """tried: keys of the points of the study's trials. allowed, points: as `GuidedSampler` takes them."""
        self.observer, self.space, self.axes = observer, space, axes
        self.tried, self.allowed, self.points = set(tried), allowed, points

    def draw(self, best: Sequence[Mapping[str, Any]], count: int, rng: np.random.Generator) -> Pool:
        """Up to `count` new points; where all were tried, one of them."""
        allowed = filter(self.allowed, (self.points or drawn)(self.space, best, rng))
        new, again = dict[Key | None, Params](), list[Params]()
        for point in allowed:
            key = observe.key_of(point, self.space)
            if key in self.tried:
                again.append(point)
            else:
                new.setdefault(key, point)
            if len(new) >= count:
                break
        return self._pool([*new.values()] or again[:1])

    def near(self, best: Pool, count: int, rng: np.random.Generator) -> Pool:
        """None where the owner draws the points: then it alone knows which there are."""
        if self.points:
            return best.take([])
        columns = Drawing(self.space).near(best.columns, count, rng)
        names, rows = list(columns), zip(*(values.tolist() for values in columns.values()), strict=True)
        known = self.tried | set(best.keys)
        found = {key: dict(zip(names, key, strict=True)) for key in rows if key not in known}
        return self._pool([*itertools.islice(filter(self.allowed, found.values()), count)])

    def _pool(self, points: Sequence[Params]) -> Pool:
        known = [self.observer.point(point, self.space, self.axes) for point in points]
        found = Points.of(known)
        expense = found.expense[:, None]
        return Pool(
            columns=columns_of(points, [name for name in self.space if points and name in points[0]]),
            keys=[observe.key_of(point, self.space) for point in points],
            shares=found.costs,
            features=found.features,
            prior=found.prior,
            training=np.zeros_like(expense),
            scoring=expense,
            feasible=np.ones(len(points), bool),
        )
