"""What a search trades off, under which constraints; and the front and the hypervolume that follow.

A cost is compared as a share of the unpruned model's, quality likewise. Speed is a ratio to begin with: the unpruned
model is measured beside the pruned one in the same process (speed.py), so trials of different machines compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from effir_dist.runs import pareto as geometry
from effir_dist.core.errors import InputError
from effir_dist.core.measures import DEFAULT, MEASURES, QUALITY, Constraint, parse_constraint
from effir_dist.runs.repeats import pooled

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
        return any(MEASURES[n].measured for n in self.objectives) or any(c.measure.measured for c in self.constraints)

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
        found = {c.text: c.violation(record, whole or {}) for c in self.constraints}
        return {text: value for text, value in found.items() if value is not None}

    def broken_by_plan(self, facts: dict[str, Any]) -> list[str]:
        """The constraints that a plan violates whatever comes of it. facts: `outcomes.plan_facts`."""
        known = self.under(lambda constraint: constraint.measure.known)
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
