"""What a search trades off, by name; constraints on it; and the front and the hypervolume that follow.

A cost is compared as a share of the unpruned model's, quality likewise. Speed is a ratio to begin with: the unpruned
model is measured beside the pruned one in the same process (speed.py), so trials of different machines compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from effir_dist.core import pareto as geometry
from effir_dist.core.errors import InputError, suggest
from effir_dist.core.repeats import pooled

QUALITY = "ndcg_at_10"
DEFAULT = ("parameters", QUALITY)


@dataclass(frozen=True)
class Measure:
    """A figure of a record that may be an objective."""

    better: int
    """1 where more is better, -1 where less is."""
    text: str
    """For people."""
    unpruned: str = ""
    """The field of the same record that holds the unpruned model's; empty for ratios and quality."""
    quality: bool = False
    measured: bool = False
    """Whether it takes speed.py's measurement."""
    known: bool = False
    """Whether a plan tells it before anything is trained."""


MEASURES: dict[str, Measure] = {
    "parameters": Measure(-1, "parameters", "full_parameters", known=True),
    "block_parameters": Measure(-1, "parameters without embeddings", "full_block_parameters", known=True),
    "index_bytes": Measure(-1, "index bytes", "full_index_bytes", known=True),
    "memory_bytes": Measure(-1, "memory bytes", "full_memory_bytes", measured=True),
    "query_speedup": Measure(1, "query speed-up", measured=True),
    "document_speedup": Measure(1, "document speed-up", measured=True),
    "ndcg_at_10": Measure(1, "nDCG@10", quality=True),
    "recall_at_100": Measure(1, "Recall@100", quality=True),
    "mrr_at_10": Measure(1, "MRR@10", quality=True),
}
"""Field of a record -> what it is."""
ABSOLUTE = {"query_latency_ms": True, "train_seconds": False, "total_seconds": False, "peak_memory_bytes": False}
"""Fields that a constraint may bound as they are -> whether speed.py measures them."""
ELSEWHERE = {
    "query_latency_ms": "query_speedup",
    "queries_per_second": "query_speedup",
    "documents_per_second": "document_speedup",
    "parameters_fraction": "parameters",
    "peak_memory_bytes": "memory_bytes",
}
"""What is asked for and differs from machine to machine -> the objective that does not."""


def check_objectives(names: Sequence[str]) -> None:
    """Raises InputError unless these are two or three known measures, quality and cost among them."""
    for name in names:
        if name in ELSEWHERE:
            reason = "is no objective, as trials of different machines would not compare"
            reason = reason if name != "parameters_fraction" else "is no objective"
            raise InputError(f"search.objectives: {name!r} {reason}; use {ELSEWHERE[name]!r}")
        if name not in MEASURES:
            raise InputError(f"search.objectives: unknown objective {name!r}; {suggest(name, MEASURES)}")
    costs = [name for name in names if not MEASURES[name].quality]
    if QUALITY not in names or len(costs) != len(names) - 1 or len(set(costs)) < len(costs) or not 1 <= len(costs) <= 2:
        known = ", ".join(name for name, measure in MEASURES.items() if not measure.quality)
        raise InputError(
            f"search.objectives must be {QUALITY} and one or two costs, got {list(names)}; the costs: {known}"
        )


@dataclass(frozen=True)
class Constraint:
    """`parameters <= 0.5`: a share of the unpruned model's, or a value where the figure is no share (SHARES)."""

    name: str
    at_most: bool
    bound: float

    @property
    def text(self) -> str:
        return f"{self.name} {'<=' if self.at_most else '>='} {self.bound:g}"

    @property
    def known(self) -> bool:
        """Whether a plan tells before anything is trained."""
        return self.name in MEASURES and MEASURES[self.name].known

    @property
    def measured(self) -> bool:
        """Whether it takes speed.py's measurement."""
        return MEASURES[self.name].measured if self.name in MEASURES else ABSOLUTE[self.name]

    def violation(self, record: dict[str, Any], whole: dict[str, Any] | None) -> float | None:
        """How far a record is beyond the bound, 0 or less where it keeps to it; None where that is not known.

        whole: the record of the unpruned model.
        """
        figure = self._figure(record, whole)
        if figure is None:
            return None
        # What a rounding error puts beyond the bound keeps to it.
        return (figure - self.bound if self.at_most else self.bound - figure) - 1e-9

    def _figure(self, record: dict[str, Any], whole: dict[str, Any] | None) -> float | None:
        measure, value = MEASURES.get(self.name), record.get(self.name)
        if measure is None or value is None or not (measure.quality or measure.unpruned):
            return None if value is None else float(value)
        other = (whole or {}).get(self.name) if measure.quality else record.get(measure.unpruned)
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
    known = [*MEASURES, *ABSOLUTE]
    if match[1] not in known:
        raise InputError(f"search.constraints: {text!r}: unknown figure {match[1]!r}; {suggest(match[1], known)}")
    found = Constraint(match[1], match[2] == "<=", bound)
    share = found.name in MEASURES and (MEASURES[found.name].unpruned or MEASURES[found.name].quality)
    if share and not 0 < bound <= 10:
        raise InputError(f"search.constraints: {text!r} must bound a share of the unpruned model's, such as 0.5")
    return found


