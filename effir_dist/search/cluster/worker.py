"""What a worker process does: the job of one trial, and what a search does before and after. No Ray."""

from __future__ import annotations

import contextlib
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from effir_dist.core.errors import InputError
from effir_dist.core.files import now
from effir_dist.core.locks import working_for
from effir_dist.core.output import redirected
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.core.storage import written_locally
from effir_dist.core.values import Json, Report
from effir_dist.data import sets
from effir_dist.data.named import names
from effir_dist.runs.records import TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.runs.told import TOLD, told
from effir_dist.runs.tries import remove_unscored
from effir_dist.search.cluster.resources import Resources

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A trial on its way to a worker."""

    run: str
    """The run folder's location."""
    config: RunConfig
    spec: TrialSpec
    resources: Resources
    """What the trial takes, all its workers together."""
    avoid: tuple[str, ...] = ()
    """Ray's ids of the nodes on which it must not run."""
    tries: tuple[str, ...] = ()
    """How it failed before, in words."""
    storage: str = ""
    """Where Ray Train keeps what it needs while the trial runs."""
    lease: str = ""
    """Of the driver, where the run is in a bucket: the worker writes only while that driver holds it."""


def in_worker(function: Callable[..., T], cpus: float, gpus: float, *args: object) -> T:
    """Call a function in a worker process, with as many threads as it has CPUs, and its part of a GPU's memory."""
    import torch

    from effir_dist.training.gpu_share import limit_memory

    torch.set_num_threads(max(1, int(cpus)))
    limit_memory(gpus)
    return function(*args)


def run_job(job: Job, report: Report) -> None:
    """Run the trial of a job in this process, one of its workers; what it prints goes to its `log`.

    What it came to is in the trial's folder, and told to the driver as well, which may not see it there yet.
    """
    from effir_dist.search.trial.trial import run_trial

    run = Run.open(job.run)
    with working_for(run.folder, job.lease), logged(run.trial_folder(job.spec.trial) / "log"):
        for number, text in enumerate(job.tries, 1):
            print(f"try {number} failed {text}")
        fetch(job.config, run.extra.get("data", []))
        print(f"try {len(job.tries) + 1} on {socket.gethostname()} from {now()}", flush=True)
        found = in_worker(run_trial, *job.resources.of_a_worker, run, job.config, job.spec, report)
    report({TOLD: told(job.spec.trial, found)})


def score_layers(folder: str, lease: str, config: RunConfig, wanted: list[str], teacher: TrainConfig | None) -> None:
    """On a worker: what the trials of a run share. lease: of the run's driver; empty for none."""
    from effir_dist.search.trial.preparation import prepare

    run = Run.open(folder)
    with working_for(run.folder, lease), logged(run.importance_folder / "log"):
        prepare(run, config, wanted, teacher)


def prepare_teacher(folder: str, lease: str, config: RunConfig) -> None:
    """On a worker: what `train.teacher` teaches the base of a run. lease: as for `score_layers`."""
    from effir_dist.search.trial.preparation import prepare_outside

    run = Run.open(folder)
    with working_for(run.folder, lease), logged(run.importance_folder / "log"):
        prepare_outside(run, config)


def score_saved_trial(folder: str, lease: str, config: RunConfig, trial: str, split: str) -> None:
    """On a worker: score the model of a finished trial. split: `test` or `held_out`. lease: as for `score_layers`."""
    from effir_dist.search.trial.out_of_memory import tried_with_less
    from effir_dist.search.trial.scoring import score_saved

    run, advice = Run.open(folder), "with more memory for a worker --resume scores it"
    with working_for(run.folder, lease), logged(run.trial_folder(trial) / "log"):
        tried_with_less(lambda less: score_saved(run, less, trial, split), config, f"scoring trial {trial}", advice)
        remove_unscored(run, trial, split)


def fetch(config: RunConfig, known: Sequence[Json] = ()) -> None:
    """Have this node's own copies of named data sets, before a trial's clock runs.

    known: fingerprints of the search's data. Raises InputError where a set cannot be had, or became another one since
    the search fetched it; it is not kept then.
    """
    expected = {each["path"]: each["sha256"] for each in known}
    for path in filter(names.is_name, config.data.searched):
        if not names.is_here(path):
            found = sets.fingerprint(path)["sha256"]
            if found != expected.get(path, found):
                folder = names.remove(path)
                raise InputError(
                    f"{path} as fetched on {socket.gethostname()} is not what the search began with (it changed at its "
                    f"source, or negatives were mined there): copy {folder} from the machine where the search began"
                )


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """`output_to`, with the traceback of what the block raises."""
    with output_to(path):
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise


def _log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append all that this process prints, libraries in C included, to a file; in a bucket it is there at the end."""
    with written_locally(path, append=True) as local, _log(local) as log, redirected(log.fileno()):
        yield
