"""What `GuidedSampler` is told of pruning plans: costs, features, expense, which are new, and what was screened.

All of it comes from the `Problem` and the `FidelityState` of a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import optuna

from effir_dist.core.measures import QUALITY
from effir_dist.core.values import Suggested
from effir_dist.models.families.base import block_count
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.guided.candidates import DRAWS
from effir_dist.search.strategy.guided.drawing import Drawing
from effir_dist.search.strategy.guided.observe import Screened
from effir_dist.search.strategy.guided.points import Points, Rows
from effir_dist.search.strategy.guided.pool import Candidate, Pool
from effir_dist.search.strategy.guided.sampler import GuidedSampler
from effir_dist.search.strategy.problem import Problem

KEPT = 1000
"""Points whose costs and features are kept: those of one proposal, and more."""


class PlanPools:
    """Pools of plans that were not tried and violate no constraint that a plan tells."""

    def __init__(self, problem: Problem) -> None:
        self.problem, blocks = problem, block_count(problem.model_config)
        parts = problem.space.parts
        switches = [each for part in parts for each in part.switches(blocks, problem.importance)]
        unpruned = {name: value for part in parts for name, value in part.unpruned(problem.distributions).items()}
        self.drawing = Drawing(problem.distributions, switches, unpruned)

    def draw(self, best: Sequence[Mapping[str, Any]], count: int, rng: np.random.Generator) -> Pool:
        """Some changed from the best, the rest new; of a small space at last any."""
        found = self.problem.many.new(self.drawing.draw(count, best, rng))
        return found if len(found) else self.problem.many.new(self.drawing.uniform(DRAWS, rng))

    def near(self, best: Pool, count: int, rng: np.random.Generator) -> Pool:
        return self.problem.many.new(self.drawing.near(best.columns, count, rng))


class PlanCallables:
    """A search as `GuidedSampler` asks of it."""

    def __init__(self, problem: Problem, state: FidelityState, specs: Mapping[str, TrialSpec]) -> None:
        """specs: trial -> its spec, as the search goes on."""
        self.problem, self.state, self.specs = problem, state, specs
        self.pools = PlanPools(problem)
        self._known = lru_cache(maxsize=KEPT)(self._work_out)
        self._place = lru_cache(maxsize=None)(self._keep)
        """(trial that was screened, on how many rungs it was scored) -> its row of the next."""
        self._rows = Rows()

    def candidate(self, point: Suggested) -> Candidate:
        """What is known of a point before it is scored."""
        return self._known(tuple(point.items()))

    def costs(self, point: Suggested) -> Sequence[float]:
        return self.candidate(point).shares

    def features(self, point: Suggested) -> Sequence[float]:
        return self.candidate(point).features

    def prior(self, point: Suggested) -> Sequence[float]:
        """What importance lets expect."""
        return self.candidate(point).prior

    def expense(self, point: Suggested) -> float:
        """Of training and scoring it in full."""
        found = self.candidate(point)
        return found.training[-1] + found.scoring[-1]

    def waiting(self, _study: optuna.Study) -> Points:
        """The trials that were scored on the lowest rung, and are neither running nor trained in full: the study does
        not have them."""
        return self.points(self.state.screened())

    def screened(self, trials: Sequence[str]) -> list[Screened]:
        """Trials that were scored on the lowest rung, for samplers from elsewhere."""
        state = self.state
        known = [(self.specs[t].suggested, state.scores[t][0], state.shares[t], state.violations[t]) for t in trials]
        return [Screened(*each, expense=state.cost(t, state.top)) for each, t in zip(known, trials, strict=True)]

    def points(self, trials: Sequence[str]) -> Points:
        """The same as arrays."""
        if not trials:
            return Points.of([])
        state, one = self.state, self.state.candidates[trials[0]]
        rows = self._rows.take([self._place(trial, len(state.scores[trial])) for trial in trials])
        ends = np.cumsum([len(one.features), len(one.prior), len(one.shares)])
        features, prior, costs, rest = np.split(rows, ends, axis=1)
        unknown, constraints = np.full(len(trials), math.nan), [state.violations[trial] for trial in trials]
        return Points(features, costs, prior, rest[:, 0], unknown, rest[:, 1], constraints)

    def _keep(self, trial: str, _scores: int) -> int:
        """Adds what is known of a trial now, and returns the place of its row."""
        state, known = self.state, self.state.candidates[trial]
        of_trial = (*state.shares[trial], state.cost(trial, state.top), state.scores[trial][0])
        return self._rows.append((*known.features, *known.prior, *of_trial))

    def _work_out(self, point: tuple[tuple[str, Any], ...]) -> Candidate:
        return self.problem.candidate(self.problem.spec(0, dict(point)))


def guided_sampler(plans: PlanCallables, seed: Callable[[int], int]) -> GuidedSampler:
    """The sampler of a search. seed: of a proposal; the study's number of its trial does not tell, as a resumed search
    has another one."""
    problem = plans.problem
    goal = problem.goal
    return GuidedSampler(
        seed=seed,
        costs=plans.costs,
        features=plans.features,
        prior=plans.prior,
        expense=plans.expense,
        pools=plans.pools,
        screened=plans.waiting,
        space=problem.distributions,
        quality=goal.objectives.index(QUALITY),
        worst_costs=[1.0] * len(goal.costs),
        worst_quality=0.0,
        known_constraints=[each.text for each in goal.constraints if each.measure.known],
    )
