"""Trials run with Ray Tune, and the two small objects through which Tune talks to the driver."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import ray
from ray import tune
from ray.tune import tune as tune_module
from ray.tune.execution.class_cache import _ActorClassCache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.search import Searcher

from effir_dist.core.errors import InputError
from effir_dist.core.values import Progress, Report
from effir_dist.search.cluster import connection, ray_errors
from effir_dist.search.cluster.placement import LOOK_SECONDS, alive_nodes, avoiding, with_nodes
from effir_dist.search.cluster.resources import WAITING_CPUS, Resources
from effir_dist.search.cluster.worker import Job, run_job
from effir_dist.search.trial.faults import TrialFault, fault_told

MOST_JOBS = 1_000_000
"""Of a search, whose end the driver tells."""
WAITING_JOBS = 8
"""Jobs that may wait for another host than the one that they failed on, beside those that run."""
Work = Callable[[Job, Report], None]
"""work(job, report): what a worker process does for a trial."""


class Driver(Protocol):
    """The side of a search that Tune talks to."""

    def next_job(self) -> Job | Literal["wait"] | None: ...
    def started(self, trial: str) -> None: ...
    def progressed(self, trial: str, progress: Progress) -> None: ...
    def ended(self, trial: str, error: TrialFault | None) -> None: ...
    def has_place(self, job: Job) -> bool: ...


class _Searcher(Searcher):
    """Tune's source of trials: the driver. Never restored from Tune's snapshot: the run's records are the truth."""

    def __init__(self, driver: Driver, storage: str) -> None:
        super().__init__()
        self.driver, self.storage = driver, storage
        self.jobs: dict[str, Job] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        job = self.driver.next_job()
        if job is None:
            return Searcher.FINISHED  # type: ignore[return-value]
        if job == "wait":
            return None  # ask again when a trial has ended
        self.jobs[trial_id] = dataclasses.replace(job, storage=self.storage)
        return {"job": self.jobs[trial_id]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:  # else the callback tells the driver, with the error
            self.driver.ended(self.jobs[trial_id].spec.trial, None)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("the run's records are the truth\n")

    def restore(self, checkpoint_path: str) -> None:
        raise InputError("a search is resumed from its records: --resume RUN")

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Callback(tune.Callback):
    """Passes Tune's events on to the driver."""

    def __init__(self, driver: Driver, searcher: _Searcher) -> None:
        self.driver, self.searcher = driver, searcher

    def _name(self, trial: Any) -> str:
        return self.searcher.jobs[trial.trial_id].spec.trial

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.driver.started(self._name(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.driver.progressed(self._name(trial), result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, or its process or machine was lost, or no worker could be made for it."""
        job = self.searcher.jobs[trial.trial_id]
        self.driver.ended(job.spec.trial, ray_errors.fault(trial.pickled_error_file, job.run))

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _PlainActors(_ActorClassCache):
    """Tune's actor classes, in the environment of all workers: one that Ray has started already may take a trial.

    Tune's own have a runtime environment of some variables, for which Ray starts another process. On this machine alone
    they are in all workers' environment anyway.
    """

    def get(self, trainable_cls: type) -> Any:
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]


class _Controller(TuneController):
    """Tune's own, but a worker that is starting is left to start.

    Tune gives a trial that waits for its worker to the first that is free, and kills the one that it waited for. Where
    trials are shorter than a worker takes to start (seconds), most of a cluster then never comes to work.
    """

    _looked = 0.0
    """When the nodes were last looked at."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if connection.is_own():
            self._class_cache = _PlainActors()

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        own = self._trial_to_actor.get(trial)
        if own and trial not in self._resetting_trials and self._actor_manager.is_actor_started(own):
            return False
        return bool(super()._maybe_reuse_cached_actor(trial))

    def on_step_begin(self) -> None:
        """Stop a trial that waits for nodes that are gone or excluded: the driver gives it again, with others.

        Raises SearchStopped as `alive_nodes`: Tune would wait for ever.
        """
        super().on_step_begin()
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            alive_nodes()
        searcher = _searcher_of(self)
        for trial in [*self._pending_trials]:
            if not searcher.driver.has_place(searcher.jobs[trial.trial_id]):
                self.stop_trial(trial)


def _searcher_of(controller: TuneController) -> _Searcher:
    found: Any = controller._search_alg
    while not isinstance(found, _Searcher):
        found = found.searcher
    return found


def run_trials(
    driver: Driver,
    resources: Resources,
    time_budget: float,
    storage: str,
    work: Work = run_job,
) -> None:
    """Run the driver's jobs with Tune. Returns when they ended, or the time (seconds; 0: no limit) is up.

    work(job, report) is called in a worker process for each of them. A try that fails ends its Tune trial: the driver
    decides what becomes of it, and a new try is a new Tune trial, which may have to avoid some nodes.
    """
    searcher = _Searcher(driver, storage)

    def trial(options: dict[str, Any]) -> None:
        _run(options["job"], work)

    tuner = tune.Tuner(
        tune.with_resources(trial, lambda options: _request(options["job"])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=MOST_JOBS,
            max_concurrent_trials=resources.concurrent + WAITING_JOBS,
            time_budget_s=time_budget or None,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage,
            callbacks=[_Callback(driver, searcher)],
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    tune_module.TuneController = _Controller  # type: ignore[misc]  # Tune has no option for it
    tuner.fit()


def _request(job: Job) -> Any:
    resources = job.resources
    # Of several workers the trial's own process only waits for them; Ray Train places them.
    share = {"CPU": resources.cpus, "GPU": resources.gpus} if resources.workers == 1 else {"CPU": WAITING_CPUS}
    return tune.PlacementGroupFactory([share], bundle_label_selector=[avoiding(job.avoid)])


def _run(job: Job, work: Work) -> None:
    """One trial, in this process or by Ray Train's workers. One that failed for a reason of its own is done."""
    from effir_dist.runs.run_folder import Run

    if Run.open(job.run).reached(job.spec):
        return
    if job.resources.workers == 1:
        node = ray.get_runtime_context().get_node_id()
        with fault_told(job.run, node):
            work(job, with_nodes(tune.report, node))
    else:
        from effir_dist.search.cluster.ray_train import run_on_workers

        run_on_workers(job, work)
