"""What proposes new plans and scores those that wait for training: the protocol, and Optuna's own samplers.

A sampler sees the study of the trials that were trained in full (and those that run), the state of the rungs, and the
problem; no files and no cluster. It is seeded anew for each trial from the run's seed and the trial's number, so that a
resumed search proposes what an uninterrupted one would have (where trials run one at a time).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from effir_dist.core.renamed import sort_name
from effir_dist.runs.records import TrialSpec
from effir_dist.search.strategy.candidates import DRAWS
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.problem import Problem

KNOWN_ASKS = 24
"""Asks of an Optuna sampler that may give known trials before values are drawn at random."""


@dataclass(frozen=True)
class Proposal:
    """A new plan."""

    spec: TrialSpec
    asked: optuna.Trial | None = None
    """The study's own trial, where the study was asked for it: it runs now."""


class Sampler(Protocol):
    """Proposes plans that were not tried yet, and scores trials."""

    repeats: int
    """Plans that were proposed though they are known, and so were not trained again."""

    def propose(self, problem: Problem, study: optuna.Study, state: FidelityState, number: int) -> Proposal | None:
        """A new plan that violates no constraint on what a plan tells, for the trial `number`; None: all were tried."""

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        """[N] how much each trial, which was scored on the lowest rung, deserves to be trained in full."""


def score_by_rank(state: FidelityState, trials: Sequence[str]) -> np.ndarray:
    """[N] from 0 down, by non-dominated rank and crowding distance on the lowest rung."""
    place = {trial: -float(i) for i, trial in enumerate(state.best_first(trials, 0))}
    return np.array([place[trial] for trial in trials])


class _OldOrder(optuna.samplers.BaseSampler):
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


class OptunaSampler:
    """One of Optuna's samplers. It has no model of candidates, so that trials are scored by rank."""

    def __init__(self, name: str) -> None:
        """name: `tpe`, `nsga2`, `gp` or `random`."""
        self.name, self.repeats = name, 0

    def propose(self, problem: Problem, study: optuna.Study, state: FidelityState, number: int) -> Proposal | None:
        for attempt in range(KNOWN_ASKS + DRAWS):
            study.sampler = self._seeded(problem, number, attempt)
            asked = study.ask(problem.distributions)
            spec = problem.spec(number, asked.params)
            known = spec.key in problem.tried
            if not known and problem.feasible(spec):
                return Proposal(spec, asked)
            self.repeats += known
            study.tell(asked, state=TrialState.FAIL)
        return None

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        return score_by_rank(state, trials)

    def _seeded(self, problem: Problem, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        seed, begun = problem.seed(number, attempt), problem.start_count
        if attempt >= KNOWN_ASKS or self.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, begun))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.name == "gp":
                return _GP(seed=seed, n_startup_trials=begun)
            return _TPE(seed=seed, n_startup_trials=begun, multivariate=True, constant_liar=True)
