"""The last check: a small search's first steps, end to end, in a scratch run folder that is removed."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from effir_dist.core.config import replace, to_dict
from effir_dist.core.errors import InputError
from effir_dist.core.files import write_bytes_atomic
from effir_dist.core.measures import PEAK_MEMORY
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.core.storage import absolute, is_remote, remove
from effir_dist.core.values import Json, Progress
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.records import TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search.cluster import tune
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.preflight.node_checks import STARTED
from effir_dist.search.preflight.processes import nodes
from effir_dist.search.trial.faults import TrialFault

PREFIX = ".preflight-"
"""Of the scratch folder beside the runs."""


@contextlib.contextmanager
def scratch_folder(runs: Path) -> Iterator[Path]:
    """A folder beside the runs for the time of the block, with a file for the nodes to find."""
    folder = runs / f"{PREFIX}{uuid.uuid4().hex[:8]}"
    existed = is_remote(runs) or runs.is_dir()
    try:
        write_bytes_atomic(folder / STARTED, b"preflight")
        yield folder
    finally:
        try:
            remove(folder)
            if not existed:
                runs.rmdir()
        except OSError as error:
            print(f"warning: cannot remove {folder} ({error}); remove it by hand", file=sys.stderr)


def two_steps(config: RunConfig) -> RunConfig:
    """The run's settings with two steps of training and little data. What a step takes stays as it is."""
    data, train = config.data, config.train
    small: Json = {
        "train.steps": 2 if train.trains else 0,
        "data.max_train_pairs": _least(data.max_train_pairs, 4 * train.batch_size),
        "data.max_queries": _least(data.max_queries, 16),
        "data.max_documents": _least(data.max_documents, 256),
        "data.held_out": [],
        "prune.calibration_texts": min(config.prune.calibration_texts, 8),
        "prune.slim_steps": min(config.prune.slim_steps, 2),
        "prune.reconstruct_tokens": min(config.prune.reconstruct_tokens, 256),
        "search.trials": 1,
        "search.scheduler": "plain",
        "search.keep_weights": "all",
        "search.time_budget": 0,
        "search.gpu_hours": 0,
    }
    if train.recovers:  # no base to start from here: the model itself teaches, at the same cost
        small |= {"train.order": TrainConfig.order, "train.teacher": ""}
    return replace(config, small)


def _least(limit: int, most: int) -> int:
    """The smaller of a limit (0: none) and `most`."""
    return min(limit or most, most)


class OneTrial:
    """The driver of a search of one trial, that of the unpruned model: the largest that there can be."""

    def __init__(self, run: Run, config: RunConfig, resources: Resources) -> None:
        spec = TrialSpec(0, {}, {}, PruningPlan(), gpus=resources.gpus)
        self.job = Job(run.location, config, spec, resources)
        self.waiting = [self.job]
        self.trial, self.error, self.runs, self.tries = spec.trial, "", False, 0
        run.write_spec(spec)

    def next_job(self) -> Job | Literal["wait"] | None:
        if self.waiting:
            self.runs, self.tries = True, self.tries + 1
            return self.waiting.pop()
        return "wait" if self.runs else None

    def has_place(self, job: Job) -> bool:
        return True

    def started(self, trial: str) -> None: ...

    def progressed(self, trial: str, progress: Progress) -> None: ...

    def ended(self, trial: str, error: TrialFault | None) -> None:
        """Out of memory on several workers is tried once more, with less, as a search does."""
        self.runs, self.error = False, _told(error) if error else ""
        if error and error.kind == "own" and self.tries == 1:
            self.waiting.append(self.job)


def _told(error: TrialFault) -> str:
    """The reason, with the names of the nodes where it failed."""
    where = ", ".join(node.name for node in nodes() if node.id in error.nodes)
    return f"{error.reason} (on {where})" if where else error.reason


def make_run(scratch: Path, config: RunConfig, extra: Json) -> Run:
    """The scratch run."""
    return Run.create(scratch / "run", to_dict(config), extra)


def train_one(run: Run, config: RunConfig, resources: Resources, storage: str, seconds: float) -> str:
    """Run the trial as a search does, with Tune and the workers that it asks for. Returns what came of it.

    Raises InputError where it failed, or did not end in time.
    """
    driver = OneTrial(run, config, resources)
    tune.run_trials(driver, resources, seconds, storage)
    if not run.finished(driver.trial):
        raise InputError(driver.error or f"the trial did not end within {seconds:.0f} s")
    record = run.result(driver.trial)
    if not record.complete or not run.has_weights(driver.trial):
        raise InputError(record.reason or "the trial left no weights in the runs folder")
    return _seen(record, config, resources)


def _seen(record: TrialRecord, config: RunConfig, resources: Resources) -> str:
    peak = int(record.values.get(PEAK_MEMORY) or 0)
    memory = f", {peak / 1e9:.1f} GB at the peak" if peak else ""
    workers = f"{resources.workers} workers (ZeRO {config.train.zero_stage})" if resources.workers > 1 else "1 worker"
    return f"{record.steps} steps by {workers} on {record.host}{memory}"


def ray_storage(scratch: Path) -> str:
    """Where Ray keeps its own files, for all nodes to see."""
    return f"{absolute(scratch)}/ray"
