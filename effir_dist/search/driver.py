"""The driver of a search: it hands out trials and takes in their records. What it knows is on disk as well."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Literal

from effir_dist.core.errors import InputError
from effir_dist.core.files import now
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Progress
from effir_dist.importance.store import load_importance, load_saliency
from effir_dist.models.families.base import ModelDict
from effir_dist.report.study_db import Mirror
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import plan_text
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.live import LiveView
from effir_dist.search.strategy.next_trial import TrialQueue
from effir_dist.search.strategy.repeating import pending_repeats, repeat_specs
from effir_dist.search.strategy.space import Space
from effir_dist.search.strategy.stopping import spent, stale, stopped_trials, usual_seconds
from effir_dist.search.trial.outcome import failed_record


class SearchDriver:
    """Hands out trials and takes in their records, one at a time; `tune.Driver`."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        space: Space,
        model_config: ModelDict,
        resources: Resources,
        view: LiveView,
        study: Path,
        repeat: int = 0,
    ) -> None:
        """study: where Optuna's study is mirrored, on this machine. repeat: run the front's trials again, until each
        has so many repeats, and nothing else."""
        self.run, self.config, self.model_config = run, config, model_config
        self.resources, self.view = resources, view
        self.goal = Goal.of(config.search)
        self.records = run.results()
        self.repeat = repeat
        self.repeats = repeat_specs(run, config, repeat) if repeat else pending_repeats(run)
        self.queue = TrialQueue(run, config, space, model_config, load_importance(run), load_saliency(run))
        self.queue.replay(self.records, [spec for spec in run.pending() if not spec.repeat_of])
        self.mirror = Mirror(study, run.name, self.records, self.goal)
        self.stopped = stopped_trials(run)
        """Trials that scored on lower rungs and have no record: they cost as well."""
        self.with_weights = {record.trial for record in self.records}
        self.specs: dict[str, TrialSpec] = {}
        self.running: set[str] = set()
        self.begun: dict[str, str] = {}
        budget = config.search.time_budget
        self.deadline = time.monotonic() + budget if budget else float("inf")
        self.failure: InputError | None = None
        self.ended_by = "" if repeat else stale(config.search, self.goal, self.records)
        """Why the search ends before its trials are done; empty while it does not."""

    @property
    def left(self) -> int:
        """Trials still to run."""
        searched = len([r for r in self.records if not r.spec.repeat_of])
        return len(self.repeats) + (0 if self.repeat else max(0, self.config.search.trials - searched))

    @property
    def why(self) -> str:
        """Why the search ended."""
        if not self.ended_by and self.left and time.monotonic() > self.deadline:
            return f"search.time_budget: {self.config.search.time_budget:g} s are over"
        if self.ended_by or self.repeat:
            return self.ended_by or f"each trial of the front was given {self.repeat} repeats"
        return f"all {self.config.search.trials} trials are done" if not self.left else "it was stopped"

    def next_job(self) -> Job | Literal["wait"] | None:
        """The next trial for a worker; None when there is none, or no time for it; "wait" when there is none before
        another has ended."""
        self.ended_by = self.ended_by or self._out_of_means()
        if self.failure or self.ended_by:
            return None
        if self.repeats:
            return self._begin(self.repeats.pop(0))
        if self.repeat or self.left <= self._to_full_training():
            return None
        known = self.queue.repeats
        spec = self.queue.next(self.run.next_number())
        for _ in range(self.queue.repeats - known):
            self.view.repeat_saved()
        if spec is None:
            if self.running:
                return "wait"
            feasible = "feasible " if self.goal.constraints else ""
            self.ended_by = f"every {feasible}plan of the search space was tried"
            return None
        for block in self.queue.emptied(spec):
            self.view.message(f"trial {spec.trial}: its width leaves MLP {block} no neuron, so that is dropped")
        return self._begin(spec)

    def _to_full_training(self) -> int:
        """How many of the running trials end with a record."""
        return sum(self._share(trial) == 1 and not self.specs[trial].repeat_of for trial in self.running)

    def _begin(self, spec: TrialSpec) -> Job | None:
        """The job of a trial, which is noted on disk; None where that fails."""
        spec = dataclasses.replace(spec, gpus=self.resources.gpus)
        try:
            self.run.clear_pending(spec.trial)
            self.run.write_spec(spec)
        except InputError as error:
            self.failure = error
            return None
        self.specs[spec.trial] = spec
        self.running.add(spec.trial)
        return Job(self.run.location, self.config, spec, self.resources, lease=self.run.lease)

    def started(self, trial: str) -> None:
        """A worker has begun."""
        self.begun[trial] = now()
        spec = self.specs[trial]
        facts = spec.facts(self.model_config, self.config.model.dimension)
        counts = len(facts.dropped_mlp), facts.width_ratio, len(facts.dropped_attention)
        label = plan_text(*counts, others=facts.other_operations)
        again = f" (repeats {spec.repeat_of})" if spec.repeat_of else ""
        fidelity = self._fidelity(trial)
        self.view.trial_started(trial, label + again + (f", {fidelity}" if fidelity else ""))

    def _share(self, trial: str) -> float:
        """How much of its training a trial goes to now."""
        rungs, rung = self.config.search.rungs, self.specs[trial].rung
        return 1.0 if rung is None or rung >= len(rungs) else rungs[rung]

    def _fidelity(self, trial: str) -> str:
        """The same in words: 'untrained' or '25 % trained'; empty for all of it."""
        share = self._share(trial)
        return "" if share == 1 else f"{share:.0%} trained" if share else "untrained"

    def progressed(self, trial: str, progress: Progress) -> None:
        """A worker says how far it is."""
        if "phase" in progress:
            self.view.trial_progress(trial, progress)

    def ended(self, trial: str, error: BaseException | None) -> None:
        """A trial ended. `error` is None where it has its record, or was stopped: then it starts over on resume.

        Bad input (a full disk, a checkpoint that a worker cannot read) would end every trial: it ends the search.
        """
        self.running.discard(trial)
        try:
            if not self.run.reached(self.specs[trial]):
                if error is None:
                    return
                if isinstance(error, InputError):
                    raise error
                self._fail(trial, error)
            if self.run.finished(trial):
                self._learn(self.run.result(trial))
            else:
                rung = self.specs[trial].rung
                assert rung is not None
                self._screened(trial, self.queue.scored(trial, rung))
        except InputError as failure:
            self.failure = failure

    def _fail(self, trial: str, error: BaseException) -> None:
        started, reason = self.begun.get(trial, now()), _one_line(error)
        spec, dimension, rungs = self.specs[trial], self.config.model.dimension, self.run.rungs(trial)
        self.run.write_result(failed_record(self.model_config, spec, reason, started, dimension, rungs=rungs))

    def _screened(self, trial: str, score: RungScore) -> None:
        """A trial was scored below full training, where it stays unless it is promoted."""
        self.stopped[trial] = self.specs[trial].gpus, self.run.rungs(trial)
        self.view.rung_finished(trial, score, self._fidelity(trial))

    def _learn(self, record: TrialRecord) -> None:
        self.records.append(record)
        self.stopped.pop(record.trial, None)
        self.queue.ended(record)
        self.mirror.add(record)
        self.view.trial_finished(record)
        if not self.repeat:
            self.ended_by = self.ended_by or stale(self.config.search, self.goal, self.records)
        if self.config.search.keep_weights == "front":
            self._remove_weights(record.trial)

    def _remove_weights(self, newest: str) -> None:
        """Of the models that are not on the front."""
        best = self.goal.kept(self.records)
        kept = {r.trial for r in self.records if {r.trial, r.spec.repeat_of} & best}
        for trial in {*self.with_weights, newest} - kept:
            self.run.remove_weights(trial)
        self.with_weights = kept

    def _out_of_means(self) -> str:
        """Why there is no time or no GPU for another trial; empty where there is."""
        if time.monotonic() + usual_seconds(self.records) > self.deadline:
            return f"search.time_budget: no time is left for another trial in {self.config.search.time_budget:g} s"
        return spent(self.config.search, self.records, len(self.running), self.resources.gpus, self.stopped)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:500] if lines else 'no message'}"
