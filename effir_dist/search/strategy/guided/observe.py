"""What a study of Optuna holds, as the numbers that `improvement` takes."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from effir_dist.core.values import LOW_FIDELITY
from effir_dist.runs.pareto import non_dominated_losses
from effir_dist.search.strategy.guided import numbers
from effir_dist.search.strategy.guided.points import Observed, Points

COSTS = "costs"
"""User attribute of a trial: its costs as they were measured, in the units of `GuidedSampler`'s `costs`."""
_RELATIVE = "guided:relative_params"
_MOST_CHARACTERS = 2045
"""Of a system attribute in a database (as Optuna's TPE has it)."""
MOST_OBJECTIVES = 3

Params = Mapping[str, Any]
Distributions = Mapping[str, BaseDistribution]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Screened:
    """A candidate with a cheap score, which may be worth a full evaluation."""

    params: Params
    low_fidelity: float
    costs: Sequence[float] | None = None
    """As they were measured; None: as the sampler's `costs` tells."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """Those that the cheap evaluation tells: name -> value, as for `trial.set_constraint`."""
    features: Sequence[float] | np.ndarray | None = None
    """None: as the sampler's `features` tells."""
    expense: float | None = None
    """Of the full evaluation; None: as the sampler's `expense` tells."""
    prior: Sequence[float] | np.ndarray | None = None
    """None: as the sampler's `prior` tells."""


@dataclass(frozen=True)
class Axes:
    """Which objective of a study is the quality; the signs that make good costs small and good quality large."""

    place: int
    costs: tuple[int, ...]
    quality: int

    @staticmethod
    def of(study: optuna.Study, quality: int) -> Axes:
        """quality: which objective it is. Raises ValueError where there are more than three objectives."""
        count = len(study.directions)
        if count > MOST_OBJECTIVES or not -count <= quality < count:
            raise ValueError(
                f"GuidedSampler takes 1 to {MOST_OBJECTIVES} objectives, objective {quality} being the quality; "
                f"the study has {count}"
            )
        signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]
        place = quality % count
        return Axes(place, tuple(signs[:place] + signs[place + 1 :]), -signs.pop(place))

    def split(self, values: Sequence[float] | None) -> tuple[list[float], float]:
        """Costs and quality of objective values; NaN where there are none."""
        found = list(values) if values else [math.nan] * (len(self.costs) + 1)
        quality = self.quality * found.pop(self.place)
        return [sign * value for sign, value in zip(self.costs, found, strict=True)], quality


class Observer:
    """Reads trials and candidates, with what its owner knows of points beforehand."""

    def __init__(
        self,
        costs: Callable[[Params], Sequence[float]] | None,
        features: Callable[[Params], Sequence[float]] | None,
        prior: Callable[[Params], float | Sequence[float]] | None,
        expense: Callable[[Params], float] | None,
    ) -> None:
        """As `GuidedSampler` takes them."""
        self.costs, self.features, self.prior, self.expense = costs, features, prior, expense
        self._finished: dict[Key, dict[int, Observed]] = {}
        """(study, names of the params) -> number -> a trial that does not change any more."""
        self._complete = Points.of([]), list[Observed]()
        """The complete trials of last time, as arrays and one by one."""

    def point(self, params: Params, space: Distributions, axes: Axes, known: Screened | None = None) -> Observed:
        """What is known of a point beforehand. known: the same where some of it was worked out."""
        told = known or Screened(params, math.nan)
        point: dict[str, Any] = {}
        if any(each is None for each in (told.costs, told.features, told.prior, told.expense)):
            point = {name: params[name] for name in space if name in params}
        features = _told(told.features, self.features or partial(_scaled, space), point, ())
        costs = _told(told.costs, self.costs, point, [math.nan] * len(axes.costs))
        prior = np.asarray(_told(told.prior, self.prior, point, ()), float).reshape(-1)
        expense = _told(told.expense, self.expense, point, 1.0)
        return Observed(np.asarray(features, float), np.asarray(costs, float), prior=prior, expense=expense)

    def screened(self, each: Screened, space: Distributions, axes: Axes) -> Observed:
        """A candidate with a cheap score."""
        found, low = self.point(each.params, space, axes, each), axes.quality * each.low_fidelity
        more = (found.prior, found.expense)
        return Observed(found.features, found.costs, math.nan, low, each.constraints, *more)

    def observed(
        self, study: optuna.Study, asked: FrozenTrial | None, space: Distributions, axes: Axes
    ) -> tuple[Points, Points]:
        """The complete trials of a study, and those that run. asked: the one to be proposed, which is not one."""
        done = self._finished.setdefault((study.study_name, *space), {})
        complete, running = list[Observed](), list[Observed]()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
            if trial.number in done:
                complete.append(done[trial.number])
            elif (asked is None or trial.number != asked.number) and space.keys() <= params_of(trial).keys():
                each = self._trial(trial, space, axes)
                if trial.state == TrialState.RUNNING:
                    running.append(each)
                elif math.isfinite(each.quality):
                    done[trial.number] = each
                    complete.append(each)
        if len(complete) != len(self._complete[1]) or any(map(operator.is_not, complete, self._complete[1])):
            self._complete = Points.of(complete), complete
        return self._complete[0], Points.of(running)

    def all_screened(self, candidates: Iterable[Screened], space: Distributions, axes: Axes) -> Points:
        """Candidates that have all params of the search space, or features of their own."""
        known = [each for each in candidates if each.features is not None or space.keys() <= each.params.keys()]
        return Points.of([self.screened(each, space, axes) for each in known])

    def _trial(self, trial: FrozenTrial, space: Distributions, axes: Axes) -> Observed:
        by_values, quality = axes.split(trial.values)
        low, costs = trial.user_attrs.get(LOW_FIDELITY, math.nan), trial.user_attrs.get(COSTS)
        params, constraints = params_of(trial), trial.constraints
        found = self.screened(Screened(params, low, costs, constraints), space, axes)
        costs = np.where(np.isnan(found.costs), by_values, found.costs)
        return Observed(found.features, costs, quality, found.low, constraints, found.prior, found.expense)


