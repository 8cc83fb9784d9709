"""A table as the world that a strategy searches: what evaluations give and cost, workers, the curve that follows."""

from __future__ import annotations

import csv
import heapq
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.search import plans
from benchmarks.search.plans import Point
from effir_dist.models.pruning import block_groups
from effir_dist.runs.pareto import hypervolume


class Strategy(Protocol):
    """What is compared. Plans are rows of the table; rung 0 is without training, the last is the full one."""

    def ask(self) -> tuple[int, int] | None:
        """The next evaluation (plan, rung), for a worker that is free; None where there is none (now)."""

    def tell(self, plan: int, rung: int, score: float) -> None:
        """An evaluation ended; score is nDCG@10 as a share of the unpruned model's after full training."""


@dataclass(frozen=True)
class Table:
    """All plans that have every score."""

    points: list[Point]
    sizes: np.ndarray
    """[N] shares of the unpruned model's parameters."""
    scores: np.ndarray
    """[N, rungs] nDCG@10 as a share of the unpruned model's at the top."""
    low_scores: np.ndarray
    """[N, rungs] on the small part of the collection."""
    test: np.ndarray
    """[N] on the test split, as a share of the unpruned model's there."""
    work: np.ndarray
    """[N, rungs] of a training up to there, in full trainings with one scoring of the unpruned model."""
    scoring: np.ndarray
    """[N, 2] of one scoring on the whole collection and on its small part."""
    kept: np.ndarray
    """[N, L] share of the neurons left in each MLP."""
    order: list[int]
    """Blocks by rising importance of their MLP."""

    @property
    def rungs(self) -> int:
        return self.scores.shape[1]

    @property
    def blocks(self) -> int:
        return self.kept.shape[1]

    def index(self) -> dict[Point, int]:
        return {point: i for i, point in enumerate(self.points)}

    def best(self) -> float:
        """Hypervolume of all plans, fully trained."""
        return self.hypervolume(range(len(self.points)))

    def hypervolume(self, plans: list[int] | range, test: bool = False) -> float:
        """Hypervolume of some plans, fully trained."""
        quality = self.test if test else self.scores[:, -1]
        return hypervolume([(float(self.sizes[i]), float(quality[i])) for i in plans])


def load(folder: Path) -> Table:
    """A table that `table` left in a folder; plans without all scores are left out."""
    facts = json.loads((folder / "facts.json").read_text())
    with (folder / "table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]
    stops = [int(name.removeprefix("ndcg_")) for name in rows[0] if name.startswith("ndcg_")]
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name not in ("key", "device")}
    points = [Point.from_key(row["key"]) for row in rows]
    full = next(i for i, point in enumerate(points) if not point.dropped and set(point.ratios) == {1.0})
    work, share = facts["work"], columns["moving_share"]
    whole = work[f"train_{stops[-1]}"] + work["score"]
    trained = np.array([0.0, *(work[f"train_{stop}"] for stop in stops[1:])]) / whole
    scoring = np.array([work["score"], work["score_small"]]) / whole
    scores = np.stack([columns[f"ndcg_{stop}"] for stop in stops], 1)
    low = np.stack([columns[f"small_{stop}"] for stop in stops], 1)
    test = columns[f"test_{stops[-1]}"]
    importance = facts["importance"]["mlp"]
    return Table(
        points=points,
        sizes=columns["parameters_fraction"],
        scores=scores / scores[full, -1],
        low_scores=low / low[full, -1],
        test=test / test[full],
        work=share[:, None] * trained[None],
        scoring=share[:, None] * scoring[None],
        kept=np.stack([_kept(point, len(importance)) for point in points]),
        order=plans.by_importance(importance),
    )


def _kept(point: Point, blocks: int) -> np.ndarray:
    kept = np.ones(blocks)
    for ratio, group in zip(point.ratios, block_groups(blocks, len(point.ratios)), strict=True):
        kept[list(group)] = ratio
    kept[list(point.dropped)] = 0
    return kept


@dataclass
class Curve:
    """What a search had after each full training: cost of all that ended, hypervolume, that on the test split."""

    cost: list[float]
    hypervolume: list[float]
    test: list[float]
    evaluations: list[int]
    """How many ended on each rung."""

    def at(self, cost: float) -> float:
        """Hypervolume after so much was spent."""
        place = int(np.searchsorted(self.cost, cost, "right"))
        return self.hypervolume[place - 1] if place else 0.0

    def needs(self, reached: float) -> float:
        """The cost after which the hypervolume was reached; infinite where it never was."""
        place = next((i for i, value in enumerate(self.hypervolume) if value >= reached), None)
        return self.cost[place] if place is not None else float("inf")


class World:
    """Runs a strategy on a table with some workers; each works for as long as its evaluation costs."""

    def __init__(self, table: Table, workers: int = 1, small: bool = False) -> None:
        """small: whether the rungs below the top are scored on the small part of the collection."""
        self.table, self.workers, self.small = table, workers, small

    def score(self, plan: int, rung: int) -> float:
        low = self.small and rung < self.table.rungs - 1
        return float((self.table.low_scores if low else self.table.scores)[plan, rung])

    def cost(self, plan: int, rung: int, reached: int) -> float:
        """Of going from a rung (-1: none yet) to a higher one, and of scoring there."""
        low = self.small and rung < self.table.rungs - 1
        begun = self.table.work[plan, reached] if reached >= 0 else 0.0
        return float(self.table.work[plan, rung] - begun + self.table.scoring[plan, int(low)])

    def run(self, strategy: Strategy, budget: float) -> Curve:
        """Until all that was spent reaches `budget`, or the strategy has nothing left."""
        table, spent, done, clock, number = self.table, 0.0, 0.0, 0.0, 0
        full: list[int] = []
        curve = Curve([], [], [], [0] * table.rungs)
        reached: dict[int, int] = {}
        running: list[tuple[float, int, int, int, float]] = []
        while True:
            while len(running) < self.workers and spent < budget and (job := strategy.ask()) is not None:
                plan, rung = job
                cost = self.cost(plan, rung, reached.get(plan, -1))
                reached[plan], spent, number = rung, spent + cost, number + 1
                heapq.heappush(running, (clock + cost, number, plan, rung, cost))
            if not running:
                return curve
            clock, _, plan, rung, cost = heapq.heappop(running)
            done += cost
            curve.evaluations[rung] += 1
            strategy.tell(plan, rung, self.score(plan, rung))
            if rung == table.rungs - 1:
                full.append(plan)
                curve.cost.append(done)
                curve.hypervolume.append(table.hypervolume(full))
                curve.test.append(table.hypervolume(full, test=True))
