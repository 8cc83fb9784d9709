"""The plans that a table covers: sets of MLPs and attentions to drop, times a width ratio for each group of blocks.

Of six blocks all sets of MLPs fit into a table, with a width for each half. Of more blocks there are the paper's plans,
a grid and a sample of others (`sampled`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from effir_dist.models.families.base import ModelDict
from effir_dist.models.pruning import PruningPlan, block_groups, make_plan

RATIOS = (1.0, 0.75, 0.5, 0.25)
GROUPS = 2
RANKING = "activation"
PAPER_SHARES, PAPER_RATIOS = (0.25, 0.5, 0.625, 0.75), (1.0, 0.7)
"""Of the paper's plans: 8, 16, 20 and 24 of 32 MLPs dropped; the width of those that stay."""
GRID_SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
MOST_ALL_SETS = 6
"""Blocks of a model of which a table has every set of MLPs."""


@dataclass(frozen=True)
class Point:
    """A plan of the space. Equal points give equal models."""

    dropped: tuple[int, ...]
    ratios: tuple[float, ...]
    """Of each group of blocks; 1 where all of its MLPs are dropped, so that no model has two points."""
    attentions: tuple[int, ...] = ()
    """Those that are dropped."""

    @property
    def key(self) -> str:
        """As it stands in the table: `0.3.4|1|0.5`, with attentions `0.3.4/1.2|1|0.5`."""
        gone = [".".join(map(str, each)) for each in (self.dropped, self.attentions)]
        return "|".join(["/".join(gone) if self.attentions else gone[0], *(f"{ratio:g}" for ratio in self.ratios)])

    @staticmethod
    def from_key(key: str) -> Point:
        """The inverse of `key`."""
        gone, *ratios = key.split("|")
        mlps, _, attentions = gone.partition("/")
        return Point(_blocks(mlps), tuple(map(float, ratios)), _blocks(attentions))

    def plan(self, config: ModelDict, neurons: np.ndarray) -> PruningPlan:
        """neurons: [L, F] scores. Each ratio holds over all MLPs of its group that stay."""
        return make_plan(config, self.dropped, self.attentions, self.ratios, neurons, RANKING)


def _blocks(text: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, text.split("."))))


def point(dropped: Sequence[int], ratios: Sequence[float], blocks: int, attentions: Sequence[int] = ()) -> Point:
    """The point of a choice: of a group without MLPs the ratio says nothing."""
    gone = tuple(sorted(set(dropped)))
    groups = block_groups(blocks, len(ratios))
    kept = tuple(1.0 if set(g) <= set(gone) else float(r) for r, g in zip(ratios, groups, strict=True))
    return Point(gone, kept, tuple(sorted(set(attentions))))


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


def paper(order: Sequence[int], groups: int) -> list[Point]:
    """The paper's own plans, as shares of the blocks: drops in order of importance, then 30 % of the width or none."""
    blocks = len(order)
    counts = dict.fromkeys(round(share * blocks) for share in PAPER_SHARES)
    return [point(order[:k], [r] * groups, blocks) for k in counts for r in PAPER_RATIOS]


def grid(order: Sequence[int], groups: int) -> list[Point]:
    """22 plans: drops in order of importance times one width; without the unpruned model and the smallest."""
    blocks = len(order)
    found = [point(order[: round(s * blocks)], [r] * groups, blocks) for s in GRID_SHARES for r in RATIOS]
    return found[1:-1]


def sampled(mlps: Sequence[int], attentions: Sequence[int], groups: int, count: int, seed: int) -> list[Point]:
    """`count` other plans of many kinds. mlps, attentions: blocks by rising importance of either.

    In turn: any set with any widths; a set near the order of importance with widths that grow or fall with depth; whole
    blocks; attentions beside some MLPs; widths alone.
    """
    rng, found = random.Random(seed), dict[Point, None]()
    makers = (_any_set, _near_order, _whole_blocks, _attentions_too, _near_order, _widths_alone)
    while len(found) < count:
        make = makers[len(found) % len(makers)]
        found[make(rng, list(mlps), list(attentions), groups)] = None
    return list(found)


def _ratio(rng: random.Random) -> float:
    return round(rng.uniform(0.25, 1.0), 2)


def _any_set(rng: random.Random, mlps: list[int], _: list[int], groups: int) -> Point:
    count = rng.randint(1, round(0.75 * len(mlps)))
    return point(rng.sample(mlps, count), [_ratio(rng) for _ in range(groups)], len(mlps))


def _near(rng: random.Random, order: list[int], count: int) -> list[int]:
    """Mostly the first of an order: each block's place is moved by up to a third of the length."""
    reach = len(order) / 3
    return sorted(order, key=lambda block: order.index(block) + rng.uniform(-reach, reach))[:count]


def _near_order(rng: random.Random, mlps: list[int], _: list[int], groups: int) -> Point:
    gone = _near(rng, mlps, rng.randint(1, round(0.75 * len(mlps))))
    first, last = _ratio(rng), rng.choice((1.0, _ratio(rng)))
    widths = [round(first + (last - first) * g / max(1, groups - 1), 2) for g in range(groups)]
    return point(gone, widths, len(mlps))


def _whole_blocks(rng: random.Random, mlps: list[int], attentions: list[int], groups: int) -> Point:
    order = sorted(mlps, key=lambda block: mlps.index(block) + attentions.index(block))
    gone = _near(rng, order, rng.randint(1, round(0.5 * len(mlps))))
    return point(gone, [rng.choice((1.0, _ratio(rng)))] * groups, len(mlps), gone)


def _attentions_too(rng: random.Random, mlps: list[int], attentions: list[int], groups: int) -> Point:
    gone = _near(rng, mlps, rng.randint(0, round(0.5 * len(mlps))))
    off = _near(rng, attentions, rng.randint(1, round(0.5 * len(mlps))))
    return point(gone, [rng.choice((1.0, _ratio(rng)))] * groups, len(mlps), off)


def _widths_alone(rng: random.Random, mlps: list[int], _: list[int], groups: int) -> Point:
    return point((), [_ratio(rng) for _ in range(groups)], len(mlps))


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
