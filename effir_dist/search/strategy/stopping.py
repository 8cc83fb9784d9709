"""When a search ends before its trials are done: GPU hours, or a hypervolume that no longer grows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from effir_dist.core.settings import SearchConfig
from effir_dist.report.progress import rung_seconds, seconds_of, stopped_rungs
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import RungScore, TrialRecord
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


def usual_seconds(records: Sequence[TrialRecord]) -> float:
    """What a complete trial takes, the median; 0 while none is."""
    return statistics.median([seconds_of(r) for r in records if r.state == "complete"] or [0.0])


def spent(
    config: SearchConfig,
    records: Sequence[TrialRecord],
    running: int,
    gpus: float,
    stopped: Stopped = MappingProxyType({}),
) -> str:
    """Why no trial may be started that would pass `search.gpu_hours`; empty where one may.

    running: trials under way, which count as usual ones. gpus: of a trial. stopped: trials without a record.
    """
    if not config.gpu_hours:
        return ""
    used = gpu_hours(records, stopped)
    expected = used + (running + 1) * usual_seconds(records) * gpus / 3600
    if used < config.gpu_hours and expected <= config.gpu_hours:
        return ""
    return f"search.gpu_hours: {used:.2f} of {config.gpu_hours:g} GPU hours are used, and another trial would pass them"


def stale(config: SearchConfig, goal: Goal, records: Sequence[TrialRecord]) -> str:
    """Why a search that no longer gains should end: the hypervolume grew too little in the last trials; or empty."""
    count, trials = config.patience_trials, [r for r in records if not r.spec.repeat_of]
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
