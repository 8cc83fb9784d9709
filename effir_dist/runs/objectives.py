"""What a search trades off, under which constraints; and the front and the hypervolume that follow.

A cost is compared as a share of the unpruned model's, quality likewise. Speed is a ratio to begin with: the unpruned
model is measured beside the pruned one in the same process, so trials of different machines compare.
The baseline is the record of the unpruned model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from effir_dist.core.errors import InputError
from effir_dist.core.measures import BLOCKS, DEFAULT, MEASURES, QUALITY, SIZE, Constraint, parse_constraint
from effir_dist.core.settings import SearchConfig
from effir_dist.core.values import Json
from effir_dist.runs.pareto import hypervolume_losses, non_dominated_losses
from effir_dist.runs.records import TrialRecord, Values
from effir_dist.runs.repeats import pooled
from effir_dist.runs.stages import outdone


def unpruned(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The baseline: the first scored record of the unpruned model, where there is one."""
    return next((r for r in records if r.complete and is_unpruned(r.values)), None)


def best_unpruned(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The best-scoring record of the unpruned model, as it is or tuned as the others are: what a safe model is held
    against. Of equal ones the first."""
    return max((r for r in records if r.complete and is_unpruned(r.values)), key=_quality, default=None)


def compared_with(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The unpruned record that tables show differences from: where trials have stages the best-scoring one, else the
    first."""
    own = [r for r in records if not r.spec.repeat_of]
    return best_unpruned(own) if any(r.spec.stage for r in own) else unpruned(own)


def _quality(record: TrialRecord) -> float:
    return float(record.values[QUALITY])


def is_unpruned(values: Values) -> bool:
    """Whether no cost that a plan tells is below the unpruned model's: no parameters, no dimensions are gone."""
    known = [entry for entry in MEASURES.values() if entry.known and entry.unpruned and entry.unpruned in values]
    return bool(known) and all(values.get(entry.name) == values[entry.unpruned] for entry in known)


@dataclass(frozen=True)
class Goal:
    """The objectives of a search and its constraints."""

    objectives: tuple[str, ...] = DEFAULT
    constraints: tuple[Constraint, ...] = ()

    @staticmethod
    def of(search: SearchConfig) -> Goal:
        """That of a run's settings."""
        return Goal(search.objectives, tuple(map(parse_constraint, search.constraints)))

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives that are costs."""
        return tuple(name for name in self.objectives if not MEASURES[name].quality)

    @property
    def cost(self) -> str:
        """The first of them: fronts are listed by it."""
        return self.costs[0]

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """As Optuna takes them."""
        return ["minimize" if MEASURES[name].better < 0 else "maximize" for name in self.objectives]

    @property
    def measured(self) -> bool:
        """Whether trials must be measured by evaluate/speed.py."""
        return any(MEASURES[n].measured for n in self.objectives) or any(c.measure.measured for c in self.constraints)

    def objective_values(self, record: TrialRecord) -> list[float]:
        """As Optuna takes them, in the order of the objectives. Raises InputError where the record lacks one."""
        missing = [name for name in self.objectives if record.value(name) is None]
        if missing:
            raise InputError(f"trial {record.trial} has no {missing[0]}, which search.objectives names")
        return [float(record.values[name]) for name in self.objectives]

    def scored(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The records that have all objectives; of a trial that was repeated one, with the means over its seeds."""
        found = pooled(r for r in records if r.complete)
        return [r for r in found if all(name in r.values for name in self.objectives)]

    def front(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The records on the front, the most expensive first."""
        feasible = self.standing(records)
        best = [feasible[i] for i in non_dominated_losses([self._losses(r.values) for r in feasible])]
        place = self.objectives.index(self.cost)
        return sorted(best, key=lambda r: self._losses(r.values)[place], reverse=True)

    def kept(self, records: Iterable[TrialRecord]) -> set[str]:
        """The trials whose models are kept and scored at the end: the front, and to compare by, though it may be off
        the front, the best-scoring unpruned model; under constraints the first one too."""
        records = list(records)
        scored = self.scored(records)
        others = [best_unpruned(scored), unpruned(scored) if self.constraints else None]
        return {r.trial for r in [*self.front(records), *others] if r}

    def feasible(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The scored records that violate no constraint, as far as is known."""
        scored = self.scored(records)
        baseline = unpruned(scored)
        return [r for r in scored if not any(v > 0 for v in self.violations(r.values, baseline).values())]

    def standing(self, records: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The feasible records, of a trial and its full recovery the better one: what fronts are made of."""
        found = self.feasible(records)
        worse = outdone(found)
        return [r for r in found if r.trial not in worse]

    def violations(self, values: Values, baseline: TrialRecord | None) -> dict[str, float]:
        """Text of each constraint -> how far values are beyond its bound (0 or less: feasible), where that is known."""
        found = {c.text: c.violation(values, baseline.values if baseline else {}) for c in self.constraints}
        return {text: value for text, value in found.items() if value is not None}

    def violated_by_plan(self, values: Values) -> list[str]:
        """The constraints that a plan violates whatever comes of it. values: those that the plan tells."""
        known = self.under(lambda constraint: constraint.measure.known)
        return [text for text, value in known.violations(values, None).items() if value > 0]

    def under(self, which: Callable[[Constraint], bool]) -> Goal:
        """The same objectives under some of the constraints."""
        return Goal(self.objectives, tuple(filter(which, self.constraints)))

    def _losses(self, values: Values) -> tuple[float, ...]:
        return tuple(-MEASURES[name].better * float(values[name]) for name in self.objectives)

    def scale(self, runs: Iterable[Iterable[TrialRecord]]) -> dict[str, float]:
        """What objectives are divided by for a hypervolume: the unpruned model's. Of several runs the largest one's
        cost, and the best one's quality (1 where none is scored): their common reference."""
        scored = [self.scored(records) for records in runs]
        baselines = [baseline for baseline in map(unpruned, scored) if baseline]
        found = {}
        for name in self.objectives:
            field = MEASURES[name].unpruned
            values = [r.values.get(field) or 0 for records in scored for r in records] if field else [1.0]
            found[name] = float(max(values, default=0) or 1.0)
        return {**found, QUALITY: max((float(r.values[QUALITY]) for r in baselines), default=0.0) or 1.0}

    def point(self, values: Values, scale: Mapping[str, float]) -> tuple[float, ...]:
        """The objectives as losses: costs as shares of the unpruned model's (time, where they are speed-ups), quality
        as a share, negative."""
        return tuple(self._loss(name, float(values[name]), scale[name]) for name in self.objectives)

    def shares(self, values: Values) -> tuple[float, ...]:
        """The costs among the objectives as shares of the unpruned model's; NaN for those that `values` lacks."""
        found = []
        for name in self.costs:
            value, field = values.get(name), MEASURES[name].unpruned
            found.append(math.nan if value is None else self._loss(name, value, values[field] if field else 1.0))
        return tuple(found)

    def _loss(self, name: str, value: float, scale: float) -> float:
        if MEASURES[name].better < 0 or name == QUALITY:
            return -MEASURES[name].better * value / scale
        return 1 / value if value > 0 else float("inf")

    def hypervolume_of(self, points: Sequence[Sequence[float]]) -> float:
        """Hypervolume of points (`point`); the reference is as expensive as the unpruned model, with no quality."""
        reference = [0.0 if MEASURES[name].quality else 1.0 for name in self.objectives]
        return hypervolume_losses(points, reference)

    def hypervolume(self, records: Iterable[TrialRecord]) -> float:
        """Hypervolume of the records that stand: what a search tries to raise."""
        scored = self.scored(records)
        scale = self.scale([scored])
        return self.hypervolume_of([self.point(r.values, scale) for r in self.standing(scored)])


def first_axis(goal: Goal, scored: Iterable[Mapping[str, float | None]]) -> str:
    """What is offered first as the cost of a plot: the search's first cost, or for the size the parameters without
    embeddings, which a user pays for at each token.

    scored: values of records, or rows of their table. Both sizes order plans alike where the rest is the same in all;
    where it is not (several models) or not known (older records), the size stays.
    """
    if goal.cost != SIZE:
        return goal.cost
    sizes = [(values.get(SIZE), values.get(BLOCKS)) for values in scored]
    rest = {math.nan if whole is None or blocks is None else whole - blocks for whole, blocks in sizes}
    return BLOCKS if len(rest) == 1 and not math.isnan(rest.pop()) else SIZE


def goal_of(config: Json) -> Goal:
    """The goal of a run folder's configuration; of an older version's, the default where it names none."""
    search = config.get("search") or {}
    constraints = tuple(parse_constraint(text) for text in search.get("constraints") or ())
    return Goal(tuple(search.get("objectives") or DEFAULT), constraints)
