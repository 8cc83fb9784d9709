"""What to try next. Optuna samples; the records on disk are the truth, and the study in memory is rebuilt from them.

It also knows the trials that run now. `study_db` has the copy of the finished ones for Optuna's own tools, from which
nothing is ever read back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState

from effir_dist.core.config import replace, settings_of
from effir_dist.core.renamed import sort_name
from effir_dist.core.settings import RunConfig
from effir_dist.importance.ranking import Importance
from effir_dist.models.facts import plan_facts
from effir_dist.models.families.backbones import ModelDict, block_count
from effir_dist.models.pruning import PruningPlan
from effir_dist.report.study_db import frozen_trial
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import is_whole, unpruned
from effir_dist.search.strategy import candidates
from effir_dist.search.strategy import space as spaces
from effir_dist.search.strategy.space import Space

REPEATS = 24
"""Asks of the sampler that may repeat a known trial before points are drawn at random."""
POOL = 200
"""Untried suggestions that a strategy chooses among."""


@dataclass(frozen=True)
class Suggestion:
    """A trial to run."""

    number: int
    suggested: dict[str, Any]
    distributions: dict[str, str]
    plan: PruningPlan
    key: str
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the sampler noted for itself: NSGA-II's generation."""

    @property
    def trial(self) -> str:
        """Its id, the name of its folder."""
        return f"{self.number:04d}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the head of the trial's record."""
        return {
            "trial": self.trial,
            "number": self.number,
            "suggested": self.suggested,
            "distributions": self.distributions,
            "plan": self.plan.to_dict(),
            "key": self.key,
            "attributes": self.attributes,
        }


