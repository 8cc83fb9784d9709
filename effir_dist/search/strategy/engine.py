"""The engine of a search: a study of Optuna with its sampler. All samplers are used in one way, `study.ask`.

The study holds the trials that run and those trained in full. What was screened and waits is not in it: samplers
would take a pruned trial for a good one. A trial that goes on to another rung is a new trial of the study, which ends
when that rung is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from effir_dist.core.errors import InputError
from effir_dist.core.settings import SAMPLERS, SearchConfig
from effir_dist.core.values import LOW_FIDELITY
from effir_dist.report.study_db import frozen_trial
from effir_dist.runs.records import TrialRecord, TrialSpec
from effir_dist.search.strategy.fidelity import FidelityState
from effir_dist.search.strategy.guided.observe import COSTS
from effir_dist.search.strategy.plan_callables import PlanCallables, guided_sampler
from effir_dist.search.strategy.problem import Problem
from effir_dist.search.strategy.sampler_classes import sampler_maker
from effir_dist.search.strategy.samplers import BuiltIn, Guided, Kept, Screens, Source, score_by_rank

NOT_KEPT = ("fixed_params", "constraints", "tpe:relative_params", "gp:relative_params", "guided:relative_params")
"""How attributes of a study's trial begin that its record need not have: it has the values themselves."""


class Engine:
    """Proposes plans, scores those that wait, and learns what trials come to."""

    def __init__(
        self, problem: Problem, state: FidelityState, search: SearchConfig, specs: Mapping[str, TrialSpec]
    ) -> None:
        """specs: trial -> its spec, as the search goes on."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem, self.state, self.name = problem, state, f"search.sampler={search.sampler}"
        self.plans = PlanCallables(problem, state, specs)
        self.source = self._source(search)
        self.study = optuna.create_study(sampler=self.source.between(), directions=problem.goal.directions)
        self.running: dict[str, optuna.Trial] = {}
        """Trial that runs, on any rung -> the study's."""
        self.repeats = 0
        """Plans that were proposed though they are known, and so were not trained again."""

    def _source(self, search: SearchConfig) -> Source:
        seed = self.problem.seed
        if search.sampler == "guided":
            return Guided(lambda own: guided_sampler(self.plans, own), seed)
        if search.sampler in SAMPLERS:
            return BuiltIn(search.sampler, seed, self.problem.start_count)
        return Kept(sampler_maker(search), seed)

    def propose(self, number: int) -> TrialSpec | None:
        """A new plan that violates no constraint on what a plan tells, as the trial `number`, which runs now; None: all
        were tried."""
        for attempt in range(self.source.asks):
            self.study.sampler = self.source.at(number, attempt)
            asked = self._ask()
            spec = self.problem.spec(number, asked.params)
            known = spec.key in self.problem.tried
            if not known and self.problem.feasible(spec):
                return self._run(spec, asked)
            self.repeats += known and self.source.asks > 1
            self.study.tell(asked, state=TrialState.FAIL)
        return None

    def begin(self, spec: TrialSpec) -> TrialSpec:
        """A certain trial runs now: one that the search starts with, or that goes on."""
        self.study.sampler = self.source.between()
        self.study.enqueue_trial(dict(spec.suggested), user_attrs=self._known(spec.trial))
        asked = self._ask()
        for name, value in spec.attributes.items():  # Optuna has no public way to set what samplers note
            self.study._storage.set_trial_system_attr(asked._trial_id, name, value)
        return self._run(spec, asked)

    def leave(self, trial: str) -> None:
        """A trial runs no more, and was not trained in full."""
        if asked := self.running.pop(trial, None):
            self.study.sampler = self.source.between()
            self.study.tell(asked, state=TrialState.FAIL)

    def finish(self, record: TrialRecord, baseline: TrialRecord | None) -> None:
        """A trial has its record. baseline: the unpruned model's, which constraints go by."""
        asked = self.running.get(record.trial)
        if asked is None or not record.complete:
            self.leave(record.trial)
            return
        self.study.sampler = self.source.between()
        for name, value in self.problem.goal.violations(record.values, baseline).items():
            asked.set_constraint(name, value)
        for name, value in self._known(record.trial).items():
            asked.set_user_attr(name, value)
        self.study.tell(self.running.pop(record.trial), self.problem.goal.objective_values(record))

    def learn(self, records: Sequence[TrialRecord], baseline: TrialRecord | None) -> None:
        """Trials that ended before this process began, in the order in which samplers are to hear of them."""
        for record in records:
            found = frozen_trial(record, self.problem.goal, baseline)
            for name, value in self._known(record.trial).items():
                found.set_user_attr(name, value)
            self.study.add_trial(found)

    def score(self, state: FidelityState, trials: Sequence[str]) -> np.ndarray:
        """[N] how much each trial, which was scored on the lowest rung, deserves to be trained in full."""
        sampler = self.source.between()
        if isinstance(self.source, Guided):
            return self.source.sampler.worth(self.study, self.plans.points(trials))
        if isinstance(sampler, Screens):
            return sampler.worth(self.study, self.plans.screened(trials))
        return score_by_rank(state, trials)

    def _ask(self) -> optuna.Trial:
        """Raises InputError where a sampler from elsewhere fails."""
        try:
            return self.study.ask(self.problem.distributions)
        except Exception as error:
            if not isinstance(self.source, Kept):
                raise
            raise InputError(f"{self.name} failed: {error}; what was found is on disk, and --resume goes on") from error

    def _run(self, spec: TrialSpec, asked: optuna.Trial) -> TrialSpec:
        """The trial with what its sampler noted."""
        if spec.key not in self.problem.tried:
            self.problem.know(spec)
        self.running[spec.trial] = asked
        noted = self.study.get_trials(deepcopy=False)[asked.number].system_attrs
        own = {name: value for name, value in noted.items() if not name.startswith(NOT_KEPT)}
        return replace(spec, attributes=spec.attributes or own)

    def _known(self, trial: str) -> dict[str, Any]:
        """User attributes for samplers that know what to make of them."""
        state = self.state
        if not state.scores.get(trial):
            return {}
        low = {LOW_FIDELITY: state.scores[trial][0]} if state.top and 0 in state.scores[trial] else {}
        return {COSTS: list(state.shares[trial]), **low}
