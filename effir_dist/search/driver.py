"""The driver of a search: it hands out trials and takes in their records. What it knows is on disk as well."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from effir_dist.core.errors import InputError
from effir_dist.core.files import now
from effir_dist.core.search_settings import trials_on_a_gpu
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Progress
from effir_dist.models.families.base import ModelDict
from effir_dist.report.study_db import Mirror
from effir_dist.runs.front_so_far import FrontSoFar
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import plan_text
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.runs.stages import stage_text
from effir_dist.runs.told import TOLD, keep_told
from effir_dist.runs.trial_spec import BASE_TRIAL
from effir_dist.runs.tries import tries_of
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.faults import Faults, Host, Hosts
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy.stopping import Deadline, spent, stopped_trials, usual_seconds
from effir_dist.search.trial.faults import TrialFault
from effir_dist.search.trial.outcome import failed_record
from effir_dist.search.trial_sources import InTurn


def here() -> dict[str, Host]:
    """The hosts of a search without a cluster."""
    return {"here": Host("here", 1)}


class SearchDriver:
    """Hands out trials and takes in their records, one at a time; `tune.Driver`."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        trials: InTurn,
        records: list[TrialRecord],
        model_config: ModelDict,
        resources: Resources,
        view: LiveView,
        study: Path,
        hosts: Hosts = here,
        deadline: Deadline | None = None,
    ) -> None:
        """trials: those to be run. records: of the run, to which new ones are added. study: where Optuna's study is
        mirrored, on this machine. hosts: what the cluster has now. deadline: None begins the time budget now."""
        self.run, self.config, self.model_config = run, config, model_config
        self.resources, self.view = resources, view
        self.goal = Goal.of(config.search)
        self.trials, self.records = trials, records
        self.best = FrontSoFar(self.goal, self.records)
        self.stopped = stopped_trials(run)
        """Trials that scored on lower rungs and have no record: they cost as well."""
        stopped = [(spec, self.stopped[spec.trial][1]) for spec in run.pending() if spec.trial in self.stopped]
        self.mirror = Mirror(study, run.name, self.records, self.goal, stopped)
        self.with_weights = {record.trial: record.spec.repeat_of for record in self.records}
        """Trial whose model may be on disk -> the trial that it repeats, if any."""
        self.number = run.next_number()  # the next new trial's
        self.specs: dict[str, TrialSpec] = {}
        self.running: set[str] = set()
        equal, together = config.search.equal_failures, trials_on_a_gpu(resources.gpus / resources.workers)
        self.faults = Faults(run, hosts, resources.workers, equal, view.warning, together)
        self.again: list[TrialSpec] = []
        """Trials that failed, not by themselves, and wait to be tried again."""
        self.aside: list[str] = []
        """Trials that failed so often that they wait for another search, which goes on with this one."""
        self.waiting: set[str] = set()
        """Of `running` those that wait for another host than where they failed: that one is free meanwhile."""
        self.nodes: dict[str, tuple[str, ...]] = {}
        """Running trial -> the nodes that it said it runs on."""
        self.begun: dict[str, str] = {}
        self.told: dict[str, str] = {}
        """What workers said that their trials came to."""
        self.deadline = deadline or Deadline(config.search.time_budget)
        self.failure: InputError | None = None
        self.ended_by = ""
        """Why the search ends before its trials are done; empty while it does not."""

    @property
    def left(self) -> int:
        """Trials that lack their record, as far as is known."""
        return self.trials.left

    @property
    def why(self) -> str:
        """Why the search ended, and which models lack their full recovery."""
        owed = ", ".join(self.trials.owed)
        return self._why + (f"; {owed} lack their full recovery: --resume {self.run.folder} runs it" if owed else "")

    @property
    def _why(self) -> str:
        if not self.left:
            return self.ended_by or self.trials.why
        if not self.ended_by and self.deadline.over:
            return f"search.time_budget: {self.config.search.time_budget:g} s are over"
        return self.ended_by or "it was stopped"

    def close(self) -> None:
        """Wait for what is still written to `study.db`. Raises InputError where it could not be."""
        self.mirror.close()

    def next_job(self) -> Job | Literal["wait"] | None:
        """The next trial for a worker; None when there is none, or no time for it; "wait" when there is none before
        another has ended."""
        self.ended_by = self.ended_by or (self._out_of_means() if self.left else "")
        if self.failure or self.ended_by:
            return None
        if len(self.running - self.waiting) >= self.resources.concurrent:
            return "wait"
        spec = self._retry(elsewhere=True) or self._new() or self._retry()
        if spec:
            return self._begin(spec)
        if self.running:
            return "wait"
        self.ended_by = self.trials.why
        if self.aside:
            failed = f"{', '.join(self.aside)} failed for reasons that are not the trial's"
            self.ended_by = f"{failed}: --resume {self.run.folder} runs them again"
        return None

    def _retry(self, elsewhere: bool = False) -> TrialSpec | None:
        """A trial to be tried again: at first only one that lost its worker, or may run on another host than before."""
        for spec in self.again:
            if not elsewhere or self.faults.at_once(spec.trial):
                self.again.remove(spec)
                return spec
        return None

    def _new(self) -> TrialSpec | None:
        """A trial that is new, or goes on; None where there is none, or those under way are enough."""
        under_way = {spec.trial: spec for spec in self.again} | {trial: self.specs[trial] for trial in self.running}
        try:
            return self.trials.next(self.number, [*under_way.values()])
        except InputError as error:  # a sampler from elsewhere failed
            self.failure = error
            return None

    def _begin(self, spec: TrialSpec) -> Job | None:
        """The job of a trial, which is noted on disk; None where that fails."""
        spec = dataclasses.replace(spec, gpus=self.resources.gpus)
        try:
            self.run.clear_pending(spec.trial)
            self.run.write_spec(spec)
        except InputError as error:
            self.failure = error
            return None
        self.number = max(self.number, spec.number + 1)
        self.specs[spec.trial] = spec
        self.running.add(spec.trial)
        if self.faults.elsewhere(spec.trial):
            self.waiting.add(spec.trial)
        tries = tuple(each.text for each in tries_of(self.run, spec.trial))
        avoid, lease = self.faults.avoid(spec.trial), self.run.lease
        return Job(self.run.location, self.config, spec, self.resources, avoid, tries, lease=lease)

    def has_place(self, job: Job) -> bool:
        """Whether a job that has not started still waits for the right nodes."""
        return self.faults.fits(job.avoid)

    def started(self, trial: str) -> None:
        """A worker has begun."""
        self.begun[trial] = now()
        self.waiting.discard(trial)
        spec = self.specs[trial]
        facts = spec.facts(self.model_config, self.config.model.dimension)
        counts = len(facts.dropped_mlp), facts.width_ratio, len(facts.dropped_attention)
        label = plan_text(*counts, others=facts.other_operations)
        again = f" (repeats {spec.repeat_of})" if spec.repeat_of else ""
        label = ": ".join(filter(None, (stage_text(spec.stage, spec.continues), label)))
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
        """A worker says how far it is, and at first on which nodes."""
        if "nodes" in progress:
            self.nodes[trial] = tuple(str(progress["nodes"]).split(","))
        if TOLD in progress:
            self.told[trial] = str(progress[TOLD])
        if "phase" in progress:
            self.view.trial_progress(trial, progress)

    def ended(self, trial: str, error: TrialFault | None) -> None:
        """A trial ended. `error` is None where it has its record, or was stopped: then it starts over, or on resume."""
        self.running.discard(trial)
        self.waiting.discard(trial)
        nodes = self.nodes.pop(trial, ())
        try:
            keep_told(self.run, self.specs[trial], self.told.pop(trial, ""))
            if self.run.reached(self.specs[trial]) or self._tried_in_vain(trial, error, nodes):
                self._take_in(trial, nodes)
        except InputError as failure:
            self.failure = self.failure or failure

    def _take_in(self, trial: str, nodes: tuple[str, ...]) -> None:
        """A trial has what it was started for."""
        if not self.run.finished(trial):
            rung = self.specs[trial].rung
            assert rung is not None
            self._screened(trial, self.trials.scored(trial, rung))
            self.faults.succeeded(trial, nodes)
            return
        record = self.run.result(trial)
        self._learn(record)
        if record.complete:
            self.faults.succeeded(trial, nodes)
        else:
            self.faults.recorded(record.reason)

    def _tried_in_vain(self, trial: str, error: TrialFault | None, nodes: tuple[str, ...]) -> bool:
        """What becomes of a trial without a score; whether it has its record as failed now."""
        spec = self.specs[trial]
        self.view.trial_stopped(trial)
        if error is None:
            self.again.append(spec)
            return False
        verdict = self.faults.failed(spec, error if error.nodes else TrialFault(error.kind, error.reason, nodes))
        if verdict == "failed":
            self._fail(trial, error)
        elif verdict == "again":
            self.again.append(spec)
        else:
            self.aside.append(trial)
            self.trials.set_aside(spec)
        return verdict == "failed"

    def _fail(self, trial: str, error: TrialFault) -> None:
        started, reason = self.begun.get(trial, now()), error.reason
        spec, dimension, rungs = self.specs[trial], self.config.model.dimension, self.run.rungs(trial)
        self.run.write_result(failed_record(self.model_config, spec, reason, started, dimension, rungs=rungs))

    def _screened(self, trial: str, score: RungScore) -> None:
        """A trial was scored below full training, where it stays unless it is promoted."""
        self.stopped[trial] = self.specs[trial].gpus, self.run.rungs(trial)
        self.mirror.screened(self.specs[trial], score)
        self.view.rung_finished(trial, score, self._fidelity(trial))

    def _learn(self, record: TrialRecord) -> None:
        self.records.append(record)
        self.best.add(record)
        self.stopped.pop(record.trial, None)
        self.trials.ended(record)
        self.mirror.add(record)
        self.view.trial_finished(record)
        keep = self.config.search.keep_weights
        if keep == "front" or (keep == "none" and self.config.train.recovers):
            self._remove_weights(record)

    def _remove_weights(self, newest: TrialRecord) -> None:
        """Of the models that nobody needs: neither the user nor a trial that is to start from them."""
        best = self.goal.kept(self.best.records) if self.config.search.keep_weights == "front" else set[str]()
        best |= {BASE_TRIAL, *self.trials.owed} if self.config.train.recovers else set()
        self.with_weights[newest.trial] = newest.spec.repeat_of
        for trial in [t for t, repeated in self.with_weights.items() if not {t, repeated} & best]:
            self.run.remove_weights(trial)
            del self.with_weights[trial]

    def _out_of_means(self) -> str:
        """Why there is no time or no GPU for another trial; empty where there is."""
        usual = usual_seconds(self.records, self.trials.stage, self.config.train.recovery)
        if self.deadline.left < usual:
            return f"search.time_budget: no time is left for another trial in {self.config.search.time_budget:g} s"
        return spent(self.config.search, self.records, len(self.running), self.resources.gpus, self.stopped, usual)
