"""The course of a search: score layers, run trials, score the front on test, report. Records are written as it goes."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.files import now
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.core.storage import written_locally
from effir_dist.data import sets
from effir_dist.importance.store import has_importance, load_importance, load_saliency
from effir_dist.models.facts import plan_facts
from effir_dist.models.families.backbones import ModelDict
from effir_dist.report.study_db import Mirror
from effir_dist.runs.objectives import Goal
from effir_dist.runs.pareto import plan_text
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster import tune
from effir_dist.search.cluster.resources import Resources, settle
from effir_dist.search.cluster.worker import output_to, run_job
from effir_dist.search.live import LiveView
from effir_dist.search.strategy.promotion import Climbing, climbs
from effir_dist.search.strategy.repeating import pending_repeats, repeat_heads, repeats_line, with_repeats
from effir_dist.search.strategy.space import Space, rankings, teacher_settings
from effir_dist.search.strategy.stopping import spent, stale, usual_seconds
from effir_dist.search.strategy.study import Sampler
from effir_dist.search.trial.outcome import failed_record

MOST_JOBS = 1_000_000
"""Of a search with rungs, whose end the driver tells."""


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
        self.goal = Goal.of(vars(config.search))
        self.records = run.results()
        self.sampler = Sampler(config, space, model_config, load_importance(run), load_saliency(run))
        self.repeat = repeat
        self.repeats = repeat_heads(run, config, repeat) if repeat else pending_repeats(run)
        pending = [head for head in run.pending() if not head.get("repeat_of")]
        self.climbing: Climbing | None = None
        if repeat or not climbs(config, space):
            self.sampler.replay(self.records, pending)
        else:
            # In the order in which they ended, which is not that of their numbers here.
            self.sampler.replay(sorted(self.records, key=lambda r: r["finished"]), [], pending)
            self.climbing = Climbing(run, config, model_config, self.sampler)
            self.climbing.replay([r for r in self.records if not r.get("repeat_of")], pending)
        self.mirror = Mirror(study, run.name, self.records, self.goal)
        self.with_weights = {record["trial"] for record in self.records}
        self.heads: dict[str, dict[str, Any]] = {}
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
        searched = len([r for r in self.records if not r.get("repeat_of")])
        return len(self.repeats) + (0 if self.repeat else max(0, self.config.search.trials - searched))

    @property
    def why(self) -> str:
        """Why the search ended."""
        if not self.ended_by and self.left and time.monotonic() > self.deadline:
            return f"search.time_budget: {self.config.search.time_budget:g} s are over"
        if self.ended_by or self.repeat:
            return self.ended_by or f"each trial of the front was given {self.repeat} repeats"
        return f"all {self.config.search.trials} trials are done" if not self.left else "it was stopped"

    def next_job(self) -> dict[str, Any] | None:
        """The next trial, as plain data for a worker; None when there is none, or no time for it; empty when there is
        none before another has ended."""
        self.ended_by = self.ended_by or self._out_of_means()
        if self.failure or self.ended_by:
            return None
        if self.repeats:
            return self._begin(self.repeats.pop(0))
        if self.repeat:
            return None
        if self.climbing:
            return self._next_rung(self.climbing)
        repeats = self.sampler.repeats
        suggestion = self.sampler.suggest(self.run.next_number())
        for _ in range(self.sampler.repeats - repeats):
            self.view.repeat_saved()
        if suggestion is None:
            self.ended_by = f"every plan of the search space{self._that_keeps()} was tried"
            return None
        for block in self.sampler.emptied(suggestion):
            self.view.message(f"trial {suggestion.trial}: its width leaves MLP {block} no neuron, so that is dropped")
        return self._begin(suggestion.to_dict())

    def _next_rung(self, climbing: Climbing) -> dict[str, Any] | None:
        """As `next_job`, in a search with rungs: a new trial, or one that goes on."""
        to_top = sum(self.heads[trial].get("rung") == climbing.top for trial in self.running)
        if self.left <= to_top:
            return None
        head = climbing.next(self.run.next_number())
        if head is None and not self.running:
            self.ended_by = f"every plan of the search space{self._that_keeps()} was tried"
        return self._begin(head) if head else {} if self.running else None

    def _that_keeps(self) -> str:
        return " that keeps to search.constraints" if self.goal.constraints else ""

    def _begin(self, head: dict[str, Any]) -> dict[str, Any] | None:
        """The job of a trial, which is noted on disk; None where that fails."""
        head = {**head, "gpus": self.resources.gpus}
        try:
            self.run.clear_pending(head["trial"])
            self.run.write_suggestion(head["trial"], head)
        except InputError as error:
            self.failure = error
            return None
        self.heads[head["trial"]] = head
        self.running.add(head["trial"])
        return {
            "run": self.run.location,
            "config": config_module.to_dict(self.config),
            "head": head,
            "resources": dataclasses.asdict(self.resources),
        }

    def started(self, trial: str) -> None:
        """A worker has begun."""
        self.begun[trial] = now()
        facts = plan_facts(self.model_config, self.heads[trial], self.config.model.dimension)
        drops = len(facts["dropped_mlp"]), facts["width_ratio"], len(facts["dropped_attention"])
        again = self.heads[trial].get("repeat_of")
        label = plan_text(*drops) + (f" (repeats {again})" if again else "")
        self.view.trial_started(trial, label + self._where(trial))

    def _where(self, trial: str) -> str:
        """How far a trial goes that ends below the top: ', untrained' or ', 25 % trained'."""
        rungs, rung = self.config.search.rungs, self.heads[trial].get("rung", math.inf)
        share = rungs[rung] if rung < len(rungs) else 1.0
        return "" if share == 1 else f", {share:.0%} trained" if share else ", untrained"

    def progressed(self, trial: str, progress: dict[str, Any]) -> None:
        """A worker says how far it is."""
        if "phase" in progress:
            self.view.trial_progress(trial, progress)

    def ended(self, trial: str, error: BaseException | None) -> None:
        """A trial ended. `error` is None where it has its record, or was stopped: then it starts over on resume.

        Bad input (a full disk, a checkpoint that a worker cannot read) would end every trial: it ends the search.
        """
        self.running.discard(trial)
        try:
            if not self.run.reached(self.heads[trial]):
                if error is None:
                    return
                if isinstance(error, InputError):
                    raise error
                started = self.begun.get(trial, now())
                dimension, reason = self.config.model.dimension, _one_line(error)
                record = failed_record(self.model_config, self.heads[trial], reason, started, dimension)
                self.run.write_result(trial, record)
            if self.climbing and not self.run.finished(trial):
                self._climbed(trial, self.climbing.scored(trial, self.heads[trial]["rung"]))
            else:
                self._learn(self.run.result(trial))
        except InputError as failure:
            self.failure = failure

    def _climbed(self, trial: str, scored: dict[str, Any]) -> None:
        """A trial was scored below the top, where it stays unless it is chosen to go on."""
        self.view.rung_finished({**scored, "trial": trial}, self._where(trial).lstrip(", "))

    def _learn(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if self.climbing:
            self.climbing.ended(record)
        self.sampler.tell(record)
        self.mirror.add(record)
        self.view.trial_finished(record)
        if not self.repeat:
            self.ended_by = self.ended_by or stale(self.config.search, self.goal, self.records)
        if self.config.search.keep_weights == "front":
            best = self.goal.kept(self.records)
            kept = {r["trial"] for r in self.records if {r["trial"], r.get("repeat_of")} & best}
            for trial in {*self.with_weights, record["trial"]} - kept:
                self.run.remove_weights(trial)
            self.with_weights = kept

    def _out_of_means(self) -> str:
        """Why there is no time or no GPU for another trial; empty where there is."""
        if time.monotonic() + usual_seconds(self.records) > self.deadline:
            return f"search.time_budget: no time is left for another trial in {self.config.search.time_budget:g} s"
        return spent(self.config.search, self.records, len(self.running), self.resources.gpus)


def search(
    run: Run,
    config: RunConfig,
    space: Space,
    model_config: ModelDict,
    present: dict[str, float],
    may_grow_to: dict[str, float],
    view: LiveView,
    storage: str,
    work: tune.Work = run_job,
    repeat: int = 0,
) -> None:
    """Run a search, or what is left of it, on the Ray cluster that this process has joined.

    repeat: instead, run the front's trials again with other training seeds, until each has so many repeats.
    storage: a folder for what Ray keeps while it runs; on several nodes one that all of them share. work: what a worker
    process does for a trial.
    Raises InputError where no trial fits the cluster or the disk is full; what was finished is on disk.
    """
    resources = settle(config.resources, present, may_grow_to)
    if config.search.gpu_hours and not resources.gpus:
        raise InputError("search.gpu_hours counts GPUs, and a trial takes none here; use --time-budget, or set it to 0")
    job = (run.location, config_module.to_dict(config))
    if not has_importance(run):
        view.message("scoring layers and neurons of the unpruned model")
        tune.call(_score_layers, resources, *job, rankings(space, config), teacher_settings(space, config))()
    with written_locally(run.study_path) as study:
        driver = SearchDriver(run, config, space, model_config, resources, view, study, repeat)
        if driver.left and not driver.ended_by:
            jobs = MOST_JOBS if driver.climbing else driver.left
            tune.run_trials(driver, resources, jobs, config.search.time_budget, storage, work)
    if driver.failure:
        raise driver.failure
    view.message(f"the search ended: {driver.why}")
    if not repeat:
        run.write_config(config_module.to_dict(config), {**run.extra, "ended": driver.why})
    moved = repeats_line(driver.records, driver.goal, repeat) if repeat else ""
    if moved:
        view.message(moved)
    if config.data.test_split:
        score_front(run, config, resources, view)
    if config.data.held_out:
        score_front(run, config, resources, view, held_out=True)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:500] if lines else 'no message'}"


def score_front(run: Run, config: RunConfig, resources: Resources, view: LiveView, held_out: bool = False) -> None:
    """Score the front's models, repeats too, on the test queries or the held-out data sets: those not scored yet."""
    names = [sets.dataset_name(path) for path in config.data.held_out]
    done = {t for t, s in run.held_out().items() if set(names) <= set(s["datasets"])} if held_out else {*run.tests()}
    records = run.results()
    chosen = with_repeats(records, Goal.of(vars(config.search)).kept(records))
    waiting = [trial for trial in chosen if trial not in done and run.has_weights(trial)]
    job = (run.location, config_module.to_dict(config))
    calls = [(trial, tune.call(_score_saved, resources, *job, trial, held_out)) for trial in waiting]
    what = f"held-out {', '.join(names)}" if held_out else "the test queries"
    for number, (trial, wait) in enumerate(calls, 1):
        view.message(f"scoring the front on {what}: {number} of {len(calls)} (trial {trial})")
        wait()


def _score_layers(folder: str, config: dict[str, Any], wanted: list[str], teacher: TrainConfig | None) -> None:
    from effir_dist.search.trial.preparation import prepare

    run = Run.open(folder)
    with output_to(run.importance_folder / "log"):
        prepare(run, config_module.from_dict(config), wanted, teacher)


def _score_saved(folder: str, config: dict[str, Any], trial: str, held_out: bool) -> None:
    from effir_dist.search.trial.trial import score_held_out, score_test

    run = Run.open(folder)
    with output_to(run.trial_folder(trial) / "log"):
        (score_held_out if held_out else score_test)(run, config_module.from_dict(config), trial)
