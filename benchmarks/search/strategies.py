"""The strategies that `replay` compares. Each has `ask` and `tell` (`world.Strategy`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from benchmarks.search import plans
from benchmarks.search.encodings import LAYERS, WIDTHS, Encoding, point_of
from benchmarks.search.outcomes import Table
from benchmarks.search.plans import RANKING, Point, point
from benchmarks.search.simulated import Memory, is_full
from benchmarks.search.world import Job, Strategy, World
from effir_dist.core.config import replace
from effir_dist.core.settings import RunConfig
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.next_trial import TrialQueue

Make = Callable[[World, int], Strategy]
"""A strategy for a seed."""
AHEAD = 64
"""Plans of random search whose answers are computed together."""
KNOWN = 500
"""Known plans that are drawn in a row before all are taken to be tried."""


class Full:
    """Full trainings of plans as they come, each model once."""

    def __init__(self, world: World, points: Iterator[Point], ahead: int) -> None:
        self.world, self.points, self.ahead = world, points, ahead
        self.seen: set[PruningPlan] = set()
        self.left: list[Point] = []

    def ask(self) -> Job | None:
        if not self.left:
            self.left = list(itertools.islice(self._new(), self.ahead))
            if self.left:
                self.world.ahead(self.left)
        return Job(self.left.pop(0), True) if self.left else None

    def tell(self, job: Job, score: float) -> None:
        pass

    def _new(self) -> Iterator[Point]:
        known = 0
        for each in self.points:
            plan = self.world.table.plan(each)
            known = known + 1 if plan in self.seen else 0
            if not known:
                self.seen.add(plan)
                yield each
            elif known > KNOWN:
                return


def shuffled(world: World, points: list[Point], seed: int) -> Strategy:
    """The unpruned model, then the others in a random order: wherever they stop, they are a fair part of all."""
    order = np.random.default_rng(seed).permutation(len(points))
    first = [each for each in points if world.table.plan(each) == PruningPlan()]
    return Full(world, iter([*first, *(points[i] for i in order)]), len(points))


def recipe(world: World, seed: int) -> Strategy:
    """The paper's: drop so many, the least important first, and narrow the rest by one ratio. Of six blocks every
    number and four ratios, of more blocks the paper's own shares."""
    table, order = world.table, world.table.importance.drop_order()
    few = table.blocks <= plans.MOST_ALL_SETS
    whole = point((), [1.0] * table.groups, table.blocks)
    return shuffled(world, plans.recipe(order) if few else [whole, *plans.paper(order, table.groups)], seed)


def grid(world: World, seed: int) -> Strategy:
    """22 plans: prefixes of the order of importance times widths; and the unpruned model."""
    table = world.table
    whole = point((), [1.0] * table.groups, table.blocks)
    return shuffled(world, [whole, *plans.grid(table.importance.drop_order(), table.groups)], seed)


def random_search(encoding: Encoding) -> Make:
    """Values of an encoding's search space, all equally likely; the unpruned model first."""

    def make(world: World, seed: int) -> Strategy:
        return Full(world, _drawn(world.table, encoding, np.random.default_rng(seed)), AHEAD)

    return make


def _drawn(table: Table, encoding: Encoding, rng: np.random.Generator) -> Iterator[Point]:
    space = encoding.space(table)
    distributions = spaces.distributions(space, table.blocks)
    yield point((), [1.0] * encoding.groups(table), table.blocks)
    while True:
        yield point_of(space, {name: _value(each, rng) for name, each in distributions.items()}, table)


def _value(distribution: Any, rng: np.random.Generator) -> Any:
    """One of a distribution of the replay's spaces, all equally likely."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[rng.integers(len(distribution.choices))]
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None:
        return float(rng.uniform(low, high))
    value = low + step * int(rng.integers(round((high - low) / step) + 1))
    return int(value) if isinstance(distribution, IntDistribution) else round(value, 6)


class Product:
    """A search of the product: its queue of trials, with its samplers and its schedulers, as a driver asks it."""

    def __init__(self, world: World, seed: int, sampler: str, encoding: Encoding, screened: bool) -> None:
        table = world.table
        scheduler = "screening" if screened else "plain"
        names = {"seed": seed, "sampler": sampler, "scheduler": scheduler, "screening_cost": "flops"}
        settings = {"prune.ranking": RANKING, "prune.keep_norms": table.keep_norms}
        config = replace(RunConfig(), {**settings, **{f"search.{k}": v for k, v in names.items()}})
        self.world, self.space, self.memory, self.number = world, encoding.space(table), Memory(), 0
        neurons = {RANKING: table.neurons}
        work = {**table.work, "train": world.train, "score": world.score, "low": table.work["score_small"]}
        self.queue = TrialQueue(self.memory, config, self.space, table.model_config, table.importance, neurons, work)
        self.specs: dict[Job, TrialSpec] = {}

    def ask(self) -> Job | None:
        spec = self.queue.next(self.number)
        if spec is None:
            return None
        self.number += spec.number == self.number
        found = point_of(self.space, spec.suggested, self.world.table)
        job = Job(found, is_full(self.queue, spec))
        self.specs[job] = spec
        return job

    def tell(self, job: Job, score: float) -> None:
        self.memory.tell(self.queue, self.specs.pop(job), score)


SAMPLERS = ("tpe", "nsga2", "gp", "guided")


def _product(sampler: str, encoding: Encoding, screened: bool) -> Make:
    return lambda world, seed: Product(world, seed, sampler, encoding, screened)


def _all() -> dict[str, Make]:
    """Every sampler with every encoding, screened and not."""
    found: dict[str, Make] = {"recipe": recipe, "grid": grid}
    for layers, widths in itertools.product(LAYERS, WIDTHS):
        encoding = Encoding(layers, widths)
        found[f"random {layers} {widths}"] = random_search(encoding)
        for sampler, screened in itertools.product(SAMPLERS, (False, True)):
            name = f"{sampler} {layers} {widths}" + (" screened" if screened else "")
            found[name] = _product(sampler, encoding, screened)
    return found


STRATEGIES = _all()
BEST = {"tpe": "flips global", "nsga2": "flips global", "gp": "prefix group"}
"""Sampler -> its best encoding, screened or not: hypervolume at costs of 10 and 20, mean of the tables pydocs, medquad
and smollm2, two seeds (`replay TABLES --workers 1 --budget 20 --seeds 2 --only tpe nsga2 --out DIR`). GP, of which a
proposal takes seconds, has what was best for NSGA-II on a made-up table."""
SHOWN = ("random set group", "recipe", "grid", "guided set group screened")
COMPARED = (*SHOWN, *(f"{sampler} {best}{more}" for sampler, best in BEST.items() for more in ("", " screened")))
"""What is replayed where no strategies are named."""
