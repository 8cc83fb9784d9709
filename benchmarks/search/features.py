"""What the emulator sees of a plan: what is left of each part, and sums over the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.search.outcomes import Shape, Table
from effir_dist.models.pruning import PruningPlan

RUNS = 3
"""Runs of consecutive blocks of which the mean is an input: first, middle and last."""


class Features:
    """Inputs of a table's plans: K numbers each."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.mlp, self.attention, self.block = (
            _shares(values) for values in (table.importance.mlp, table.importance.attention, table.importance.block)
        )
        scores = -np.sort(-table.neurons, axis=1)
        self.mass = np.column_stack([np.zeros(len(scores)), scores.cumsum(1)]) / scores.sum(1, keepdims=True)
        """[L, F + 1] share of an MLP's activation in its first neurons."""
        self._known: dict[PruningPlan, np.ndarray] = {}
        sums = self._sums(table.shape(PruningPlan()))
        parts = self._parts(table.shape(PruningPlan()))
        self.sums = range(len(sums))
        """Places of the inputs that are sums over the model."""
        self.count = len(sums) + len(parts)

    def of(self, plans: Sequence[PruningPlan]) -> np.ndarray:
        """[N, K]."""
        for plan in plans:
            if plan not in self._known:
                shape = self.table.shape(plan)
                self._known[plan] = np.array([*self._sums(shape), *self._parts(shape)])
        return np.stack([self._known[plan] for plan in plans])

    def _parts(self, shape: Shape) -> list[float]:
        """What is left of each MLP, by two scales, and which attentions there are."""
        widths = np.array(shape.widths)
        attention = map(float, shape.attention) if self.table.drops_attentions else ()
        return [*widths**0.25, *widths, *attention]

    def _sums(self, shape: Shape) -> list[float]:
        """How many are gone, how important they are, how they lie, and how large the model is."""
        widths, bare = np.array(shape.widths), ~np.array(shape.attention)
        lost, gone = 1 - widths**0.25, widths == 0
        places = np.rint(widths * (self.mass.shape[1] - 1)).astype(int)
        missed = 1 - self.mass[np.arange(len(widths)), places]
        runs = [float(run.mean()) for run in np.array_split(lost, RUNS)]
        found = [shape.size, shape.moving, gone.sum(), widths.mean(), missed.sum(), self.mlp @ missed]
        found += [self.mlp @ lost, self.mlp @ gone, self.mlp @ (1 - widths)]
        found += [(gone[1:] & gone[:-1]).sum(), _longest(gone)]
        if self.table.drops_attentions:
            both = gone & bare
            found += [bare.sum(), self.attention @ bare, both.sum(), self.block @ both, (bare[1:] & bare[:-1]).sum()]
            found += [(gone[:-1] & bare[1:]).sum(), _longest(np.column_stack([bare, gone]).ravel())]
        return [*map(float, found), *runs]


def _shares(importance: Sequence[float]) -> np.ndarray:
    """[L] importance as shares of all."""
    values = np.nan_to_num(np.array(importance, float))
    return values / (values.sum() or 1.0)


def _longest(gone: np.ndarray) -> int:
    """The most consecutive ones."""
    longest = here = 0
    for each in gone:
        here = here + 1 if each else 0
        longest = max(longest, here)
    return longest
