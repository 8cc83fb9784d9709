"""Every figure of a trial that may be an objective, a constraint or a column: one entry each, read by all others.

To add a measure, add its entry here and let its `source` put the number into the record's values. Records, tables,
plots, the page, the model card and `--help` take label, unit, direction and format from the entry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effir_dist.core.errors import InputError, suggest

PLAN, SPEED, QUALITY_SETS, CLOCK = "plan", "speed", "quality", "clock"
"""Who measures: a formula of the plan (models/facts.py); speed.py beside the unpruned model; scoring on data sets; the
trial's own clock and memory."""


@dataclass(frozen=True)
class Measure:
    """A figure of a record."""

    name: str
    """Its field in records, and its column in tables."""
    label: str
    """For people."""
    source: str
    """Who measures it: PLAN, SPEED, QUALITY_SETS or CLOCK."""
    better: int
    """1 where more is better, -1 where less is."""
    unit: str = ""
    """`parameters`, `bytes`, `s`, `ms`, `texts/s` or `x` (a ratio to the unpruned model); empty: a score."""
    most: float = math.inf
    """The largest value that it can have."""
    unpruned: str = ""
    """The field of the same record with the unpruned model's figure, where that is recorded beside it."""
    objective: bool = False
    """Whether a search may trade it off. What differs from machine to machine may not."""
    constraint: bool = False
    """Whether a constraint may bound it."""
    instead: str = ""
    """The objective to use in its place, where it is none itself."""

    @property
    def quality(self) -> bool:
        """Whether it is a score of the data sets."""
        return self.source == QUALITY_SETS

    @property
    def measured(self) -> bool:
        """Whether it takes speed.py's measurement."""
        return self.source == SPEED

    @property
    def known(self) -> bool:
        """Whether a plan tells it before anything is trained."""
        return self.source == PLAN

    @property
    def share(self) -> bool:
        """Whether it is compared as a share of the unpruned model's; others as they are."""
        return self.quality or bool(self.unpruned)


def _cost(name: str, label: str, source: str, unit: str) -> Measure:
    return Measure(name, label, source, -1, unit, unpruned=f"full_{name}", objective=True, constraint=True)


def _quality(name: str, label: str) -> Measure:
    return Measure(name, label, QUALITY_SETS, 1, most=1.0, constraint=True, objective=name == "ndcg_at_10")


_ENTRIES = (
    _cost("parameters", "parameters", PLAN, "parameters"),
    _cost("block_parameters", "parameters without embeddings", PLAN, "parameters"),
    _cost("index_bytes", "index bytes", PLAN, "bytes"),
    _cost("memory_bytes", "memory bytes", SPEED, "bytes"),
    Measure("query_speedup", "query speed-up", SPEED, 1, "x", objective=True, constraint=True),
    Measure("document_speedup", "document speed-up", SPEED, 1, "x", objective=True, constraint=True),
    _quality("ndcg_at_10", "nDCG@10"),
    _quality("recall_at_100", "Recall@100"),
    _quality("mrr_at_10", "MRR@10"),
    Measure("query_latency_ms", "query latency", SPEED, -1, "ms", constraint=True, instead="query_speedup"),
    Measure("batch_documents_per_second", "documents per second in a batch", SPEED, 1, "texts/s"),
    Measure("queries_per_second", "queries per second", CLOCK, 1, "texts/s", instead="query_speedup"),
    Measure("documents_per_second", "documents per second", CLOCK, 1, "texts/s", instead="document_speedup"),
    Measure("train_seconds", "training", CLOCK, -1, "s", constraint=True),
    Measure("score_seconds", "scoring", CLOCK, -1, "s"),
    Measure("other_seconds", "the rest of the trial", CLOCK, -1, "s"),
    Measure("total_seconds", "seconds", CLOCK, -1, "s", constraint=True),
    Measure("peak_memory_bytes", "peak memory", CLOCK, -1, "bytes", constraint=True, instead="memory_bytes"),
    Measure("parameters_fraction", "share of the parameters", PLAN, -1, "x", 1.0, instead="parameters"),
)
MEASURES: dict[str, Measure] = {entry.name: entry for entry in _ENTRIES}
"""By name."""
QUALITY = "ndcg_at_10"
"""The quality that every search goes by."""
SIZE = "parameters"
"""The cost that a search goes by where nothing else is said."""
DEFAULT = (SIZE, QUALITY)
METRICS = tuple(entry.name for entry in _ENTRIES if entry.quality)
"""The qualities of a record: means over queries, then over data sets."""
OBJECTIVES = tuple(entry.name for entry in _ENTRIES if entry.objective)


