"""The records of a run: what a trial is to try, what it scored on the way, and how it ended. Typed, with one JSON form.

`trial.json` holds a TrialSpec, `rungs.json` its RungScores, `result.json` its TrialRecord, `test.json` and
`held_out.json` SplitScores. A run may come from anybody and any version: every field is checked when it is read, and an
error names the file and the field. `legacy` turns what older versions wrote into today's form first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from effir_dist.core.files import SCHEMA
from effir_dist.core.measures import MEASURES, METRICS, QUALITY, SCORE_SECONDS, SIZE
from effir_dist.core.values import Json
from effir_dist.models.facts import PlanFacts
from effir_dist.runs.schema import Reader
from effir_dist.runs.sizes import Sizes, sizes_to_json, with_sizes
from effir_dist.runs.trial_spec import BASE, FULL_RECOVERY, TrialSpec

__all__ = [
    "BASE",
    "FULL_RECOVERY",
    "RungScore",
    "SplitScores",
    "TrialRecord",
    "TrialSpec",
    "Values",
    "rungs_from_json",
    "rungs_to_json",
]

Values = Mapping[str, float]
"""Measure -> number (core/measures.py), the unpruned model's `full_...` among them."""


def _facts_to_json(facts: PlanFacts) -> Json:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(facts).items()}


@dataclass(frozen=True)
class RungScore:
    """What a trial scored below full training, on a part of the data: it compares within a rung only."""

    rung: int
    share: float
    """Of the training."""
    cost: float
    """In full trials of the unpruned model."""
    facts: PlanFacts
    values: Values
    steps: int = 0
    finished: str = ""
    """ISO time, UTC; empty in older records."""
    host: str = ""
    sizes: Sizes = field(default_factory=dict)
    """Data set -> what the scores are of."""

    def to_json(self) -> Json:
        own = {name: getattr(self, name) for name in ("rung", "share", "cost", "steps", "finished", "host")}
        own["sizes"] = sizes_to_json(self.sizes)
        return {**own, **_facts_to_json(self.facts), **self.values}

    @staticmethod
    def from_json(tree: Json, path: object) -> RungScore:
        """Raises InputError, which names the file and the field, for what no search wrote."""
        read = Reader(tree, path)
        return RungScore(
            rung=read.count("rung"),
            share=read.number("share", most=1.0),
            cost=read.number("cost", 0.0),
            facts=read.facts(),
            values=read.values(QUALITY),
            steps=read.count("steps", 0),
            finished=read.text("finished", ""),
            host=read.text("host", ""),
            sizes=read.sizes("sizes"),
        )


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended. Written once, never changed."""

    spec: TrialSpec
    state: Literal["complete", "failed"]
    reason: str = ""
    """Why it failed."""
    facts: PlanFacts = field(default_factory=PlanFacts)
    values: Values = field(default_factory=dict)
    datasets: Mapping[str, Values] = field(default_factory=dict)
    """Data set -> metric -> value."""
    sizes: Sizes = field(default_factory=dict)
    """Data set -> what its scores are of."""
    started: str = ""
    """ISO time, UTC."""
    finished: str = ""
    host: str = ""
    """Of all workers, with ','."""
    retried: str = ""
    """Why it was tried again with less memory; empty where it was not."""
    earlier_seconds: float = 0.0
    """What it took before the process that ended it began: on lower rungs, and in processes that were cut off, as far
    as their checkpoints say. It is part of the measures in seconds; 0 in older records, which leave lower rungs out."""
    steps: int = 0
    train_loss: float = math.nan
    """Mean of the last steps."""
    speed_protocol: Mapping[str, Any] = field(default_factory=dict)
    """How speed was measured, and the unpruned model's own figures."""
    rungs: tuple[RungScore, ...] = ()
    """What it scored before, lowest first."""
    seeds: int = 1
    """Trainings that `values` and `datasets` are means of (repeats.pooled); never on disk."""

    @property
    def trial(self) -> str:
        return self.spec.trial

    @property
    def complete(self) -> bool:
        """Whether it has a score."""
        return self.state == "complete" and QUALITY in self.values

    def value(self, name: str) -> float | None:
        """Of a measure; None where the record has none."""
        return self.values.get(name)

    def to_json(self) -> Json:
        """The whole of `result.json`."""
        names = ("state", "reason", "started", "finished", "host", "retried", "earlier_seconds", "steps", "train_loss")
        own = {name: getattr(self, name) for name in names}
        found = {**self.spec.to_json(), **own, **_facts_to_json(self.facts), **self.values}
        found["datasets"] = with_sizes(self.datasets, self.sizes)
        if self.speed_protocol:
            found["speed_protocol"] = dict(self.speed_protocol)
        if self.rungs:
            found["rungs"] = [rung.to_json() for rung in self.rungs]
        return found

    @staticmethod
    def from_json(tree: Json, path: object) -> TrialRecord:
        """Raises InputError, which names the file and the field, for what no search wrote."""
        read = Reader(tree, path)
        state = read.one_of("state", ("complete", "failed"))
        needed = (SIZE, MEASURES[SIZE].unpruned, QUALITY) if state == "complete" else ()
        return TrialRecord(
            spec=TrialSpec.from_json(tree, path),
            state=state,
            reason=read.text("reason", ""),
            facts=read.facts(),
            values=read.values(*needed),
            datasets=read.datasets(),
            sizes=read.sizes(),
            started=read.text("started", ""),
            finished=read.text("finished", ""),
            host=read.text("host", ""),
            retried=read.text("retried", ""),
            earlier_seconds=read.number("earlier_seconds", 0.0),
            steps=read.count("steps", 0),
            train_loss=read.number("train_loss", math.nan, least=-math.inf),
            speed_protocol=read.mapping("speed_protocol", {}),
            rungs=tuple(RungScore.from_json(rung, path) for rung in read.objects("rungs")),
        )


