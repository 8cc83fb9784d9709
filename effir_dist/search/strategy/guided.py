"""The `guided` sampler: a surrogate of the score chooses among drawn plans, and among the trials that were screened.

A score without training costs a fraction of a trial. A `Surrogate` learns from the trials trained in full what those
scores are worth, and says by how much a plan would raise the hypervolume. Which plans are screened is up to a surrogate
as well, one of the plans alone. A constraint that only training tells has a surrogate of its own: the expected
hypervolume improvement is multiplied by the probability of feasibility (Gardner et al., 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import TrialState

from effir_dist.core.values import Point
from effir_dist.search.strategy import candidates
from effir_dist.search.strategy.fidelity import Candidate, FidelityState
from effir_dist.search.strategy.problem import Problem
from effir_dist.search.strategy.samplers import Proposal, score_by_rank
from effir_dist.search.strategy.surrogate import (
    LEAST_TRAINED,
    Surrogate,
    expected_hypervolume_improvement,
    probability_below,
)

POOL = 200
"""New plans that the surrogate chooses among."""
RANDOM_SHARE = 0.1
"""Share of the proposals that are drawn at random, so that a wrong surrogate is found out."""


class GuidedSampler:
    """Takes the largest expected hypervolume improvement for its cost."""

    repeats = 0
    """It proposes no known plan."""

    def propose(self, problem: Problem, study: optuna.Study, state: FidelityState, number: int) -> Proposal | None:
        rng = np.random.default_rng(problem.seed(number, 0))
        points = candidates.points(problem.distributions, _front_points(study), rng)
        pool = problem.untried(number, points, POOL)
        if not pool:
            return None
        return Proposal(pool[self.choose(state, [problem.candidate(spec) for spec in pool], rng)])

    def choose(self, state: FidelityState, pool: Sequence[Candidate], rng: np.random.Generator) -> int:
        """Which plan of a pool of new ones to try: its place."""
        if len(_trained(state)) < LEAST_TRAINED or rng.random() < RANDOM_SHARE:
            return int(rng.integers(len(pool)))
        features = [candidate.features for candidate in pool]
        shares = _expected_shares(state, features, np.array([candidate.shares for candidate in pool]))
        gain = _expected_improvement(state, features, shares)
        return int(np.argmax(gain / np.array([c.training[-1] + c.scoring[-1] for c in pool])))

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        """[N] expected improvement by training each trial in full, for its cost; by rank before a surrogate is fit."""
        if len(_trained(state)) < LEAST_TRAINED:
            return score_by_rank(state, trials)
        shares = np.array([state.shares[t] for t in trials])
        gain = _expected_improvement(state, _features(state, trials, (0,)), shares, (0,), trials)
        return np.asarray(gain / np.array([state.cost(t, state.top) for t in trials]))


def _front_points(study: optuna.Study) -> list[Point]:
    """The suggested values of the front."""
    complete = any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))
    return [trial.params for trial in study.best_trials] if complete else []


def _trained(state: FidelityState) -> list[str]:
    """Trials with a score on the top and on the lowest rung."""
    return [t for t in state.scored(state.top) if 0 in state.scores[t]]


def _features(state: FidelityState, trials: Sequence[str], rungs: Sequence[int]) -> list[list[float]]:
    """[N, K + rungs]: what is left of each part, the settings, and the scores on some rungs."""
    return [[*state.candidates[t].features, *(state.scores[t][r] for r in rungs)] for t in trials]


def _expected_shares(state: FidelityState, features: Sequence[Sequence[float]], shares: np.ndarray) -> np.ndarray:
    """[M, C] costs of new plans. Those that are yet to be measured are predicted from the trials measured so far."""
    found, measured = shares.copy(), state.scored(0)
    for axis in np.flatnonzero(np.isnan(found).any(axis=0)):
        known = np.array([state.shares[t][axis] for t in measured])
        model = Surrogate(np.array(_features(state, measured, ())), known)
        found[:, axis] = model.predict(np.array(features))[0]
    return found


def _expected_improvement(
    state: FidelityState,
    inputs: Sequence[Sequence[float]],
    shares: np.ndarray,
    rungs: Sequence[int] = (),
    trials: Sequence[str] = (),
) -> np.ndarray:
    """[M] expected hypervolume improvement by plans of these inputs and shares [M, C], times the probability that they
    are feasible. rungs: whose scores are among the inputs. trials: theirs, where they have begun."""
    trained = _trained(state)
    reached = np.array([state.scores[t][state.top] for t in trained])
    model = Surrogate(np.array(_features(state, trained, rungs)), reached)
    front = [state.losses(t, state.top) for t in trained if state.feasible(t)]
    front += _running_points(state, model, rungs)
    mean, deviation = model.predict(np.array(inputs))
    improvement = expected_hypervolume_improvement(front, shares, mean, deviation)
    return improvement * _probability_of_feasibility(state, inputs, rungs, trials)


def _running_points(state: FidelityState, model: Surrogate, rungs: Sequence[int]) -> list[tuple[float, ...]]:
    """Running trials with the score that is expected, those likely to be feasible: so several workers do not train the
    same corner of the space."""
    begun = state.candidates if state.top == 0 else state.scored(0)  # without rungs nothing is scored on the way
    running = [t for t in begun if t in state.running]
    if not running:
        return []
    inputs = _features(state, running, rungs)
    guess, likely = model.predict(np.array(inputs))[0], _probability_of_feasibility(state, inputs, rungs, running) > 0.5
    shares = _expected_shares(state, inputs, np.array([state.shares[t] for t in running]))
    return [(*map(float, s), -float(g)) for s, g, ok in zip(shares, guess, likely, strict=True) if ok]


def _probability_of_feasibility(
    state: FidelityState, inputs: Sequence[Sequence[float]], rungs: Sequence[int], trials: Sequence[str]
) -> np.ndarray:
    """[M] how likely plans of these inputs violate no constraint that no plan tells: 0 or 1 where the lowest rung of
    their trial told, as it does of speed."""
    x, found = np.array(inputs), np.ones(len(inputs))
    scored = state.scored(0)
    for name in {name: None for t in scored for name in state.violations[t]}:
        known = [t for t in scored if name in state.violations[t]]
        over = np.array([state.violations[t][name] for t in known])
        model = Surrogate(np.array(_features(state, known, rungs)), over)
        probability = probability_below(0.0, *model.predict(x))
        for i, trial in enumerate(trials):
            if name in state.violations.get(trial, {}):
                probability[i] = float(state.violations[trial][name] <= 0)
        found *= probability
    return found