def check_objectives(names: Sequence[str]) -> None:
    """Raises InputError unless these are two or three known measures, quality and cost among them."""
    for name in names:
        entry = MEASURES.get(name)
        if entry and entry.instead:
            reason = "is no objective, as trials of different machines would not compare"
            reason = "is no objective" if entry.known else reason
            raise InputError(f"search.objectives: {name!r} {reason}; use {entry.instead!r}")
        if not entry or not (entry.objective or entry.quality):
            raise InputError(f"search.objectives: unknown objective {name!r}; {suggest(name, OBJECTIVES)}")
    costs = [name for name in names if not MEASURES[name].quality]
    if QUALITY not in names or len(costs) != len(names) - 1 or len(set(costs)) < len(costs) or not 1 <= len(costs) <= 2:
        known = ", ".join(name for name in OBJECTIVES if not MEASURES[name].quality)
        raise InputError(
            f"search.objectives must be {QUALITY} and one or two costs, got {list(names)}; the costs: {known}"
        )


@dataclass(frozen=True)
class Constraint:
    """`parameters <= 0.5`: a share of the unpruned model's, or a value where the measure is no share."""

    name: str
    at_most: bool
    bound: float

    @property
    def measure(self) -> Measure:
        return MEASURES[self.name]

    @property
    def text(self) -> str:
        return f"{self.name} {'<=' if self.at_most else '>='} {self.bound:g}"

    def violation(self, values: Mapping[str, float], baseline: Mapping[str, float]) -> float | None:
        """By how much values exceed the bound, 0 or less where they satisfy it; None where that is not known.

        values: a record's, or those that follow from a plan. baseline: the unpruned model's; empty where not known.
        """
        figure = self._figure(values, baseline)
        if figure is None:
            return None
        # A rounding error is no violation.
        return (figure - self.bound if self.at_most else self.bound - figure) - 1e-9

    def _figure(self, values: Mapping[str, float], baseline: Mapping[str, float]) -> float | None:
        value = values.get(self.name)
        if value is None or not self.measure.share:
            return None if value is None else float(value)
        other = baseline.get(self.name) if self.measure.quality else values.get(self.measure.unpruned)
        return value / other if other else None


def parse_constraint(text: str) -> Constraint:
    """Read `NAME <= NUMBER` or `NAME >= NUMBER`. Raises InputError for anything else."""
    match = re.fullmatch(r"\s*([\w@.]+)\s*(<=|>=)\s*([-+.\deE]+)\s*", text)
    try:
        bound = float(match[3]) if match else None
    except ValueError:
        bound = None
    if not match or bound is None:
        raise InputError(
            f"search.constraints: {text!r} is no constraint; expected NAME <= NUMBER or NAME >= NUMBER, "
            "for example 'parameters <= 0.5' (a share of the unpruned model's)"
        )
    known = [name for name, entry in MEASURES.items() if entry.constraint]
    if match[1] not in known:
        raise InputError(f"search.constraints: {text!r}: unknown figure {match[1]!r}; {suggest(match[1], known)}")
    found = Constraint(match[1], match[2] == "<=", bound)
    if found.measure.share and not 0 < bound <= 10:
        raise InputError(f"search.constraints: {text!r} must bound a share of the unpruned model's, such as 0.5")
    return found
