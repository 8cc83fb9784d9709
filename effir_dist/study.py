"""What to try next. Optuna samples; the records on disk are the truth, and the study is rebuilt from them.

Two studies: one in memory, which also knows the trials that run now; and `study.db`, a copy of the finished ones for
Optuna's own tools. Nothing is ever read back from `study.db`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from effir_dist import space as spaces
from effir_dist.backbones import ModelDict, block_count
from effir_dist.config import replace
from effir_dist.errors import InputError
from effir_dist.pruning import PruningPlan
from effir_dist.ranking import Importance
from effir_dist.settings import RunConfig
from effir_dist.space import Space

REPEATS = 24
"""Asks of the sampler that may repeat a known trial before points are drawn at random."""
DRAWS = 400
"""Random points drawn in search of an untried one before the space counts as exhausted."""


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
        self.study = optuna.create_study(directions=["minimize", "maximize"])
        self.starts = spaces.starting_points(space, config, block_count(model_config), importance)
        self.start_count = len(self.starts)
        self.seen: set[str] = set()
        self.running: dict[str, optuna.Trial] = {}
        self.waiting: list[Suggestion] = []
        self.repeats = 0

    def replay(self, records: Iterable[dict[str, Any]], pending: Iterable[dict[str, Any]]) -> None:
        """Learn from the records of a run; suggestions without a record are suggested again first."""
        for record in records:
            self.seen.add(record["key"])
            self.study.add_trial(frozen_trial(record))
        self.waiting = [self._read(tree) for tree in pending if tree["key"] not in self.seen]

    def suggest(self, number: int) -> Suggestion | None:
        """The next trial, to be known as `number`; one left unfinished keeps its own number. None: all was tried."""
        if self.waiting:
            again = self.waiting.pop(0)
            return self._begin(again, self._ask_for(again.suggested))
        while self.starts:
            point = self.starts.pop(0)
            suggestion = self._suggestion(number, point)
            if suggestion.key not in self.seen:
                return self._begin(suggestion, self._ask_for(point))
        return self._sample(number)

    def tell(self, record: dict[str, Any]) -> None:
        """Learn from a trial that ended."""
        trial = self.running.pop(record["trial"])
        if record["state"] == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, [record["parameters"], record["ndcg_at_10"]])

    def _sample(self, number: int) -> Suggestion | None:
        if self.space.plans:
            return None
        for attempt in range(REPEATS + DRAWS):
            self.study.sampler = self._optuna_sampler(number, attempt)
            trial = self.study.ask(self.distributions)
            suggestion = self._suggestion(number, trial.params)
            if suggestion.key not in self.seen:
                return self._begin(suggestion, trial)
            self.repeats += 1
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _optuna_sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        digest = hashlib.sha256(f"{self.config.search.seed}/{number}/{attempt}".encode()).digest()
        seed = int.from_bytes(digest[:4], "little")
        if attempt >= REPEATS or self.config.search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self.config.search.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, self.start_count))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self.start_count, multivariate=True, constant_liar=True
            )

    def _suggestion(self, number: int, suggested: dict[str, Any]) -> Suggestion:
        settings = spaces.settings_of(suggested)
        prune = replace(self.config, settings).prune
        plan = spaces.plan_of(suggested, self.space, self.model_config, self.importance, self.neurons, prune)
        return Suggestion(number, dict(suggested), self.distributions_json, plan, trial_key(plan, settings))

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


def frozen_trial(record: dict[str, Any]) -> FrozenTrial:
    """A record as a finished Optuna trial."""
    dists: dict[str, BaseDistribution] = {n: json_to_distribution(d) for n, d in record["distributions"].items()}
    attributes = {"trial": record["trial"], "dropped_mlp": record.get("dropped_mlp")}
    if record["state"] == "failed":
        return create_trial(
            state=TrialState.FAIL,
            params=record["suggested"],
            distributions=dists,
            user_attrs={**attributes, "reason": record["reason"]},
        )
    return create_trial(
        values=[record["parameters"], record["ndcg_at_10"]],
        params=record["suggested"],
        distributions=dists,
        user_attrs=attributes,
        system_attrs=record["attributes"],
    )


class Mirror:
    """`study.db`: the finished trials in Optuna's own format, each exactly once, rebuilt from records at the start."""

    def __init__(self, path: Path, name: str, records: Iterable[dict[str, Any]]) -> None:
        self.path, fresh = path, path.with_suffix(".db.tmp")
        fresh.unlink(missing_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{fresh}")
        study = optuna.create_study(storage=storage, study_name=name, directions=["minimize", "maximize"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["parameters", "ndcg_at_10"])
        for record in records:
            study.add_trial(frozen_trial(record))
        storage.engine.dispose()
        os.replace(fresh, path)
        self.study = optuna.load_study(storage=f"sqlite:///{path}", study_name=name)

    def add(self, record: dict[str, Any]) -> None:
        """One more finished trial. Raises InputError where the file cannot be written; resuming makes it anew."""
        try:
            self.study.add_trial(frozen_trial(record))
        except optuna.exceptions.StorageInternalError as error:
            reason = str(error.__cause__).splitlines()[0]
            raise InputError(f"cannot write {self.path}: {reason}; free some space and go on with --resume") from None

