"""What is known of many plans before any of them is scored, as arrays.

A sampler weighs hundreds of plans for each trial and takes one, so none is built. All here equals what
`Problem.spec` and `Problem.candidate` say of each plan by itself (tests/search/test_many_plans.py); where an operation
has no fast way (`SpacePart.left`), those are asked one by one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from effir_dist.core.values import Point
from effir_dist.models.operations.many import Columns
from effir_dist.search.strategy.guided.points import Points


@dataclass(frozen=True)
class Candidate:
    """What is known of a plan before it is scored."""

    shares: tuple[float, ...]
    """Costs that are objectives, as shares of the unpruned model's; NaN: the lowest rung will measure it."""
    features: tuple[float, ...]
    """What is left of each part, in [0, 1], and the settings that vary."""
    training: tuple[float, ...]
    """For each rung: what training from the start to there costs, in full trials of the unpruned model."""
    scoring: tuple[float, ...]
    """For each rung: what scoring there costs."""
    prior: tuple[float, ...] = ()
    """Numbers that the score is expected to fall or rise with, such as the damage that importance predicts."""


@dataclass(frozen=True)
class Pool:
    """P plans."""

    columns: Columns
    """Their suggested values."""
    keys: Sequence[Hashable]
    """[P] equal for plans that would give the same model."""
    shares: np.ndarray
    """[P, C] `Candidate.shares`."""
    features: np.ndarray
    """[P, K] `Candidate.features`."""
    prior: np.ndarray
    """[P, S] `Candidate.prior`."""
    training: np.ndarray
    """[P, rungs] `Candidate.training`."""
    scoring: np.ndarray
    """[P, rungs] `Candidate.scoring`."""
    feasible: np.ndarray
    """[P] whether it violates no constraint, whatever its training makes of it."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def expense(self) -> np.ndarray:
        """[P] of training and scoring in full."""
        return np.asarray(self.training[:, -1] + self.scoring[:, -1])

    def points(self) -> Points:
        """The same for a surrogate: nothing was evaluated yet."""
        unknown = np.full(len(self), math.nan)
        return Points(self.features, self.shares, self.prior, self.expense, unknown, unknown, [{}] * len(self))

    def point(self, place: int) -> Point:
        """The suggested values of one."""
        return {name: plain(values[place]) for name, values in self.columns.items()}

    def candidate(self, place: int) -> Candidate:
        """What is known of one."""
        rows = (self.shares, self.features, self.training, self.scoring, self.prior)
        return Candidate(*(tuple(row[place].tolist()) for row in rows))

    def take(self, places: Sequence[int] | np.ndarray) -> Pool:
        """Some of them."""
        places = np.asarray(places, int)
        columns = {name: values[places] for name, values in self.columns.items()}
        arrays = (self.shares, self.features, self.prior, self.training, self.scoring, self.feasible)
        return Pool(columns, [self.keys[i] for i in places], *(array[places] for array in arrays))


class Pools(Protocol):
    """Draws pools of points that are new, allowed and all different."""

    def draw(self, best: Sequence[Mapping[str, Any]], count: int, rng: np.random.Generator) -> Pool:
        """About `count` points, some of them changed from `best`; empty where all were tried."""

    def near(self, best: Pool, count: int, rng: np.random.Generator) -> Pool:
        """Points with small changes to those of `best`; empty where there are none."""


def plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def columns_of(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Points as columns. Values keep their types, so that 1, 1.0 and True stay apart where they mean a choice."""
    return {name: column([point[name] for point in points]) for name in names}


def column(values: Sequence[Any]) -> np.ndarray:
    """[P] values of one type as numbers, others as they are."""
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        return np.array(values)
    found = np.empty(len(values), object)
    found[:] = values
    return found
