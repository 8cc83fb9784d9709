"""The course of a search: score layers, run trials, score the front on test data. Records are written as it goes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Literal

from effir_dist.core.config import to_dict
from effir_dist.core.errors import InputError
from effir_dist.core.files import now
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import written_locally
from effir_dist.data import sets
from effir_dist.data.pairs import training_pairs
from effir_dist.importance.store import has_importance, has_outside
from effir_dist.models.families.base import ModelDict
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run
from effir_dist.runs.trial_spec import BASE_TRIAL
from effir_dist.runs.tries import Try, note_unscored
from effir_dist.search.cluster import calls, tune
from effir_dist.search.cluster.nodes import Node
from effir_dist.search.cluster.placement import AliveHosts
from effir_dist.search.cluster.resources import Resources, awaited, settle_for, sharing
from effir_dist.search.cluster.worker import prepare_teacher, run_job, score_layers, score_saved_trial
from effir_dist.search.driver import SearchDriver
from effir_dist.search.faults import SearchStopped
from effir_dist.search.live.steps import steps_of
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy.next_trial import has_rungs
from effir_dist.search.strategy.recovering import Recovered, has_base
from effir_dist.search.strategy.repeating import repeats_line, with_repeats
from effir_dist.search.strategy.space import Space, rankings, teacher_settings
from effir_dist.search.strategy.stopping import Deadline
from effir_dist.search.trial.faults import TrialFault, kind_of
from effir_dist.search.trial_sources import InTurn, of_base, of_repeats, of_search
from effir_dist.training import memory
from effir_dist.training.schedule import count_steps
from effir_dist.training.stages import recovers_in_full, tunes_base


def search(
    run: Run,
    config: RunConfig,
    space: Space,
    model_config: ModelDict,
    present: Sequence[Node],
    may_come: Sequence[Node],
    view: LiveView,
    storage: str,
    work: tune.Work = run_job,
    repeat: int = 0,
) -> None:
    """Run a search, or what is left of it, on the Ray cluster that this process has joined.

    present, may_come: nodes of the cluster, and the most that it may grow to, those included.
    repeat: instead, run the front's trials again with other training seeds, until each has so many repeats.
    storage: a folder for what Ray keeps while it runs; on several nodes one that all of them share. work: what a worker
    process does for a trial.
    Raises InputError where no trial fits the cluster or the disk is full; what was finished is on disk.
    """
    resources = settle_for(config, model_config, present, may_come)
    for line in (sharing(resources, memory.capacity_of(config)), awaited(resources, present)):
        if line:
            view.message(line)
    if config.search.gpu_hours and not resources.gpus:
        raise InputError("search.gpu_hours counts GPUs, and a trial takes none here; use --time-budget, or set it to 0")
    course = _Course(run, config, space, model_config, resources, view, storage, work, AliveHosts(resources, may_come))
    tunes, ranks = tunes_base(config) and not has_base(run), not has_importance(run)
    rungs, recovers = has_rungs(config, space), course.recovers_in_full
    view.will_do(steps_of(run, config, repeat=repeat, rungs=rungs, tunes=tunes, ranks=ranks, recovers=recovers))
    driver = course.tune_base(repeat) if tunes else course.search(repeat)
    view.message(f"the search ended: {driver.why}")
    if not repeat:
        run.write_config(to_dict(config), {**run.extra, "ended": driver.why})
    moved = repeats_line(driver.records, driver.goal, repeat) if repeat else ""
    if moved:
        view.message(moved)
    if config.data.test_split:
        score_front(run, config, resources, view, "test")
    if config.data.held_out:
        score_front(run, config, resources, view, "held_out")
    view.begin("report")


class _Course:
    """The stages of one search. All of them share its time budget, which begins with the first trial."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        space: Space,
        model_config: ModelDict,
        resources: Resources,
        view: LiveView,
        storage: str,
        work: tune.Work,
        hosts: AliveHosts,
    ) -> None:
        self.run, self.config, self.space, self.model_config = run, config, space, model_config
        self.resources, self.view, self.storage, self.work, self.hosts = resources, view, storage, work, hosts
        self.deadline: Deadline | None = None

    def tune_base(self, repeat: int) -> SearchDriver:
        """Tune the base, and go on with the search once there is one. Returns the last driver."""
        config, run, trials = self.config, self.run, of_base(self.run)
        self.view.begin("base")
        if config.train.teacher and not has_outside(run):
            self.view.message(f"embedding the training texts by {config.train.teacher}")
            _on_worker(prepare_teacher, self.resources.alone, run, config)
        driver = self._run(trials, run.results())
        return self.search(repeat) if has_base(run) and not driver.deadline.over else driver

    def search(self, repeat: int) -> SearchDriver:
        """Score layers and neurons, and run the search's trials; or only the front's again. Returns the driver."""
        run, config, records = self.run, self.config, self.run.results()
        if not has_importance(run):
            self.view.begin("rank")
            wanted, teacher = rankings(self.space, config), teacher_settings(self.space, config)
            _on_worker(score_layers, self.resources.alone, run, config, wanted, teacher)
        recovered = Recovered(Goal.of(config.search), records) if self.recovers_in_full else None
        self.view.begin("repeat" if repeat else "search")
        if repeat:
            return self._run(of_repeats(run, config, repeat, recovered), records)
        return self._run(of_search(run, config, self.space, self.model_config, self.view, records, recovered), records)

    @functools.cached_property
    def recovers_in_full(self) -> bool:
        """Whether the front's models are trained for the rest of their steps at the end."""
        config = self.config
        if not config.train.recovers:
            return False
        pairs = training_pairs(config.data, config.search.seed)
        return recovers_in_full(config, count_steps(config.train, len(pairs.queries), 1))

    def _run(self, trials: InTurn, records: list[TrialRecord]) -> SearchDriver:
        """Run what these give. Raises InputError where the driver failed; what was finished is on disk."""
        run, config = self.run, self.config
        self.deadline = self.deadline or Deadline(config.search.time_budget)
        with written_locally(run.study_path) as study:
            more = (self.model_config, self.resources, self.view, study, self.hosts, self.deadline)
            with closing(SearchDriver(run, config, trials, records, *more)) as driver:
                if driver.left and not self.deadline.over:
                    budget = self.deadline.left if config.search.time_budget else 0.0
                    tune.run_trials(driver, self.resources, budget, self.storage, self.work)
        if isinstance(driver.failure, SearchStopped) and driver.records:
            run.write_config(to_dict(config), {**run.extra, "ended": str(driver.failure)})
        if driver.failure:
            raise driver.failure
        return driver


