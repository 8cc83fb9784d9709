"""How many of the best neurons each MLP has, among any MLPs of a model: asked of hundreds of plans for each trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

STEP = 64
"""Neurons between two rows of `NeuronOrder.counts`."""


class NeuronOrder:
    """The neurons of all blocks by falling score, sorted once; ties keep order."""

    def __init__(self, scores: np.ndarray) -> None:
        """scores: [L, F], higher stays."""
        import numpy as np

        self.blocks, self.width = scores.shape
        order = np.argsort(-scores, axis=None, kind="stable") // self.width
        steps = -(-len(order) // STEP)
        self.order = np.append(order, np.full(steps * STEP - len(order), self.blocks))
        """[S * STEP] block of each neuron, the best first; the rest is L."""
        rows = np.repeat(np.arange(steps), STEP) * (self.blocks + 1) + self.order
        each = np.bincount(rows, minlength=steps * (self.blocks + 1)).reshape(steps, self.blocks + 1)
        self.counts = np.concatenate([np.zeros((1, self.blocks), int), each.cumsum(0)[:, : self.blocks]])
        """[S + 1, L] neurons of each block among the first 0, STEP, 2 * STEP, ... of the order."""

    def kept(self, among: Sequence[int], ratio: float) -> np.ndarray:
        """[N] how many neurons of each block in `among`, which rises, are among the best `ratio` of all of theirs."""
        import numpy as np

        left = round(ratio * len(among) * self.width)
        counts = self.counts[:, among]
        step = int(np.searchsorted(counts.sum(axis=1), left, side="right")) - 1
        found: np.ndarray = counts[step]
        here = self.order[step * STEP : (step + 1) * STEP]
        best = here[np.isin(here, among)][: left - found.sum()]
        return found + np.bincount(best, minlength=self.blocks)[list(among)]

    def kept_of_many(self, group: range, staying: np.ndarray, ratios: np.ndarray) -> np.ndarray:
        """[P, N] `kept` of each row: among the blocks of a group [N] that `staying` [P, N] names, with its own of
        `ratios` [P]; 0 for the others."""
        import numpy as np

        counts = self.counts[:, group.start : group.stop]
        left = np.rint(ratios * staying.sum(axis=1) * self.width).astype(int)
        low, high = np.zeros(len(left), int), np.full(len(left), len(counts) - 1)
        while (low < high).any():  # the last step whose neurons are not more than those left
            middle = (low + high + 1) // 2
            fits = (counts[middle] * staying).sum(axis=1) <= left
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        found = counts[low] * staying
        rows, places = np.arange(len(left))[:, None], low[:, None] * STEP + np.arange(STEP)
        here = self.order[np.minimum(places, len(self.order) - 1)] - group.start
        here = np.where((here >= 0) & (here < len(group)), here, len(group))
        inside = np.pad(staying, ((0, 0), (0, 1)))[rows, here]
        taken = inside & (inside.cumsum(axis=1) <= (left - found.sum(axis=1))[:, None])
        more = np.bincount((rows * len(group) + here)[taken], minlength=found.size)
        return np.asarray(found + more.reshape(found.shape))
