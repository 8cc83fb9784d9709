"""The samplers of Optuna that a search can have, and how each is seeded.

Those that are named here are seeded anew for each trial, from the run's seed and the trial's number: a resumed search
proposes what an uninterrupted one would have (where trials run one at a time). A class from elsewhere is made once, as
it may keep things for itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from effir_dist.core.renamed import sort_name
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.guided.candidates import DRAWS
from effir_dist.search.strategy.guided.observe import Screened
from effir_dist.search.strategy.guided.sampler import GuidedSampler

KNOWN_ASKS = 24
"""Asks of a sampler that may give known trials before values are drawn at random."""
Seed = Callable[[int, int], int]
"""(number of a trial, attempt to propose it) -> seed."""


@runtime_checkable
class Screens(Protocol):
    """A sampler that says which candidates are worth a full evaluation; others leave it to the non-dominated rank."""

    def worth(self, study: optuna.Study, screened: Sequence[Screened]) -> np.ndarray:
        """[N] large for those to be evaluated first."""


class Source(Protocol):
    """Where the sampler for each question to Optuna comes from."""

    asks: int
    """How often it is asked for one new plan."""

    def at(self, number: int, attempt: int) -> BaseSampler:
        """For an attempt to propose the trial `number`."""

    def between(self) -> BaseSampler:
        """For trials that were chosen otherwise, and for what trials come to."""


def score_by_rank(state: FidelityState, trials: Sequence[str]) -> np.ndarray:
    """[N] from 0 down, by non-dominated rank and crowding distance on the lowest rung."""
    place = {trial: -float(i) for i, trial in enumerate(state.best_first(trials, 0))}
    return np.array([place[trial] for trial in trials])


class _OldOrder(BaseSampler):
    """Optuna sorts parameters by name. Renamed ones keep their place, so that a seed still gives the same search."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        found = super().infer_relative_search_space(study, trial)  # type: ignore[safe-super]
        return dict(sorted(found.items(), key=lambda item: sort_name(item[0])))


class _TPE(_OldOrder, optuna.samplers.TPESampler):
    """As Optuna's."""


class _GP(_OldOrder, optuna.samplers.GPSampler):
    """As Optuna's."""


@dataclass
class BuiltIn:
    """`tpe`, `nsga2`, `gp` or `random`."""

    name: str
    seed: Seed
    starts: int
    """Trials that the search begins with, whatever the sampler."""
    asks: int = KNOWN_ASKS + DRAWS

    def at(self, number: int, attempt: int) -> BaseSampler:
        seed = self.seed(number, attempt)
        if attempt >= KNOWN_ASKS or self.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, self.starts))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.name == "gp":
                return _GP(seed=seed, n_startup_trials=self.starts)
            return _TPE(seed=seed, n_startup_trials=self.starts, multivariate=True, constant_liar=True)

    def between(self) -> BaseSampler:
        return optuna.samplers.RandomSampler()


class Guided:
    """Ours, which knows what was tried: it is asked once."""

    asks = 1

    def __init__(self, make: Callable[[Callable[[int], int]], GuidedSampler], seed: Seed) -> None:
        """make: takes the function that gives a proposal's seed."""
        self.number = 0
        self.sampler = make(lambda _: seed(self.number, 0))

    def at(self, number: int, attempt: int) -> BaseSampler:
        self.number = number
        return self.sampler

    def between(self) -> BaseSampler:
        return self.sampler


class Kept:
    """A sampler from elsewhere: made once, when it is first asked. A resumed search seeds it by the next trial."""

    asks = KNOWN_ASKS + DRAWS

    def __init__(self, make: Callable[[int], BaseSampler], seed: Seed) -> None:
        self.make, self.seed = make, seed
        self.sampler: BaseSampler | None = None

    def at(self, number: int, attempt: int) -> BaseSampler:
        if attempt >= KNOWN_ASKS:
            return optuna.samplers.RandomSampler(seed=self.seed(number, attempt))
        if self.sampler is None:
            self.sampler = self.make(self.seed(number, 0))
        return self.sampler

    def between(self) -> BaseSampler:
        return self.sampler or optuna.samplers.RandomSampler()
