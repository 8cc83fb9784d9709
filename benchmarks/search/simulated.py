"""In place of a search's run folder and workers, where a formula or an emulator scores plans."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from effir_dist.core.measures import QUALITY
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.strategy.next_trial import TrialQueue

T = TypeVar("T")


def run_workers(
    ask: Callable[[], T | None],
    cost: Callable[[T], float],
    end: Callable[[T, float], None],
    budget: float,
    workers: int,
) -> None:
    """Do jobs until their costs reach `budget`, or `ask` has none and none runs. A job takes as long as it costs.

    end: hears of each job that ended, and what all that ended so far cost.
    """
    spent, done, clock, numbers = 0.0, 0.0, 0.0, itertools.count()
    running: list[tuple[float, int, float, T]] = []
    while True:
        while len(running) < workers and spent < budget and (job := ask()) is not None:
            price = cost(job)
            spent += price
            heapq.heappush(running, (clock + price, next(numbers), price, job))
        if not running:
            return
        clock, _, price, job = heapq.heappop(running)
        done += price
        end(job, done)


class Memory(Run):
    """A run folder of which nothing is on disk: a queue reads the scores of rungs here."""

    def __init__(self) -> None:
        super().__init__(Path("replay") / "has-no-folder")
        self.scores: dict[str, list[RungScore]] = {}

    def rungs(self, trial: str) -> list[RungScore]:
        return self.scores.get(trial, [])

    def tell(self, queue: TrialQueue, spec: TrialSpec, score: float) -> None:
        """A trial of a queue, whose run this is, was scored on the rung that it was sent to."""
        config = queue.problem.model_config
        facts, values = spec.facts(config), {**spec.values(config), QUALITY: score}
        if is_full(queue, spec):
            queue.ended(TrialRecord(spec, "complete", "", facts, values))
            return
        self.scores[spec.trial] = [RungScore(0, 0.0, spec.cost, facts, values)]
        queue.scored(spec.trial, 0)


def is_full(queue: TrialQueue, spec: TrialSpec) -> bool:
    """Whether a trial is trained in full: on rung 0 it is scored without training."""
    return spec.rung in (None, queue.top)
