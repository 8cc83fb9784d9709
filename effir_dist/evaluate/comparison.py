"""Metrics per query of one or two models: intervals, paired differences, and run files for other tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.core.files import write_text_atomic
from effir_dist.core.measures import METRICS
from effir_dist.evaluate.intervals import Interval, Sample, difference_interval

if TYPE_CHECKING:
    from effir_dist.evaluate.evaluation import Ranked

PerQuery = Mapping[str, Mapping[str, float]]
"""Query id -> metric -> value."""


def sample(per_query: PerQuery, metric: str, name: str = "") -> Sample:
    """One training's metric on one data set, queries in the order of their ids: {name: [1, Q]}."""
    import numpy as np

    return {name: np.array([[values[metric] for _, values in sorted(per_query.items())]])}


def paired(own: PerQuery, other: PerQuery) -> dict[str, Interval]:
    """Metric -> `own` minus `other` on the same queries, with its 95 % paired bootstrap interval.

    Raises ValueError where the queries differ.
    """
    if own.keys() != other.keys():
        raise ValueError("a paired difference needs the same queries on both sides")
    return {metric: difference_interval(sample(own, metric), sample(other, metric)) for metric in METRICS}


def differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Data set, and "mean" where there are several -> metric -> {"value", "low", "high"} of `own` minus `other`.

    own, other: data set -> a mapping with "per_query", on the same queries.
    """
    sides = [{name: side[name]["per_query"] for name in own} for side in (own, other)]
    groups = {name: [name] for name in own} | ({"mean": list(own)} if len(own) > 1 else {})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for label, names in groups.items():
        for metric in METRICS:
            samples = [{n: sample(side[n], metric)[""] for n in names} for side in sides]
            found.setdefault(label, {})[metric] = asdict(difference_interval(samples[0], samples[1]))
    return found


def write_run_file(path: Path, ranked: Ranked, tag: str) -> None:
    """A TREC run file, as trec_eval reads it: query id, Q0, document id, rank, similarity, tag."""
    lines = [
        f"{query} Q0 {document} {rank} {similarity:.9g} {tag}\n"
        for query, documents in ranked.items()
        for rank, (document, similarity) in enumerate(documents, start=1)
    ]
    write_text_atomic(path, "".join(lines))
