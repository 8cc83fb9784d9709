"""Ray: starting it, running trials with Ray Tune, and the two small objects through which Tune talks to the driver."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

# Read when ray is imported or workers start: the records are ours, so Tune keeps none; output goes to our log.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import cloudpickle, tune
from ray.tune.search import Searcher

from effir_dist import config as config_module
from effir_dist.errors import InputError
from effir_dist.resources import Resources
from effir_dist.settings import RunConfig

WAITING_CPUS = 0.01
OBJECT_STORE_BYTES = 256 << 20
"""Of a local Ray: nothing large passes through it, so it takes no more of the machine's memory."""


class Driver(Protocol):
    """The side of a search that Tune talks to."""

    def next_job(self) -> dict[str, Any] | None: ...
    def started(self, trial: str) -> None: ...
    def progressed(self, trial: str, progress: dict[str, Any]) -> None: ...
    def ended(self, trial: str, error: BaseException | None) -> None: ...


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[dict[str, float]]:
    """Join the Ray cluster at `address`, or start one on this machine; yields its resources, by name."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if address:
        quiet.pop("include_dashboard")
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from None
    else:
        ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, **quiet)
    try:
        yield {name: float(count) for name, count in ray.cluster_resources().items()}
    finally:
        ray.shutdown()


def call(function: Callable[..., Any], resources: Resources, *args: Any) -> Callable[[], Any]:
    """Run a function on the cluster with one worker's share of a trial; the result waits behind the returned call."""
    share = resources.cpus / resources.workers
    remote: Any = ray.remote(num_cpus=share, num_gpus=resources.gpus / resources.workers)(in_worker)
    reference = remote.remote(function, share, *args)

    def wait() -> Any:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, InputError) else error from None

    return wait


def in_worker(function: Callable[..., Any], cpus: float, *args: Any) -> Any:
    """Call a function in a worker process, with as many threads as it has CPUs."""
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    return function(*args)


class _Searcher(Searcher):
    """Tune's source of trials: the driver. Never restored from Tune's snapshot: the run's records are the truth."""

    def __init__(self, driver: Driver, storage: Path) -> None:
        super().__init__()
        self.driver, self.storage = driver, storage
        self.jobs: dict[str, str] = {}
        self.tune_trials: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        job = self.driver.next_job()
        if job is None:
            return Searcher.FINISHED  # type: ignore[return-value]
        self.jobs[trial_id] = job["head"]["trial"]
        return {"job": {**job, "storage": str(self.storage)}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.driver.ended(self.jobs[trial_id], _cause(self.tune_trials[trial_id]) if error else None)

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

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.tune_trials[trial.trial_id] = trial
        self.driver.started(self.searcher.jobs[trial.trial_id])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.driver.progressed(self.searcher.jobs[trial.trial_id], result)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _cause(trial: Any) -> BaseException:
    """What a Tune trial died of: the exception raised in it, out of Ray's and Tune's wrappings."""
    path = trial.pickled_error_file  # Tune's own, on this machine
    error: Any = cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).is_file() else None
    while getattr(error, "cause", None) is not None:
        error = error.cause
    return error if isinstance(error, BaseException) else RuntimeError("the worker process died")


def run_trials(driver: Driver, resources: Resources, trials: int, time_budget: float, storage: Path) -> None:
    """Run up to `trials` trials with Tune. Returns when they ended, or the time (seconds; 0: no limit) is up."""
    searcher = _Searcher(driver, storage)
    tuner = tune.Tuner(
        tune.with_resources(_trial, _request(resources)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=trials,
            max_concurrent_trials=resources.concurrent,
            time_budget_s=time_budget or None,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            callbacks=[_Callback(driver, searcher)],
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )
    tuner.fit()


def _request(resources: Resources) -> Any:
    if resources.workers == 1:
        return {"cpu": resources.cpus, "gpu": resources.gpus}
    # The trial's own process only waits for its workers, which Ray Train places.
    return {"cpu": WAITING_CPUS}


def _trial(options: dict[str, Any]) -> None:
    """Tune's trainable: one trial, here or on Ray Train's workers. One that failed for a reason of its own is done."""
    from effir_dist.records import Run

    job = options["job"]
    if Run.open(job["run"]).finished(job["head"]["trial"]):
        return
    if job["resources"]["workers"] == 1:
        in_worker(run_job, job["resources"]["cpus"], job, tune.report)
    else:
        _run_on_workers(job)


def run_job(job: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Run the trial of a job in this process; what it prints goes to its `log`."""
    from effir_dist.records import Run
    from effir_dist.trial import run_trial

    run = Run.open(job["run"])
    config: RunConfig = config_module.from_dict(job["config"])
    with output_to(run.trial_folder(job["head"]["trial"]) / "log"):
        run_trial(run, config, job["head"], report)


def _run_on_workers(job: dict[str, Any]) -> None:
    from ray.train import RunConfig as TrainRunConfig
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    workers, cpus, gpus = (job["resources"][name] for name in ("workers", "cpus", "gpus"))
    # Together with the waiting process they must fit where `cpus` fit, or they wait for ever without a word.
    share = {"CPU": cpus / workers - WAITING_CPUS, **({"GPU": gpus / workers} if gpus else {})}
    TorchTrainer(
        _worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=share),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=TrainRunConfig(
            name=f"trial-{job['head']['trial']}",
            storage_path=job["storage"],
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    ).fit()


def _worker(job: dict[str, Any]) -> None:
    """One of a trial's workers."""
    import ray.train

    in_worker(run_job, job["resources"]["cpus"] / job["resources"]["workers"], job, ray.train.report)


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send everything that this process prints, libraries in C included, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        try:
            yield
        finally:
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
                os.close(original)
