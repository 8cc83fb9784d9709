"""The course of a search: score layers, run trials, score the front on test, report. Records are written as it goes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

from effir_dist import config as config_module
from effir_dist import tune
from effir_dist.backbones import ModelDict
from effir_dist.errors import InputError
from effir_dist.front import front, plan_text
from effir_dist.live import LiveView
from effir_dist.outcomes import failed_record, has_scores, load_scores, now, plan_facts
from effir_dist.records import Run
from effir_dist.resources import Resources, settle
from effir_dist.settings import RunConfig
from effir_dist.space import Space, rankings
from effir_dist.study import Mirror, Sampler


class SearchDriver:
    """Hands out trials and takes in their records, one at a time; `tune.Driver`."""

    def __init__(
        self, run: Run, config: RunConfig, space: Space, model_config: ModelDict, resources: Resources, view: LiveView
    ) -> None:
        self.run, self.config, self.model_config = run, config, model_config
        self.resources, self.view = resources, view
        self.records = run.results()
        self.sampler = Sampler(config, space, model_config, *load_scores(run))
        self.sampler.replay(self.records, run.pending())
        self.mirror = Mirror(run.study_path, run.name, self.records)
        self.with_weights = {record["trial"] for record in self.records}
        self.heads: dict[str, dict[str, Any]] = {}
        self.begun: dict[str, str] = {}
        budget = config.search.time_budget
        self.deadline = time.monotonic() + budget if budget else float("inf")
        self.failure: InputError | None = None

    @property
    def left(self) -> int:
        """Trials still to run."""
        return max(0, self.config.search.trials - len(self.records))

    def next_job(self) -> dict[str, Any] | None:
        """The next trial, as plain data for a worker; None when there is none, or no time for it."""
        if self.failure or time.monotonic() + self._usual_seconds() > self.deadline:
            return None
        repeats = self.sampler.repeats
        suggestion = self.sampler.suggest(self.run.next_number())
        for _ in range(self.sampler.repeats - repeats):
            self.view.repeat_saved()
        if suggestion is None:
            self.view.message("every plan of the search space was tried")
            return None
        head = suggestion.to_dict()
        try:
            self.run.clear_pending(suggestion.trial)
            self.run.write_suggestion(suggestion.trial, head)
        except InputError as error:
            self.failure = error
            return None
        self.heads[suggestion.trial] = head
        return {
            "run": str(self.run.folder.resolve()),
            "config": config_module.to_dict(self.config),
            "head": head,
            "resources": dataclasses.asdict(self.resources),
        }

    def started(self, trial: str) -> None:
        """A worker has begun."""
        self.begun[trial] = now()
        facts = plan_facts(self.model_config, self.heads[trial])
        drops = len(facts["dropped_mlp"]), facts["width_ratio"], len(facts["dropped_attention"])
        self.view.trial_started(trial, plan_text(*drops))

    def progressed(self, trial: str, progress: dict[str, Any]) -> None:
        """A worker says how far it is."""
        if "phase" in progress:
            self.view.trial_progress(trial, progress)

    def ended(self, trial: str, error: BaseException | None) -> None:
        """A trial ended. `error` is None where it has its record, or was stopped: then it starts over on resume.

        Bad input (a full disk, a checkpoint that a worker cannot read) would end every trial: it ends the search.
        """
        try:
            if not self.run.finished(trial):
                if error is None:
                    return
                if isinstance(error, InputError):
                    raise error
                started = self.begun.get(trial, now())
                record = failed_record(self.model_config, self.heads[trial], _one_line(error), started)
                self.run.write_result(trial, record)
            self._learn(self.run.result(trial))
        except InputError as failure:
            self.failure = failure

    def _learn(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self.sampler.tell(record)
        self.mirror.add(record)
        self.view.trial_finished(record)
        if self.config.search.keep_weights == "front":
            kept = {r["trial"] for r in front(self.records)}
            for trial in {*self.with_weights, record["trial"]} - kept:
                self.run.remove_weights(trial)
            self.with_weights = kept

    def _usual_seconds(self) -> float:
        seconds = [r["total_seconds"] for r in self.records if r["state"] == "complete"]
        return statistics.median(seconds) if seconds else 0.0


def search(
    run: Run,
    config: RunConfig,
    space: Space,
    model_config: ModelDict,
    present: dict[str, float],
    may_grow_to: dict[str, float],
    view: LiveView,
    storage: Path,
) -> None:
    """Run a search, or what is left of it, on the Ray cluster that this process has joined.

    storage: a folder for what Ray keeps while it runs; on several nodes one that all of them share.
    Raises InputError where no trial fits the cluster or the disk is full; what was finished is on disk.
    """
    resources = settle(config.resources, present, may_grow_to)
    job = (str(run.folder.resolve()), config_module.to_dict(config))
    if not has_scores(run):
        view.message("scoring layers and neurons of the unpruned model")
        tune.call(_score_layers, resources, *job, rankings(space, config))()
    driver = SearchDriver(run, config, space, model_config, resources, view)
    if driver.left:
        tune.run_trials(driver, resources, driver.left, config.search.time_budget, storage)
    if driver.failure:
        raise driver.failure
    score_front_on_test(run, config, resources, view)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:500] if lines else 'no message'}"


def score_front_on_test(run: Run, config: RunConfig, resources: Resources, view: LiveView) -> None:
    """Score the front's models on the test queries, those that were not yet."""
    tested = run.tests()
    waiting = [r["trial"] for r in front(run.results()) if r["trial"] not in tested and run.has_weights(r["trial"])]
    job = (str(run.folder.resolve()), config_module.to_dict(config))
    calls = [(trial, tune.call(_score_test, resources, *job, trial)) for trial in waiting]
    for number, (trial, wait) in enumerate(calls, 1):
        view.message(f"scoring the front on the test queries: {number} of {len(calls)} (trial {trial})")
        wait()


def _score_layers(folder: str, config: dict[str, Any], wanted: list[str]) -> None:
    from effir_dist.trial import compute_scores

    run = Run.open(folder)
    with tune.output_to(run.scores_folder / "log"):
        compute_scores(run, config_module.from_dict(config), wanted)


def _score_test(folder: str, config: dict[str, Any], trial: str) -> None:
    from effir_dist.trial import score_test

    run = Run.open(folder)
    with tune.output_to(run.trial_folder(trial) / "log"):
        score_test(run, config_module.from_dict(config), trial)
