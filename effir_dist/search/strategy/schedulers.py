"""Which trial goes where: what is screened, promoted and trained in full. Any scheduler goes with any sampler.

No scheduler makes a worker wait for a rung to fill. The unpruned model, which begins every search, goes to the top
first: all others are measured by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from effir_dist.core.settings import SearchConfig
from effir_dist.runs.pareto import hypervolume_losses
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.guided.surrogate import LEAST_TRAINED


@dataclass(frozen=True)
class Propose:
    """A new plan, which the sampler proposes, goes to a rung."""

    rung: int


@dataclass(frozen=True)
class Promote:
    """A trial that was scored on a lower rung goes to a higher one."""

    trial: str
    rung: int


class Scorer(Protocol):
    """Tells trials that wait apart: the engine, or anything that stands for it."""

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        """[N] how much each trial, which was scored on the lowest rung, deserves to be trained in full."""


class Scheduler(Protocol):
    """Decides, from all that is known of the trials, what a free worker does."""

    def next(self, state: FidelityState, scorer: Scorer, exhausted: bool = False) -> Propose | Promote | None:
        """What is next; None where nothing is before another trial has ended.

        exhausted: whether the sampler has no new plan, so that only a promotion helps.
        """


MOST_AT_FIRST = 4
"""Plans that are screened for a promotion before a surrogate has data: the first trained trials come early."""
CHOICE = 4
"""Plans that wait for a promotion of which one may be the best of them, though it is not good."""
LEAST_SCREENED = 2
"""Plans that the budget must pay for, for each that is trained: with fewer screening is no choice, and a cost."""
LEAST_ADDED = 0.01
"""Of the hypervolume of all scores on the lowest rung: what a plan adds that is good enough without a choice."""


class Screening:
    """Scores many plans on the lowest rung, and trains those in full that the sampler scores highest."""

    def __init__(self, budget: float, most: int = SearchConfig.most_screened, by_seconds: bool = True) -> None:
        """budget: the share of all cost that the lowest rung may take. most: plans for a promotion. by_seconds:
        whether costs are seconds as measured, once they are known; else FLOPs."""
        self.budget, self.most, self.by_seconds = budget, most, by_seconds

    def next(self, state: FidelityState, scorer: Scorer, exhausted: bool = False) -> Propose | Promote | None:
        if baseline := state.waiting_baseline():
            return Promote(baseline, state.top)
        waiting = state.waiting()
        if not exhausted and (not self._promising(state, waiting) or self._may_screen(state)):
            return Propose(0)
        return Promote(waiting[int(np.argmax(scorer.score(state, waiting)))], state.top) if waiting else None

    def _promising(self, state: FidelityState, waiting: Sequence[str]) -> bool:
        """Whether one of the trials that wait adds to the front of the lowest rung, or they are so many that there is a
        choice: a plan that is hopeless without training is not trained for want of another. Plans that violate a
        constraint make half a choice."""
        found = {trial: state.losses(trial, 0) for trial in state.scored(0) if state.feasible(trial)}
        own = [trial for trial in waiting if trial in found]
        if len(own) >= CHOICE or len(waiting) >= 2 * CHOICE:
            return True
        if not own:
            return False
        reference = [*(max(1.0, *share) for share in list(zip(*found.values(), strict=True))[:-1]), 0.0]
        whole = hypervolume_losses([*found.values()], reference)
        rest = [hypervolume_losses([at for each, at in found.items() if each != trial], reference) for trial in own]
        return any(whole - without > LEAST_ADDED * whole for without in rest)

    def _may_screen(self, state: FidelityState) -> bool:
        """Whether another plan may be screened though a trial waits to be promoted.

        Workers that screen now are soon free for as many promotions, so plans are screened for all of these: else a
        search of many workers would train the first plans that it screened.
        """
        most = self.most if len(state.scored(state.top)) >= LEAST_TRAINED else min(self.most, MOST_AT_FIRST)
        soon = state.below_top
        if state.screened_since(soon + 1) >= most * (soon + 1):
            return False
        if not state.begun:
            return state.spent[0] <= self.budget * soon * state.cost(next(iter(state.candidates)), state.top)
        spent = (state.seconds_spent() if self.by_seconds else None) or state.spent
        return spent[0] <= self.budget * (sum(spent) + soon * spent[-1] / len(state.begun))


class Asha:
    """Asynchronous successive halving (ASHA: Li et al., 2020) for several objectives: the best of each rung go on.

    The order on a rung is that of `non_dominated_sort`, of the costs and the score there. The highest rung with a trial
    that is due promotes it; where none is due a new plan begins.
    """

    def __init__(self, fraction: float) -> None:
        """fraction: the share of the trials on a rung that go on to the next."""
        self.fraction = fraction

    def next(self, state: FidelityState, scorer: Scorer, exhausted: bool = False) -> Propose | Promote | None:
        return self._promotion(state) or (None if exhausted else Propose(0))

    def _promotion(self, state: FidelityState) -> Promote | None:
        if baseline := state.waiting_baseline():
            return Promote(baseline, state.top)
        for rung in reversed(range(state.top)):
            on = state.scored(rung)
            places = math.floor(self.fraction * len(on))
            if sum(state.target[t] > rung for t in on) >= places:
                continue
            for trial in state.best_first(on, rung)[:places]:
                if state.target[trial] == rung and trial not in state.failed:
                    return Promote(trial, rung + 1)
        return None


class Plain:
    """Trains every plan in full: the top is the only rung."""

    def next(self, state: FidelityState, scorer: Scorer, exhausted: bool = False) -> Propose | Promote | None:
        return None if exhausted else Propose(state.top)


def screening_pays(budget: float, share: float) -> bool:
    """Whether a share of all cost buys a choice between plans. share: of a full trial, what screening a plan costs."""
    return budget / (1 - budget) >= LEAST_SCREENED * share


def no_screening(search: SearchConfig, share: float) -> str:
    """A line on a search that screens nothing. share: as in `screening_pays`."""
    budget = f"search.screening_budget={search.screening_budget:g}"
    return f"no plan is screened, each is trained: screening costs {share:.0%} of a trial, and {budget} buys no choice"


def scheduler_of(search: SearchConfig) -> Scheduler:
    """That of `search.scheduler`."""
    if search.scheduler == "screening":
        return Screening(search.screening_budget, search.most_screened, search.screening_cost == "seconds")
    return Asha(search.promotion_fraction) if search.scheduler == "asha" else Plain()
