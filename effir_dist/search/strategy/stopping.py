"""When a search ends before its trials are done: GPU hours, or a hypervolume that no longer grows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from effir_dist.core.measures import TRAIN_SECONDS
from effir_dist.core.settings import SearchConfig
from effir_dist.report.progress import rung_seconds, seconds_of, stopped_rungs
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import BASE, RungScore, TrialRecord
from effir_dist.runs.run_folder import Run

Stopped = Mapping[str, tuple[float, Sequence[RungScore]]]
"""Trial without a record -> the GPUs that it took, and what it scored on lower rungs."""


def stopped_trials(run: Run) -> dict[str, tuple[float, Sequence[RungScore]]]:
    """Those of a run that scored on a lower rung."""
    gpus = {spec.trial: spec.gpus for spec in run.pending()}
    return {trial: (gpus[trial], rungs) for trial, rungs in stopped_rungs(run).items() if trial in gpus}


def gpu_hours(records: Sequence[TrialRecord], stopped: Stopped = MappingProxyType({})) -> float:
    """GPU hours of all trials, those that failed or stopped on a lower rung too: seconds times the GPUs of each."""
    finished = sum(seconds_of(record) * record.spec.gpus for record in records)
    return (finished + sum(gpus * rung_seconds(rungs) for gpus, rungs in stopped.values())) / 3600


class Deadline:
    """Until when a search may run trials: `search.time_budget` seconds from when this is made, in all its stages."""

    def __init__(self, budget: float) -> None:
        """budget: 0 is no limit."""
        self.at = time.monotonic() + budget if budget else math.inf

    @property
    def left(self) -> float:
        """Seconds; endless without a limit."""
        return self.at - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0


def usual_seconds(records: Sequence[TrialRecord], stage: str = "", recovery: float = 1.0) -> float:
    """What a complete trial of a stage takes, the median; 0 while that is not known. recovery: `train.recovery`.

    While none is complete, a trial of the search's own takes what the base took, with that share of its training, and a
    full recovery what those took, with the training that they left out.
    """
    complete = [r for r in records if r.state == "complete"]
    found = [seconds_of(r) for r in complete if r.spec.stage == stage]
    if not found and stage != BASE:
        before, more = ("", 1 / recovery - 2) if stage else (BASE, recovery - 1)
        trained = [(seconds_of(r), r.values.get(TRAIN_SECONDS, 0.0)) for r in complete if r.spec.stage == before]
        found = [seconds + more * training for seconds, training in trained if training]
    return statistics.median(found or [0.0])


def spent(
    config: SearchConfig,
    records: Sequence[TrialRecord],
    running: int,
    gpus: float,
    stopped: Stopped = MappingProxyType({}),
    usual: float | None = None,
) -> str:
    """Why no trial may be started that would pass `search.gpu_hours`; empty where one may.

    running: trials under way, which count as usual ones. gpus: of a trial. stopped: trials without a record. usual:
    seconds of one; None takes the median of the search's own.
    """
    if not config.gpu_hours:
        return ""
    used = gpu_hours(records, stopped)
    each = usual_seconds(records) if usual is None else usual
    expected = used + (running + 1) * each * gpus / 3600
    if used < config.gpu_hours and expected <= config.gpu_hours:
        return ""
    return f"search.gpu_hours: {used:.2f} of {config.gpu_hours:g} GPU hours are used, and another trial would pass them"


def stale(config: SearchConfig, goal: Goal, records: Sequence[TrialRecord]) -> str:
    """Why a search that no longer gains should end: the hypervolume grew too little in the last trials; or empty."""
    count, trials = config.patience_trials, [r for r in records if r.spec.searched]
    if not count or len(trials) <= count:
        return ""
    ended = sorted(trials, key=lambda r: (r.finished, r.trial))
    before, after = goal.hypervolume(ended[:-count]), goal.hypervolume(ended)
    if before <= 0 or after > before * (1 + config.patience_percent / 100):
        return ""
    return (
        f"search.patience_trials: the hypervolume grew from {before:.4f} to {after:.4f} in the last {count} trials, "
        f"no more than {config.patience_percent:g} %"
    )