def _told(known: Any, tell: Callable[[Params], Any] | None, point: Params, otherwise: Any) -> Any:
    """What is known, or a function says, or holds otherwise."""
    if known is not None:
        return known
    return tell(point) if tell else otherwise


def _scaled(space: Distributions, point: Params) -> list[float]:
    """[K] the params of a point from 0 to 1; a constant where there is no search space yet."""
    return [value for name in point for value in numbers.scaled(space[name], point[name])] or [0.0]


def front(study: optuna.Study) -> list[dict[str, Any]]:
    """Params of the feasible trials that none is better than."""
    signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]
    known = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    known = [trial for trial in known if all(value <= 0 for value in trial.constraints.values())]
    losses = [*map(tuple, (np.array([trial.values for trial in known]) * signs).tolist())] if known else []
    best = {losses[i] for i in non_dominated_losses(losses)}
    return [trial.params for trial, loss in zip(known, losses, strict=True) if loss in best]


def params_of(trial: FrozenTrial) -> Params:
    """All that is settled of a trial's params, though its objective may not have asked for them yet."""
    if trial.state.is_finished():
        return trial.params
    attributes = trial.system_attrs
    pieces = list[str]()
    while (piece := attributes.get(f"{_RELATIVE}:{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        proposed = json.loads("".join(pieces)) if pieces else {}
    except json.JSONDecodeError:  # another process is writing it
        proposed = {}
    return {**proposed, **attributes.get("fixed_params", {}), **trial.params}


def share_params(study: optuna.Study, trial: FrozenTrial, params: Params) -> None:
    """Note what was proposed for a trial, so that other workers know it before its objective asks for it."""
    text = json.dumps(dict(params))
    for piece, start in enumerate(range(0, len(text), _MOST_CHARACTERS)):
        value = text[start : start + _MOST_CHARACTERS]
        study._storage.set_trial_system_attr(trial._trial_id, f"{_RELATIVE}:{piece}", value)


def key_of(params: Params, space: Distributions) -> Key | None:
    """Equal for equal points; None where a value is missing."""
    return tuple(params[name] for name in space) if space.keys() <= params.keys() else None


def screened_of(study: optuna.Study) -> list[Screened]:
    """The candidates of a plain study: its PRUNED trials with a cheap score that no other trial goes on with."""
    trials = study.get_trials(deepcopy=False)
    begun = [params_of(trial) for trial in trials if trial.state != TrialState.PRUNED]
    waiting = [t for t in trials if t.state == TrialState.PRUNED and LOW_FIDELITY in t.user_attrs]
    return [
        Screened(t.params, t.user_attrs[LOW_FIDELITY], t.user_attrs.get(COSTS), t.constraints)
        for t in waiting
        if t.params not in begun
    ]