def trial_key(plan: PruningPlan, settings: dict[str, Any]) -> str:
    """Equal for trials that would give the same model: same plan, same settings."""
    text = json.dumps([plan.to_dict(), settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Sampler:
    """Suggests trials that were not tried yet, and learns from records.

    The sampler is seeded anew for each suggestion from the run's seed and the trial's number, so a resumed search
    suggests what an uninterrupted one would have (where trials run one at a time).
    """

    def __init__(
        self,
        config: RunConfig,
        space: Space,
        model_config: ModelDict,
        importance: Importance,
        neurons: dict[str, np.ndarray],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.space, self.model_config = config, space, model_config
        self.importance, self.neurons = importance, neurons
        self.distributions = spaces.distributions(space, block_count(model_config))
        self.distributions_json = {name: distribution_to_json(dist) for name, dist in self.distributions.items()}
        self.goal = Goal.of(vars(config.search))
        self.whole: dict[str, Any] | None = None
        """The record of the unpruned model, once there is one: what constraints on quality go by."""
        self.study = optuna.create_study(directions=self.goal.directions)
        self.starts = spaces.starting_points(space, config, block_count(model_config), importance)
        self.start_count = len(self.starts)
        self.seen: set[str] = set()
        self.running: dict[str, optuna.Trial] = {}
        self.waiting: list[Suggestion] = []
        self.repeats = 0

    def replay(
        self,
        records: Iterable[dict[str, Any]],
        pending: Iterable[dict[str, Any]],
        begun: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Learn from the records of a run; suggestions without a record are suggested again first, those of `begun`
        not again."""
        records = [*records]
        self.whole = unpruned(records)
        self.seen.update(head["key"] for head in begun)
        for record in records:
            self.seen.add(record["key"])
            if not record.get("repeat_of"):
                self.study.add_trial(frozen_trial(record, self.goal, self.whole))
        self.waiting = [self._read(tree) for tree in pending if tree["key"] not in self.seen]

    def suggest(self, number: int) -> Suggestion | None:
        """The next trial, to be known as `number`; one left unfinished keeps its own number. None: all was tried."""
        if self.waiting:
            again = self.waiting.pop(0)
            return self._begin(again, self._ask_for(again.suggested))
        while self.starts:
            point = self.starts.pop(0)
            suggestion = self._suggestion(number, point)
            if suggestion.key not in self.seen and (self._is_whole(suggestion) or not self.broken(suggestion)):
                return self._begin(suggestion, self._ask_for(point))
        return self._sample(number)

    def pick(
        self, number: int, choose: Callable[[list[Suggestion], np.random.Generator], int] | None
    ) -> Suggestion | None:
        """As `suggest`, for a search with rungs: after the starts, choose(pool, rng) says which of a pool of untried
        suggestions it is, by its place; without it the sampler does. None: all was tried."""
        self.starts = [point for point in self.starts if self._suggestion(number, point).key not in self.seen]
        if choose is None or self.starts:
            suggestion = self.suggest(number)
            if suggestion:  # Optuna hears of it again if it is trained in full: a resumed search would not know more
                self.study.tell(self.running.pop(suggestion.trial), state=TrialState.FAIL)
            return suggestion
        rng, finished = np.random.default_rng(self._seed(number, 0)), self.study.get_trials(deepcopy=False)
        done = any(trial.state == TrialState.COMPLETE for trial in finished)
        best = [trial.params for trial in self.study.best_trials] if done else []
        pool = self._untried(number, candidates.points(self.distributions, best, rng))
        if not pool:
            return None
        suggestion = pool[choose(pool, rng)]
        self.seen.add(suggestion.key)
        return suggestion

    def _untried(self, number: int, points: Iterable[dict[str, Any]]) -> list[Suggestion]:
        """Up to POOL suggestions of `points` that are not known and break no constraint."""
        found: dict[str, Suggestion] = {}
        for point in points:
            suggestion = self._suggestion(number, point)
            if suggestion.key not in self.seen and not self.broken(suggestion):
                found.setdefault(suggestion.key, suggestion)
            if len(found) >= POOL:
                break
        return list(found.values())

    def inputs(self, suggested: dict[str, Any]) -> list[float]:
        """The suggested settings as numbers from 0 to 1: what a surrogate takes."""
        names = [name for name in sorted(self.distributions, key=sort_name) if name in settings_of(suggested)]
        return [value for name in names for value in candidates.scaled(self.distributions[name], suggested[name])]

    def tell(self, record: dict[str, Any]) -> None:
        """Learn from a trial that ended; a repeat teaches nothing."""
        if record.get("repeat_of"):
            return
        self.whole = self.whole or unpruned([record])
        trial = self.running.pop(record["trial"], None)
        if trial is None:  # begun on a lower rung, where Optuna has no part
            self.study.add_trial(frozen_trial(record, self.goal, self.whole))
            return
        if record["state"] == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for name, value in self.goal.violations(record, self.whole).items():
            trial.set_constraint(name, value)
        self.study.tell(trial, self.goal.values(record))

    def broken(self, suggestion: Suggestion) -> list[str]:
        """The constraints that a suggestion violates whatever its training makes of it."""
        return self.goal.broken_by_plan(self._facts(suggestion))

    def _facts(self, suggestion: Suggestion) -> dict[str, Any]:
        return plan_facts(self.model_config, suggestion.to_dict(), self.config.model.dimension)

    def _is_whole(self, suggestion: Suggestion) -> bool:
        """The unpruned model is tried in any case: everything is measured by it."""
        return is_whole(self._facts(suggestion))

    def _sample(self, number: int) -> Suggestion | None:
        if self.space.plans:
            return None
        for attempt in range(REPEATS + candidates.DRAWS):
            self.study.sampler = self._optuna_sampler(number, attempt)
            trial = self.study.ask(self.distributions)
            suggestion = self._suggestion(number, trial.params)
            repeated = suggestion.key in self.seen
            if not repeated and not self.broken(suggestion):
                return self._begin(suggestion, trial)
            self.repeats += repeated
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _seed(self, number: int, attempt: int) -> int:
        digest = hashlib.sha256(f"{self.config.search.seed}/{number}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "little")

    def _optuna_sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        seed = self._seed(number, attempt)
        if attempt >= REPEATS or self.config.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.config.search.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, self.start_count))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.config.search.sampler == "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=self.start_count)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self.start_count, multivariate=True, constant_liar=True
            )

    def _suggestion(self, number: int, suggested: dict[str, Any]) -> Suggestion:
        settings = settings_of(suggested)
        prune = replace(self.config, settings).prune
        plan = spaces.plan_of(suggested, self.space, self.model_config, self.importance, self.neurons, prune)
        return Suggestion(number, dict(suggested), self.distributions_json, plan, trial_key(plan, settings))

    def emptied(self, suggestion: Suggestion) -> list[int]:
        """The MLPs that a suggestion drops only because its width ratio left them no neuron."""
        return spaces.emptied(suggestion.suggested, self.space, self.model_config, self.importance, suggestion.plan)

    def _read(self, tree: dict[str, Any]) -> Suggestion:
        plan = PruningPlan.from_dict(tree["plan"])
        return Suggestion(
            tree["number"], tree["suggested"], tree["distributions"], plan, tree["key"], tree["attributes"]
        )

    def _ask_for(self, point: dict[str, Any]) -> optuna.Trial:
        self.study.enqueue_trial(point)
        return self.study.ask(self.distributions)

    def _begin(self, suggestion: Suggestion, trial: optuna.Trial) -> Suggestion:
        self.seen.add(suggestion.key)
        self.running[suggestion.trial] = trial
        noted = self.study.get_trials(deepcopy=False)[trial.number].system_attrs
        generation = {name: value for name, value in noted.items() if name.startswith("NSGAIISampler")}
        return dataclasses.replace(suggestion, attributes=suggestion.attributes or generation)
