"""The small space that the table covers: every set of MLPs to drop, times a width ratio for each half of the blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from effir_dist.models.families.base import ModelDict
from effir_dist.models.pruning import PruningPlan, block_groups, make_plan

RATIOS = (1.0, 0.75, 0.5, 0.25)
GROUPS = 2
RANKING = "activation"


@dataclass(frozen=True)
class Point:
    """A plan of the space. Equal points give equal models."""

    dropped: tuple[int, ...]
    ratios: tuple[float, ...]
    """Of each group of blocks; 1 where all of its MLPs are dropped, so that no model has two points."""

    @property
    def key(self) -> str:
        """As it stands in the table: `0.3.4|1|0.5`."""
        return "|".join([".".join(map(str, self.dropped)), *(f"{ratio:g}" for ratio in self.ratios)])

    @staticmethod
    def from_key(key: str) -> Point:
        """The inverse of `key`."""
        dropped, *ratios = key.split("|")
        return Point(tuple(map(int, filter(None, dropped.split(".")))), tuple(map(float, ratios)))

    def plan(self, config: ModelDict, neurons: np.ndarray) -> PruningPlan:
        """neurons: [L, F] scores. Each ratio holds over all MLPs of its group that stay."""
        return make_plan(config, self.dropped, (), self.ratios, neurons, RANKING)


def point(dropped: Sequence[int], ratios: Sequence[float], blocks: int) -> Point:
    """The point of a choice: of a group without MLPs the ratio says nothing."""
    gone = tuple(sorted(set(dropped)))
    groups = block_groups(blocks, len(ratios))
    kept = tuple(1.0 if set(g) <= set(gone) else float(r) for r, g in zip(ratios, groups, strict=True))
    return Point(gone, kept)


def all_points(blocks: int, ratios: Sequence[float] = RATIOS, groups: int = GROUPS) -> list[Point]:
    """Every point once, the unpruned model first."""
    found: dict[Point, None] = {}
    for count in range(blocks + 1):
        for dropped in itertools.combinations(range(blocks), count):
            for choice in itertools.product(ratios, repeat=groups):
                found[point(dropped, choice, blocks)] = None
    return list(found)


def one_width(blocks: int) -> list[Point]:
    """Those with one ratio for all that stays: every set of MLPs to drop times every ratio."""
    sets = itertools.chain.from_iterable(itertools.combinations(range(blocks), k) for k in range(blocks + 1))
    return list(dict.fromkeys(point(d, [r] * GROUPS, blocks) for d in sets for r in RATIOS))


def by_importance(scores: Sequence[float]) -> list[int]:
    """Blocks by rising importance of their MLP, the first of equal ones first."""
    return sorted(range(len(scores)), key=lambda block: (scores[block], block))


def recipe(order: Sequence[int]) -> list[Point]:
    """The paper's: drops in order of importance, times one ratio for all that stays. order: of all blocks."""
    blocks = len(order)
    return list(dict.fromkeys(point(order[:k], [r] * GROUPS, blocks) for r in RATIOS for k in range(blocks + 1)))


def distinct_plans(
    points: Sequence[Point], config: ModelDict, neurons: np.ndarray
) -> Iterator[tuple[Point, PruningPlan]]:
    """Points with their plans, the first of those that give the same model: a width can leave an MLP no neuron."""
    seen: set[PruningPlan] = set()
    for each in points:
        plan = each.plan(config, neurons)
        if plan not in seen:
            seen.add(plan)
            yield each, plan