def score_front(
    run: Run, config: RunConfig, resources: Resources, view: LiveView, split: Literal["test", "held_out"]
) -> None:
    """Score the front's models, repeats too, on `test` queries or `held_out` data sets: those not scored yet; and the
    base, from which they started.

    One that fails is noted with its reason, for the report; the others are scored. Raises InputError where nothing can
    be written to the run, or Ray is gone.
    """
    names = [sets.dataset_name(path) for path in config.data.held_out] if split == "held_out" else []
    done = {trial for trial, scores in run.split_scores(split).items() if set(names) <= set(scores.datasets)}
    records = run.results()
    kept = Goal.of(config.search).kept(records) | ({BASE_TRIAL} if config.train.recovers else set())
    chosen = with_repeats(records, kept)
    waiting = [trial for trial in chosen if trial not in done and run.has_weights(trial)]
    view.begin(split)
    place = run.location, run.lease
    begun = [(trial, calls.call(score_saved_trial, resources, *place, config, trial, split)) for trial in waiting]
    what = f"held-out {', '.join(names)}" if names else "the test queries"
    for number, (trial, wait) in enumerate(begun, 1):
        view.message(f"scoring on {what}: {number} of {len(begun)} (trial {trial})")
        try:
            wait()
        except SearchStopped:
            raise
        except (InputError, TrialFault) as error:
            if kind_of(error, run.location) == "input":
                raise  # nothing can be written to the run
            note_unscored(run, trial, split, Try(now(), "", kind_of(error), str(error)))
            view.warning(f"trial {trial} has no score on {what}: {error}; --resume {run.folder} tries it again")


def _on_worker(work: Callable[..., None], resources: Resources, run: Run, *args: object) -> None:
    """What the trials of a run share. Raises InputError where it fails on every host that it was tried on."""
    try:
        calls.call(work, resources, run.location, run.lease, *args)()
    except TrialFault as fault:
        log = run.importance_folder / "log"
        raise InputError(f"the importance of layers could not be measured: {fault.reason}; {log} has more") from None