@dataclass(frozen=True)
class Goal:
    """The objectives of a search and its constraints."""

    objectives: tuple[str, ...] = DEFAULT
    constraints: tuple[Constraint, ...] = ()

    @staticmethod
    def of(tree: dict[str, Any]) -> Goal:
        """From `search` of a run's configuration, or its attributes; a run of an older version has the default."""
        texts = tree.get("constraints") or ()
        return Goal(tuple(tree.get("objectives") or DEFAULT), tuple(parse_constraint(text) for text in texts))

    @property
    def cost(self) -> str:
        """The first objective that is a cost: fronts are listed by it."""
        return next(name for name in self.objectives if not MEASURES[name].quality)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """As Optuna takes them."""
        return ["minimize" if MEASURES[name].better < 0 else "maximize" for name in self.objectives]

    @property
    def measured(self) -> bool:
        """Whether trials must be measured by speed.py."""
        return any(MEASURES[n].measured for n in self.objectives) or any(c.measured for c in self.constraints)

    def values(self, record: dict[str, Any]) -> list[float]:
        """As Optuna takes them, in the order of the objectives. Raises InputError where the record lacks one."""
        missing = [name for name in self.objectives if record.get(name) is None]
        if missing:
            raise InputError(f"trial {record['trial']} has no {missing[0]}, which search.objectives names")
        return [float(record[name]) for name in self.objectives]

    def scored(self, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records that have all objectives; of a trial that was repeated one, with the means over its seeds."""
        found = pooled(geometry.complete(records))
        return [r for r in found if all(r.get(name) is not None for name in self.objectives)]

    def front(self, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records on the front that keep to the constraints, the dearest first."""
        scored = self.satisfying(records)
        best = [scored[i] for i in geometry.non_dominated_losses([self._losses(r) for r in scored])]
        place = self.objectives.index(self.cost)
        return sorted(best, key=lambda r: self._losses(r)[place], reverse=True)

    def kept(self, records: Iterable[dict[str, Any]]) -> set[str]:
        """The trials whose models are kept and scored at the end: the front, and the unpruned model where constraints
        keep it off the front, to compare by."""
        records = list(records)
        whole = geometry.unpruned(self.scored(records)) if self.constraints else None
        return {r["trial"] for r in self.front(records)} | ({whole["trial"]} if whole else set())

    def satisfying(self, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The scored records that violate no constraint, as far as is known."""
        scored = self.scored(records)
        whole = geometry.unpruned(scored)
        return [r for r in scored if not any(v > 0 for v in self.violations(r, whole).values())]

    def violations(self, record: dict[str, Any], whole: dict[str, Any] | None) -> dict[str, float]:
        """Text of each constraint -> how far the record is beyond it (0 or less: it keeps to it), where known."""
        found = {c.text: c.violation(record, whole) for c in self.constraints}
        return {text: value for text, value in found.items() if value is not None}

    def broken_by_plan(self, facts: dict[str, Any]) -> list[str]:
        """The constraints that a plan violates whatever comes of it. facts: `outcomes.plan_facts`."""
        known = self.under(lambda constraint: constraint.known)
        return [text for text, value in known.violations(facts, None).items() if value > 0]

    def under(self, which: Callable[[Constraint], bool]) -> Goal:
        """The same objectives under some of the constraints."""
        return Goal(self.objectives, tuple(filter(which, self.constraints)))

    def _losses(self, record: dict[str, Any]) -> tuple[float, ...]:
        return tuple(-MEASURES[name].better * float(record[name]) for name in self.objectives)

    def scale(self, runs: Iterable[Iterable[dict[str, Any]]]) -> dict[str, float]:
        """What objectives are divided by for a hypervolume: the unpruned model's. Of several runs the largest one's
        cost, and the best one's quality (1 where none is scored): their common reference."""
        scored = [self.scored(records) for records in runs]
        wholes = [whole for whole in map(geometry.unpruned, scored) if whole]
        found = {}
        for name in self.objectives:
            field = MEASURES[name].unpruned
            values = [r.get(field) or 0 for records in scored for r in records] if field else [1.0]
            found[name] = float(max(values, default=0) or 1.0)
        return {**found, QUALITY: max((float(r[QUALITY]) for r in wholes), default=0.0) or 1.0}

    def point(self, record: dict[str, Any], scale: dict[str, float]) -> tuple[float, ...]:
        """The objectives as losses: costs as shares of the unpruned model's (time, where they are speed-ups), quality
        as a share, negative."""
        return tuple(self._loss(name, float(record[name]), scale[name]) for name in self.objectives)

    def shares(self, facts: dict[str, Any]) -> tuple[float, ...]:
        """The costs among the objectives as shares of the unpruned model's; NaN for those that `facts`, of a plan or a
        record, lacks."""
        found = []
        for name in (name for name in self.objectives if not MEASURES[name].quality):
            value, whole = facts.get(name), MEASURES[name].unpruned
            found.append(math.nan if value is None else self._loss(name, value, facts[whole] if whole else 1.0))
        return tuple(found)

    def _loss(self, name: str, value: float, scale: float) -> float:
        if MEASURES[name].better < 0 or name == QUALITY:
            return -MEASURES[name].better * value / scale
        return 1 / value if value > 0 else float("inf")

    def volume(self, points: Sequence[Sequence[float]]) -> float:
        """Hypervolume of points: from as dear as the unpruned model, and no quality at all."""
        reference = [0.0 if MEASURES[name].quality else 1.0 for name in self.objectives]
        return geometry.hypervolume_losses(points, reference)

    def covered(self, records: Iterable[dict[str, Any]]) -> float:
        """Hypervolume of the records that keep to the constraints: what a search tries to raise."""
        scored = self.scored(records)
        scale = self.scale([scored])
        return self.volume([self.point(r, scale) for r in self.satisfying(scored)])
