"""What `GuidedSampler` is told of pruning plans: costs, features, expense, which are new, and what was screened.

All of it comes from the `Problem` and the `FidelityState` of a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution

from effir_dist.core.measures import QUALITY
from effir_dist.core.values import Point, Suggested
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy import candidates
from effir_dist.search.strategy.fidelity import Candidate, FidelityState
from effir_dist.search.strategy.guided import GuidedSampler
from effir_dist.search.strategy.observe import Screened
from effir_dist.search.strategy.problem import Problem

KEPT = 1000
"""Points whose costs and features are kept: those of one proposal, and more."""


class PlanCallables:
    """A search as `GuidedSampler` asks of it."""

    def __init__(self, problem: Problem, state: FidelityState, specs: Mapping[str, TrialSpec]) -> None:
        """specs: trial -> its spec, as the search goes on."""
        self.problem, self.state, self.specs = problem, state, specs
        self._known = lru_cache(maxsize=KEPT)(self._work_out)

    def candidate(self, point: Suggested) -> Candidate:
        """What is known of a point before it is scored."""
        return self._known(tuple(point.items()))[1]

    def costs(self, point: Suggested) -> Sequence[float]:
        return self.candidate(point).shares

    def features(self, point: Suggested) -> Sequence[float]:
        return self.candidate(point).features

    def expense(self, point: Suggested) -> float:
        """Of training and scoring it in full."""
        found = self.candidate(point)
        return found.training[-1] + found.scoring[-1]

    def points(
        self, distributions: Mapping[str, BaseDistribution], best: Sequence[Point], rng: np.random.Generator
    ) -> Iterator[Point]:
        """Points whose plans are new, feasible and all different."""
        found = set[str]()
        for point in candidates.points(distributions, best, rng):
            spec = self._known(tuple(point.items()))[0]
            new = spec.key not in found and spec.key not in self.problem.tried
            if new and self.problem.feasible(spec):
                found.add(spec.key)
                yield point

    def waiting(self, _study: optuna.Study) -> list[Screened]:
        """The trials that were scored on the lowest rung, and are neither running nor trained in full: the study does
        not have them."""
        state = self.state
        left = [t for t in state.scored(0) if t not in state.running and state.top not in state.scores[t]]
        return [self.screened(t) for t in left]

    def screened(self, trial: str) -> Screened:
        """A trial that was scored on the lowest rung."""
        state = self.state
        return Screened(
            self.specs[trial].suggested,
            state.scores[trial][0],
            state.shares[trial],
            state.violations[trial],
            state.candidates[trial].features,
            state.cost(trial, state.top),
        )

    def _work_out(self, point: tuple[tuple[str, Any], ...]) -> tuple[TrialSpec, Candidate]:
        spec = self.problem.spec(0, dict(point))
        return spec, self.problem.candidate(spec)


def guided_sampler(plans: PlanCallables, seed: Callable[[int], int]) -> GuidedSampler:
    """The sampler of a search. seed: of a proposal; the study's number of its trial does not tell, as a resumed search
    has another one."""
    problem = plans.problem
    goal = problem.goal
    return GuidedSampler(
        seed=seed,
        costs=plans.costs,
        features=plans.features,
        expense=plans.expense,
        points=plans.points,
        screened=plans.waiting,
        space=problem.distributions,
        quality=goal.objectives.index(QUALITY),
        worst_costs=[1.0] * len(goal.costs),
        worst_quality=0.0,
        known_constraints=[each.text for each in goal.constraints if each.measure.known],
    )
