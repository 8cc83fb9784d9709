"""The best hypervolume that is known of a table's world: what the strategies are measured by.

Of six blocks every plan is looked at. Of more blocks an evolutionary search (NSGA-II: Deb et al., 2002) asks the
emulator itself what plans are worth, without a cost: tens of thousands of them, from the table's rows on. It is the
best known, not the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.search import plans
from benchmarks.search.plans import Point, point
from benchmarks.search.world import Pair, World, front_of
from effir_dist.runs.pareto import hypervolume
from effir_dist.search.strategy.non_dominated_sort import best_first

POPULATION, GENERATIONS = 150, 120
CHANGES = 1.5
"""Values of a child that mutate, on average."""


@dataclass(frozen=True)
class Best:
    """The best front that is known."""

    hypervolume: float
    front: dict[Point, Pair]
    """Size and worth of each plan, smallest first."""
    plans: int
    """How many different ones were looked at."""


def best_known(world: World, seed: int = 0) -> Best:
    """Of a world; the same for the same seed."""
    table, found = world.table, dict[Point, None]()
    for groups in {1, table.groups}:
        few = table.blocks <= plans.MOST_ALL_SETS
        evolved = () if few else _evolved(world, groups, np.random.default_rng(seed))
        found |= dict.fromkeys(plans.all_points(table.blocks, groups=groups) if few else evolved)
    return _best(world, list(found))


def _best(world: World, points: list[Point]) -> Best:
    pairs = _pairs(world, points)
    front = front_of(pairs)
    found = {pair: each for each, pair in zip(points, pairs, strict=True)}
    return Best(hypervolume(front), {found[pair]: pair for pair in front}, len(pairs))


def _pairs(world: World, points: list[Point]) -> list[Pair]:
    world.emulator.worth([world.table.plan(each) for each in points])  # all at once
    return [world.expected(each) for each in points]


def _evolved(world: World, groups: int, rng: np.random.Generator) -> list[Point]:
    """All plans that the search looked at. A plan's genes: a bit for each MLP, one for each attention where the space
    drops these, and the place of each group's width."""
    table = world.table
    widths = _widths(table.space["width_ratio"])
    most = [int(table.space[kind]["max"]) for kind in ("drop_mlp", "drop_attention") if kind in table.space]

    def meant(genes: np.ndarray) -> Point:
        bits, places = np.split(genes, [len(most) * table.blocks])
        mlps, attentions = (np.flatnonzero(b).tolist() for b in (bits[: table.blocks], bits[table.blocks :]))
        return point(mlps, [widths[i] for i in places], table.blocks, attentions)

    known = [each for each in table.points if len(most) > 1 or not each.attentions]
    genes = np.array([_genes(each, widths, table.blocks, len(most), groups) for each in known])
    seen: dict[Point, Pair] = {}
    for _ in range(GENERATIONS):
        children = _children(genes, rng, len(widths), table.blocks, most)
        genes = np.unique(np.concatenate([genes, children]), axis=0)
        genes = genes[_survivors(world, genes, meant, seen)]
    return list(seen)


def _survivors(
    world: World, genes: np.ndarray, meant: Callable[[np.ndarray], Point], seen: dict[Point, Pair]
) -> list[int]:
    """Places of those that go on, by non-dominated rank and crowding distance."""
    points = [meant(each) for each in genes]
    new = [each for each in dict.fromkeys(points) if each not in seen]
    seen |= dict(zip(new, _pairs(world, new), strict=True))
    losses = [(seen[each][0], -seen[each][1]) for each in points]
    return best_first(losses)[:POPULATION]


def _children(genes: np.ndarray, rng: np.random.Generator, widths: int, blocks: int, most: list[int]) -> np.ndarray:
    """[POPULATION, genes] of two parents each, with mutations; none drops more than `most` of a kind."""
    count, bits = genes.shape[1], len(most) * blocks
    first, second = (genes[rng.integers(len(genes), size=POPULATION)] for _ in range(2))
    found = np.where(rng.random(first.shape) < 0.5, first, second)
    mutated = rng.random(found.shape) < CHANGES / count
    drawn = np.column_stack([1 - found[:, :bits], rng.integers(widths, size=(POPULATION, count - bits))])
    found = np.where(mutated, drawn, found)
    dropped = found[:, :bits].reshape(POPULATION, len(most), blocks).sum(2)
    return found[(dropped <= most).all(1)]


def _widths(ratio: dict[str, float]) -> list[float]:
    steps = round((ratio["high"] - ratio["low"]) / ratio["step"])
    return [round(ratio["low"] + i * ratio["step"], 6) for i in range(steps + 1)]


def _genes(each: Point, widths: list[float], blocks: int, kinds: int, groups: int) -> list[int]:
    """The nearest genes that mean a point, with a width for each of its first `groups`."""
    near = [min(range(len(widths)), key=lambda i: abs(widths[i] - ratio)) for ratio in each.ratios]
    dropped = (each.dropped, each.attentions)[:kinds]
    return [*(int(block in gone) for gone in dropped for block in range(blocks)), *near[:groups]]
