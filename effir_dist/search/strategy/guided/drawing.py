"""Plans for a sampler to choose among: drawn anew, or changed from the best ones so far. Many at once, as arrays.

New ones have from few to many drops, all counts equally likely. Their sets lie near the order of importance or
anywhere: each plan has a noise of its own on that order. Widths of groups of blocks vary together. Changed ones are
those of the front with a drop more or less, two swapped, a width moved; or two of them crossed. All of it follows from
the generator alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from effir_dist.models.operations.many import Columns
from effir_dist.models.operations.space_part import Switches
from effir_dist.search.strategy.guided.numbers import from_unit, steps, to_unit
from effir_dist.search.strategy.guided.pool import column

NOISES = (0.05, 0.15, 0.4, 10.0)
"""Of the order of importance, in the length of the order; the last leaves nothing of it."""
ACTIVE = 0.7
"""Probability that a plan drops anything of a kind, and that it narrows anything."""
CROSSED = 0.3
"""Share of the changed plans that are crossed first."""


@dataclass(frozen=True)
class Genes:
    """P points in a form that is easily changed."""

    sets: list[np.ndarray]
    """For each of `Switches` [P, N] what goes, in its order."""
    numbers: np.ndarray
    """[P, numeric parameters] in [0, 1]."""
    choices: np.ndarray
    """[P, other parameters] place among their choices."""

    def take(self, places: np.ndarray) -> Genes:
        return Genes([each[places] for each in self.sets], self.numbers[places], self.choices[places])

    def join(self, other: Genes) -> Genes:
        sets = [np.concatenate(pair) for pair in zip(self.sets, other.sets, strict=True)]
        return Genes(sets, np.concatenate([self.numbers, other.numbers]), np.concatenate([self.choices, other.choices]))


class Drawing:
    """Draws points of a search space."""

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        switches: Sequence[Switches] | None = None,
        unpruned: Mapping[str, Any] | None = None,
    ) -> None:
        """switches: parameters that say what goes; None takes all with the choices no and yes for one set.
        unpruned: the values that prune nothing."""
        self.distributions = dict(distributions)
        self.switches = [*(_all_of(distributions) if switches is None else switches)]
        taken = {name for each in self.switches for name in (*each.names, each.count)}
        rest = [name for name in distributions if name not in taken]
        self.choosing = [name for name in rest if isinstance(distributions[name], CategoricalDistribution)]
        self.numeric = [name for name in rest if name not in self.choosing]
        self.unpruned = np.array([_unit(distributions[n], (unpruned or {}).get(n)) for n in self.numeric])
        """For each numeric parameter the value that prunes nothing; NaN where none is told."""
        heads = [name.rpartition(".")[0] for name in self.numeric]
        self.together = [[i for i, h in enumerate(heads) if h == head] for head in dict.fromkeys(heads) if head]
        """Numeric parameters of one name, such as the widths of groups of blocks."""
        self.together += [[i] for i, head in enumerate(heads) if not head]
        own = [head or place for place, head in enumerate(heads)]
        self.of_one_name = np.array([[one == other for one in own] for other in own])
        """[N, N] whether two numeric parameters are of one name."""
        self.steps = np.array([steps(distributions[name]) or 20 for name in self.numeric])

    def draw(self, count: int, best: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Columns:
        """[count] points: half of them new, the rest changed from `best` where there are any."""
        if not best:
            return self.columns(self.fresh(count, rng, active=1.0))
        best = sorted(best, key=repr)  # their order in a resumed search is another one
        changed = self.changed(self.genes(best), count // 2, rng)
        return self.columns(self.fresh(count - count // 2, rng).join(changed))

    def uniform(self, count: int, rng: np.random.Generator) -> Columns:
        """[count] points, every value as likely as any other."""
        sets = [rng.random((count, len(each.order))) < 0.5 for each in self.switches]
        counts = [rng.integers(each.limit + 1, size=count) for each in self.switches]
        counted = zip(sets, counts, self.switches, strict=True)
        sets = [s if each.names else np.arange(s.shape[1]) < k[:, None] for s, k, each in counted]
        fresh = self.fresh(count, rng)
        return self.columns(Genes(sets, rng.random(fresh.numbers.shape), fresh.choices))

    def near(self, best: Columns, count: int, rng: np.random.Generator) -> Columns:
        """[count] points with small changes to those of `best`."""
        names = list(self.distributions)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*(best[n] for n in names), strict=True)]
        return self.columns(self.changed(self.genes(rows), count, rng))

    def fresh(self, count: int, rng: np.random.Generator, active: float = ACTIVE) -> Genes:
        """New ones. active: as `ACTIVE`; before any result each of a batch's plans is to tell of everything."""
        sets = []
        for each in self.switches:
            size, noise = len(each.order), rng.choice(NOISES, count)
            order = np.arange(size) / size + noise[:, None] * rng.standard_normal((count, size))
            wanted = np.round(each.limit * _even(count, rng)) * (rng.random(count) < active)
            sets.append(order.argsort(axis=1).argsort(axis=1) < wanted[:, None])
        numbers = np.column_stack([_even(count, rng) for _ in self.numeric] or [np.zeros((count, 0))])
        for group in self.together:
            self._vary_together(numbers, group, active, rng)
        choices = [rng.integers(len(self.distributions[name].choices), size=count) for name in self.choosing]  # type: ignore[attr-defined]
        return Genes(sets, numbers, np.column_stack(choices or [np.zeros((count, 0), int)]))

    def _vary_together(self, numbers: np.ndarray, group: list[int], active: float, rng: np.random.Generator) -> None:
        """Values of one name lie near each other; where one of them prunes nothing, often all do."""
        count, unpruned = len(numbers), self.unpruned[group]
        if len(group) > 1:
            spread = rng.choice([0.0, 0.1, 0.3], count)[:, None] * rng.standard_normal((count, len(group)))
            numbers[:, group] = np.clip(numbers[:, group[:1]] + spread, 0, 1)
        if not np.isnan(unpruned).any():
            whole = rng.random(count) > active
            numbers[:, group] = np.where(whole[:, None], unpruned, numbers[:, group])

    def changed(self, parents: Genes, count: int, rng: np.random.Generator) -> Genes:
        """Children of parents: some crossed, all with one to three changes."""
        children = parents.take(rng.integers(len(parents.numbers), size=count))
        self._cross(children, parents.take(rng.integers(len(parents.numbers), size=count)), rng)
        kinds = [kind for kind, some in enumerate((self.switches, self.numeric, self.choosing)) if some]
        weights = np.array([(3.0, 2.0, 1.0)[kind] for kind in kinds])
        times = rng.integers(1, 4, size=count)
        for turn in range(3):
            which = rng.choice(kinds, size=count, p=weights / weights.sum())
            for kind, change in ((0, self._change_set), (1, self._change_number), (2, self._change_choice)):
                rows = np.flatnonzero((which == kind) & (turn < times))
                if len(rows):
                    change(children, rows, rng)
        return children

    def _cross(self, children: Genes, others: Genes, rng: np.random.Generator) -> None:
        crossed = rng.random(len(children.numbers)) < CROSSED
        pairs = [*zip(children.sets, others.sets, strict=True)]
        for own, other in [*pairs, (children.numbers, others.numbers), (children.choices, others.choices)]:
            taken = (rng.random(own.shape) < 0.5) & crossed[:, None]
            own[taken] = other[taken]

    def _change_set(self, children: Genes, rows: np.ndarray, rng: np.random.Generator) -> None:
        """One more goes, one fewer, or one for another; the next ones in the order more often."""
        which = rng.integers(len(self.switches), size=len(rows))
        more, fewer = ((rng.random(len(rows)) < 2 / 3) for _ in range(2))
        for place, each in enumerate(self.switches):
            own = rows[which == place]
            found = children.sets[place][own]
            order = np.arange(len(each.order)) / len(each.order)
            likely = order * rng.choice([0.0, 3.0], len(own))[:, None] + rng.random(found.shape)
            at = np.arange(len(own))
            add = np.where(found, np.inf, likely).argmin(axis=1)
            away = np.where(found, likely, -np.inf).argmax(axis=1)
            some, left = found.any(axis=1), found.sum(axis=1) < len(each.order)
            adds = more[which == place] & left
            removes = (fewer[which == place] | ~adds) & some
            found[at[adds], add[adds]] = True
            found[at[removes], away[removes]] = False
            children.sets[place][own] = found

    def _change_number(self, children: Genes, rows: np.ndarray, rng: np.random.Generator) -> None:
        """Some steps up or down: one value, or all of its name."""
        which, alone = rng.integers(len(self.numeric), size=len(rows)), rng.random(len(rows)) < 0.6
        by = rng.choice([-2, -1, -1, 1, 1, 2], size=len(rows)) / self.steps[which]
        moved = np.where(alone[:, None], np.arange(len(self.numeric)) == which[:, None], self.of_one_name[which])
        before = children.numbers[rows]
        children.numbers[rows] = np.where(moved, np.clip(before + by[:, None], 0, 1), before)

    def _change_choice(self, children: Genes, rows: np.ndarray, rng: np.random.Generator) -> None:
        which = rng.integers(len(self.choosing), size=len(rows))
        sizes = np.array([len(self.distributions[name].choices) for name in self.choosing])  # type: ignore[attr-defined]
        children.choices[rows, which] = np.floor(rng.random(len(rows)) * sizes[which]).astype(int)

    def genes(self, points: Sequence[Mapping[str, Any]]) -> Genes:
        """Of points; what one lacks prunes nothing."""
        sets = []
        for each in self.switches:
            found = np.array([[bool(p.get(name, False)) for name in each.names] for p in points], bool)
            found = found if each.names else np.zeros((len(points), len(each.order)), bool)
            counts = np.array([int(p.get(each.count, 0)) for p in points])
            sets.append(found ^ (np.arange(len(each.order)) < counts[:, None]))
        kinds = ((self.numeric, to_unit, float), (self.choosing, _place, int))
        rows = [
            np.array([[read(self.distributions[n], p[n]) if n in p else 0 for n in names] for p in points], kind)
            for names, read, kind in kinds
        ]
        return Genes(sets, rows[0], rows[1])

    def columns(self, genes: Genes) -> Columns:
        """The values that suggest points."""
        found: dict[str, np.ndarray] = {}
        for each, gone in zip(self.switches, genes.sets, strict=True):
            gone = gone & (gone.cumsum(axis=1) <= each.limit)
            count = gone.sum(axis=1)
            if each.count:
                found[each.count], gone = count, gone ^ (np.arange(gone.shape[1]) < count[:, None])
            found |= {name: gone[:, place] for place, name in enumerate(each.names)}
        found |= {n: from_unit(self.distributions[n], genes.numbers[:, i]) for i, n in enumerate(self.numeric)}
        for i, name in enumerate(self.choosing):
            choices = self.distributions[name].choices  # type: ignore[attr-defined]
            found[name] = column([choices[place] for place in genes.choices[:, i]])
        return {name: found[name] for name in self.distributions}


def _all_of(distributions: Mapping[str, BaseDistribution]) -> list[Switches]:
    """Every yes or no of a space, as one set; which of them matter is not known."""
    names = [n for n, d in distributions.items() if isinstance(d, CategoricalDistribution) and _is_switch(d)]
    return [Switches(tuple(range(len(names))), len(names), tuple(names))] if names else []


def _is_switch(distribution: CategoricalDistribution) -> bool:
    return tuple(map(repr, distribution.choices)) == ("False", "True")


def _even(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] numbers in [0, 1], evenly spread, in a random order."""
    return np.asarray((rng.permutation(count) + rng.random(count)) / count)


def _unit(distribution: BaseDistribution, value: Any) -> float:
    return float("nan") if value is None else to_unit(distribution, value)


def _place(distribution: BaseDistribution, value: Any) -> int:
    assert isinstance(distribution, CategoricalDistribution)
    return int(distribution.to_internal_repr(value))
