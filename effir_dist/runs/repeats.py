"""Trials that were run again with other training seeds: which belong together, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from effir_dist.core.measures import METRICS
from effir_dist.runs.records import TrialRecord, TrialSpec, Values


def groups(records: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Trial -> its record and those of its complete repeats, in order; of trials that are no repeats themselves."""
    records = list(records)
    found = {record.trial: [record] for record in records if not record.spec.repeat_of}
    for record in records:
        if record.spec.repeat_of in found and record.complete:
            found[record.spec.repeat_of].append(record)
    return found


def pooled(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The records of trials that are no repeats, by the order given: quality is the mean over a trial's seeds."""
    return [_mean(group) if len(group) > 1 else group[0] for group in groups(records).values()]


def _mean(group: Sequence[TrialRecord]) -> TrialRecord:
    first = group[0]
    values = {**first.values, **mean_metrics([r.values for r in group])}
    datasets = {
        name: mean_metrics([r.datasets[name] for r in group])
        for name in first.datasets
        if all(name in r.datasets for r in group)
    }
    missing = [name for name in METRICS if any(name not in r.values for r in group)]
    kept = {name: value for name, value in values.items() if name not in missing}
    return replace(first, values=kept, datasets=datasets, seeds=len(group))


def mean_metrics(each: Sequence[Values]) -> dict[str, float]:
    """Means of the metrics that all of them have."""
    common = [name for name in METRICS if all(name in values for values in each)]
    return {name: sum(values[name] for values in each) / len(each) for name in common}


def seeds_used(specs: Iterable[TrialSpec], own: int) -> set[int]:
    """The training seeds that a trial and its repeats had. own: the run's `train.seed`."""
    return {int(spec.suggested.get("train.seed", own)) for spec in specs}
