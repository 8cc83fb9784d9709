"""The `guided` sampler, for any study of Optuna: the point with the largest expected hypervolume improvement is next.

It is for few, expensive trials with one quality and one or two costs. It takes what Optuna's samplers cannot: costs
that are known before a trial is evaluated, cheap scores of candidates, a prior.
docs/guides/guided-sampler.md has examples. What a search of effir_dist knows of plans it gets by `plan_callables`.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState

from effir_dist.core.values import LOW_FIDELITY
from effir_dist.search.strategy.guided import observe
from effir_dist.search.strategy.guided.improvement import Evidence, Worst
from effir_dist.search.strategy.guided.observe import COSTS, Axes, Distributions, Observer, Params, Screened
from effir_dist.search.strategy.guided.points import Points
from effir_dist.search.strategy.guided.pool import Pool, Pools
from effir_dist.search.strategy.guided.study_pools import Draw, StudyPools
from effir_dist.search.strategy.guided.surrogate import LEAST_TRAINED

__all__ = ["COSTS", "LOW_FIDELITY", "GuidedSampler", "Screened"]

POOL = 128
"""New points that the surrogate chooses among."""
RANDOM_SHARE = 0.1
"""Share of the proposals that are drawn at random, so that a wrong surrogate is found out."""
PARENTS = 8
"""The best of those, whose neighbours are looked at as well."""
_ONE_AT_A_TIME = threading.Lock()
"""Of several threads each sees what was proposed to the others."""


class GuidedSampler(optuna.samplers.BaseSampler):
    """For two or three objectives, of which one is a quality and the others are costs; a single one is a quality."""

    def __init__(
        self,
        *,
        seed: int | Callable[[int], int] | None = None,
        costs: Callable[[Params], Sequence[float]] | None = None,
        features: Callable[[Params], Sequence[float]] | None = None,
        prior: Callable[[Params], float | Sequence[float]] | None = None,
        expense: Callable[[Params], float] | None = None,
        allowed: Callable[[Params], bool] | None = None,
        points: Draw | None = None,
        pools: Pools | None = None,
        screened: Callable[[optuna.Study], Iterable[Screened] | Points] | None = None,
        space: Distributions | None = None,
        quality: int = -1,
        worst_costs: Sequence[float] | None = None,
        worst_quality: float | None = None,
        known_constraints: Collection[str] = (),
    ) -> None:
        """Functions of a point are given its params in the search space, and should be quick.

        seed: with a trial's number it gives the random numbers of that trial, so that a study that is resumed, or has
        several workers, needs nothing else. A function of the number gives them alone.
        costs: [C] of a point, in the order of the objectives without the quality; small is good. Where it is not given,
        or says NaN, the values of finished trials are taken, and those of new points are predicted.
        features: [K] numbers that the quality is predicted by; by default the params, scaled to [0, 1].
        prior: the loss of quality that is expected of a point, from 0 to 1; or several numbers that quality is likely
        to fall or rise with.
        expense: what evaluating a point takes; the expected improvement is divided by it.
        allowed: whether a point may be proposed: constraints that are known beforehand.
        points: draws candidates; by default at random, and beside the front.
        pools: draws many candidates at once, and says what the functions above would say of each.
        screened: candidates with a cheap score; by default the study's PRUNED trials with the attribute LOW_FIDELITY.
        space: the search space, where it is known; by default what all finished trials have in common.
        quality: which objective it is.
        worst_costs, worst_quality: where the hypervolume ends; by default a little beyond the worst finished trial.
        known_constraints: names of constraints that `allowed` or `points` keep already.
        """
        self.seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self.space, self.quality = space, quality
        self._observer = Observer(costs, features, prior, expense)
        self._allowed, self._points, self._pools = allowed, points, pools
        self._screened = screened or observe.screened_of
        self._worst_costs = None if worst_costs is None else tuple(map(float, worst_costs))
        self._worst_quality, self._known_constraints = worst_quality, frozenset(known_constraints)

    def reseed_rng(self) -> None:
        """Nothing to do: a trial has random numbers of its own."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that it was given; else what finished trials have in common, or before the first, screened ones."""
        return self._space_of(study)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point; empty, so that all values are random, where none may be proposed. Raises ValueError for a study of
        more than three objectives."""
        axes, rng = Axes.of(study, self.quality), self._rng(trial.number)
        with _ONE_AT_A_TIME:
            pools = self._pools or self._study_pools(study, trial, search_space, axes)
            pool = pools.draw(observe.front(study), POOL, rng) if search_space else None
            if not pool:
                return {}
            point = self._choose(self._evidence(study, trial, search_space, axes), pool, pools, rng)
            observe.share_params(study, trial, point)
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        seed = int(self._rng(trial.number, zlib.crc32(param_name.encode())).integers(2**32))
        sampler = optuna.samplers.RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def worth(self, study: optuna.Study, screened: Sequence[Screened] | Points) -> np.ndarray:
        """[N] how much candidates with a cheap score deserve to be evaluated in full.

        That is the expected hypervolume improvement for the expense. Before `LEAST_TRAINED` finished trials have the
        user attribute LOW_FIDELITY, and so tell what a cheap score is worth, that score is taken for the quality.
        """
        axes, space = Axes.of(study, self.quality), self._space_of(study)
        points = self._points_of(screened, space, axes)
        evidence = self._evidence(study, None, space, axes)
        if evidence.with_low() < LEAST_TRAINED:
            return np.asarray(evidence.by_low(points) / points.expense)
        return np.asarray(evidence.improvement(points) / points.expense)

    def promote(self, study: optuna.Study) -> Screened | None:
        """Enqueue the screened candidate that is worth most, with its cheap score: the next `study.ask` gives it.
        Returns it; None where none waits."""
        waiting = self._screened(study)
        if isinstance(waiting, Points) or not (waiting := list(waiting)):
            return None
        best = waiting[int(np.argmax(self.worth(study, waiting)))]
        known = {LOW_FIDELITY: best.low_fidelity, **({} if best.costs is None else {COSTS: list(best.costs)})}
        study.enqueue_trial(dict(best.params), user_attrs=known)
        return best

    def _rng(self, number: int, *more: int) -> np.random.Generator:
        own = (self.seed(number), *more) if callable(self.seed) else (self.seed, number, *more)
        return np.random.default_rng(own if len(own) > 1 else own[0])

    def _space_of(self, study: optuna.Study) -> dict[str, BaseDistribution]:
        if self.space is not None:
            return dict(self.space)
        trials = study.get_trials(deepcopy=False)
        return intersection_search_space(trials) or intersection_search_space(trials, include_pruned=True)

    def _study_pools(self, study: optuna.Study, trial: FrozenTrial, space: Distributions, axes: Axes) -> StudyPools:
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        tried = {observe.key_of(observe.params_of(t), space) for t in others if t.state != TrialState.FAIL}
        return StudyPools(self._observer, space, axes, tried, self._allowed, self._points)

    def _choose(self, evidence: Evidence, pool: Pool, pools: Pools, rng: np.random.Generator) -> dict[str, Any]:
        """The point of a pool of new ones to take, or one near its best."""
        if len(evidence.complete) < LEAST_TRAINED or rng.random() < RANDOM_SHARE:
            return pool.point(int(rng.integers(len(pool))))
        gain = evidence.improvement(pool.points()) / pool.expense
        near = pools.near(pool.take(np.argsort(-gain, kind="stable")[:PARENTS]), POOL, rng)
        if len(near):
            gain = np.append(gain, evidence.improvement(near.points()) / near.expense)
        best = int(np.argmax(gain))
        return pool.point(best) if best < len(pool) else near.point(best - len(pool))

    def _points_of(self, screened: Iterable[Screened] | Points, space: Distributions, axes: Axes) -> Points:
        return screened if isinstance(screened, Points) else self._observer.all_screened(screened, space, axes)

    def _evidence(self, study: optuna.Study, asked: FrozenTrial | None, space: Distributions, axes: Axes) -> Evidence:
        """What a study knows. asked: the trial that is to be proposed."""
        complete, running = self._observer.observed(study, asked, space, axes)
        worst = None if self._worst_quality is None else axes.quality * self._worst_quality
        return Evidence(
            complete,
            running,
            lambda: self._points_of(self._screened(study), space, axes),
            Worst(self._worst_costs, worst),
            self._known_constraints,
        )
