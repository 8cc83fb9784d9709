"""Trials that were run again with other training seeds: which belong together, and what they say together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from effir_dist.core.measures import METRICS


def groups(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Trial -> its record and those of its complete repeats, in order; of trials that are no repeats themselves."""
    found: dict[str, list[dict[str, Any]]] = {}
    repeats = []
    for record in records:
        if record.get("repeat_of"):
            repeats.append(record)
        else:
            found[record["trial"]] = [record]
    for record in repeats:
        if record["state"] == "complete" and record["repeat_of"] in found:
            found[record["repeat_of"]].append(record)
    return found


def pooled(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of trials that are no repeats, by the order given: quality is the mean over a trial's seeds."""
    return [_mean(group) if len(group) > 1 else group[0] for group in groups(records).values()]


def _mean(group: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(values: list[Any]) -> Any:
        return sum(values) / len(values) if all(v is not None for v in values) else None

    first = group[0]
    names = [name for name in first.get("datasets") or {} if all(name in (r.get("datasets") or {}) for r in group)]
    datasets = {n: {m: mean([r["datasets"][n].get(m) for r in group]) for m in METRICS} for n in names}
    return {**first, **{m: mean([r.get(m) for r in group]) for m in METRICS}, "datasets": datasets, "seeds": len(group)}


def seeds_used(group: list[dict[str, Any]], own: int) -> set[int]:
    """The training seeds that a trial and its repeats had. own: the run's `train.seed`."""
    return {int(r["suggested"].get("train.seed", own)) for r in group}