@dataclass(frozen=True)
class SplitScores:
    """A model's scores on data that did not steer the search: the test queries, or held-out data sets."""

    values: Values
    datasets: Mapping[str, Values]
    score_seconds: float = 0.0
    data: tuple[Mapping[str, Any], ...] = ()
    """Fingerprints of the held-out data sets."""
    sizes: Sizes = field(default_factory=dict)
    """Data set -> what its scores are of."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Held-out data set -> queries that are not scored, as their text trained or steered the search."""

    def to_json(self) -> Json:
        own: Json = {**self.values, "datasets": with_sizes(self.datasets, self.sizes)}
        own[SCORE_SECONDS] = self.score_seconds
        more = {"data": [dict(each) for each in self.data], "left_out": dict(self.left_out)}
        return {**own, **{name: value for name, value in more.items() if value}}

    @staticmethod
    def from_json(tree: Json, path: object) -> SplitScores:
        """Raises InputError, which names the file and the field, for what no search wrote."""
        read = Reader(tree, path)
        values = {name: value for name, value in read.values().items() if name in METRICS}
        return SplitScores(
            values=values,
            datasets=read.datasets(),
            score_seconds=read.number(SCORE_SECONDS, 0.0),
            data=tuple(read.objects("data")),
            sizes=read.sizes(),
            left_out=read.mapping("left_out", {}),
        )


def rungs_to_json(trial: str, rungs: Iterable[RungScore]) -> Json:
    """The whole of `rungs.json`."""
    return {"schema": SCHEMA, "trial": trial, "rungs": [rung.to_json() for rung in rungs]}


def rungs_from_json(tree: Json, path: object) -> list[RungScore]:
    """The inverse. Raises InputError, which names the file and the field, for what no search wrote."""
    read = Reader(tree, path)
    return [RungScore.from_json(rung, path) for rung in read.objects("rungs", needed=True)]
