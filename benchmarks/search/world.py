"""What a strategy searches: any plan of a model, what it scores and costs; workers, and the curve that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from benchmarks.search.emulator import Emulator
from benchmarks.search.outcomes import Table
from benchmarks.search.plans import Point
from benchmarks.search.simulated import run_workers
from effir_dist.runs.pareto import hypervolume, non_dominated
from effir_dist.search.cost_estimate import fitting_tokens

Pair = tuple[float, float]
"""Size and quality, both as shares of the unpruned model's."""


class Job(NamedTuple):
    """One evaluation: of a plan without training on the small part of the collection, or fully trained on all of it."""

    point: Point
    full: bool


class Strategy(Protocol):
    """What is compared. It proposes any plan of the table's model."""

    def ask(self) -> Job | None:
        """The next evaluation, for a worker that is free; None where there is none (now)."""

    def tell(self, job: Job, score: float) -> None:
        """An evaluation ended; score is nDCG@10."""


@dataclass
class Curve:
    """What a search had after each full training."""

    cost: list[float] = field(default_factory=list)
    """Of all evaluations that had ended, in full trials of the unpruned model."""
    hypervolume: list[float] = field(default_factory=list)
    """Of what all trained plans are worth."""
    test: list[float] = field(default_factory=list)
    """Of the test scores of those on the front that the search shows: what a user takes home. It may fall."""
    front: list[Point] = field(default_factory=list)
    """The front that the search shows at its end, smallest first."""
    screened: int = 0
    trained: int = 0

    def at(self, cost: float) -> float:
        """Hypervolume after so much was spent."""
        return self._at(self.hypervolume, cost)

    def test_at(self, cost: float) -> float:
        """The same of `test`."""
        return self._at(self.test, cost)

    def needs(self, reached: float) -> float:
        """The cost after which the hypervolume was reached; infinite where it never was."""
        place = next((i for i, value in enumerate(self.hypervolume) if value >= reached), None)
        return self.cost[place] if place is not None else float("inf")

    def _at(self, values: list[float], cost: float) -> float:
        place = int(np.searchsorted(self.cost, cost, "right"))
        return values[place - 1] if place else 0.0


@dataclass
class _Trained:
    """The plans of a search that were trained in full."""

    points: list[Point] = field(default_factory=list)
    told: list[Pair] = field(default_factory=list)
    test: list[Pair] = field(default_factory=list)
    worth: list[Pair] = field(default_factory=list)
    """The front of these alone."""

    def front(self) -> list[int]:
        """By what the search was told, smallest first."""
        return non_dominated(self.told)


class World:
    """Runs a strategy on a table; each worker works for as long as its evaluation costs."""

    def __init__(self, table: Table, emulator: Emulator) -> None:
        self.table, self.emulator = table, emulator
        self.train, self.score = table.work[f"train_{table.top}"], table.work["score"]
        self.whole = self.train + self.score

    def told(self, job: Job) -> float:
        """nDCG@10 of an evaluation: measured where the table has it, else the emulator's."""
        column = f"ndcg_{self.table.top}" if job.full else "small_0"
        return float(self.emulator.told([self.table.plan(job.point)], column)[0])

    def cost(self, job: Job) -> float:
        """In full trials of the unpruned model, by FLOPs. Screening trained nothing, so a full training pays all."""
        tokens = self.train + self.score if job.full else self.table.work["score_small"]
        share = self.table.shape(self.table.plan(job.point)).moving
        return (share * tokens + fitting_tokens(self.table.work, share)) / self.whole

    def expected(self, point: Point) -> Pair:
        """Size and what the plan is worth."""
        plan, full = self.table.plan(point), self.table.unpruned()[f"ndcg_{self.table.top}"]
        return self.table.shape(plan).size, float(self.emulator.worth([plan])[0]) / full

    def ahead(self, points: list[Point]) -> None:
        """Compute the answers of plans that are trained for certain, all at once."""
        plans = [self.table.plan(point) for point in points]
        self.emulator.told(plans, f"test_{self.table.top}")
        self.emulator.worth(plans)

    def run(self, strategy: Strategy, budget: float, workers: int = 1) -> Curve:
        """Until all that was spent reaches `budget`, or the strategy has nothing left."""
        curve, trained = Curve(), _Trained()

        def end(job: Job, done: float) -> None:
            strategy.tell(job, self.told(job))
            if job.full:
                self._add(trained, job)
                _note(curve, trained, done)
            else:
                curve.screened += 1

        run_workers(strategy.ask, self.cost, end, budget, workers)
        curve.front = [trained.points[i] for i in trained.front()]
        return curve

    def _add(self, trained: _Trained, job: Job) -> None:
        plan, unpruned, top = self.table.plan(job.point), self.table.unpruned(), self.table.top
        size, worth = self.expected(job.point)
        trained.points.append(job.point)
        trained.told.append((size, self.told(job)))
        test = float(self.emulator.told([plan], f"test_{top}")[0]) / unpruned[f"test_{top}"]
        trained.test.append((size, test))
        trained.worth = front_of([*trained.worth, (size, worth)])


def front_of(pairs: list[Pair]) -> list[Pair]:
    """Those that none is as small and as good as."""
    return [pairs[i] for i in non_dominated(pairs)]


def _note(curve: Curve, trained: _Trained, done: float) -> None:
    """A training ended."""
    curve.trained += 1
    curve.cost.append(done)
    curve.hypervolume.append(hypervolume(trained.worth))
    curve.test.append(hypervolume([trained.test[i] for i in trained.front()]))
