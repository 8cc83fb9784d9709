"""How many of the best neurons each MLP has, among any MLPs of a model: asked of hundreds of plans for each trial."""

from __future__ import annotations

from bisect import bisect_right
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
        rows = np.arange(len(order)) // STEP * self.blocks + order
        each = np.bincount(rows, minlength=steps * self.blocks).reshape(steps, self.blocks)
        self.counts = np.concatenate([np.zeros((1, self.blocks), int), each.cumsum(0)])
        """[S + 1, L] neurons of each block among the first 0, STEP, 2 * STEP, ... of the order."""
        self.order = np.pad(order, (0, (steps + 1) * STEP - len(order))).reshape(steps + 1, STEP)
        """[S + 1, STEP] block of each neuron, the best first; what fills the end is never reached."""

    def kept(self, among: Sequence[int], ratio: float) -> np.ndarray:
        """[N] how many neurons of each block in `among`, which rises, are among the best `ratio` of all of theirs."""
        import numpy as np

        left, staying = round(ratio * len(among) * self.width), np.zeros(self.blocks, bool)
        staying[list(among)] = True
        step = bisect_right(range(len(self.counts)), left, key=lambda step: self.counts[step] @ staying) - 1
        found, here = self.counts[step], self.order[step]
        best = here[staying[here]][: left - found @ staying]
        return np.asarray((found + np.bincount(best, minlength=self.blocks))[staying])

    def kept_of_many(self, staying: np.ndarray, ratios: np.ndarray) -> np.ndarray:
        """[P, L] `kept` of each row: among the blocks that `staying` [P, L] says, with its own of `ratios` [P]; 0 for
        the others."""
        import numpy as np

        left = np.rint(ratios * staying.sum(axis=1) * self.width).astype(int)
        numbers, coarse = staying.astype(int), self.counts[::STEP].T.astype(float)
        low = STEP * ((staying @ coarse <= left[:, None]).sum(axis=1) - 1)
        high = np.minimum(low + STEP, len(self.counts)) - 1
        while (low < high).any():  # the last step whose neurons are not more than those left
            middle = (low + high + 1) // 2
            fits = np.einsum("pl,pl->p", self.counts[middle], numbers) <= left
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        found, here = self.counts[low] * numbers, self.order[low]
        inside = np.take_along_axis(staying, here, axis=1)
        rows, places = np.nonzero(inside & (inside.cumsum(axis=1) <= (left - found.sum(axis=1))[:, None]))
        more = np.bincount(rows * self.blocks + here[rows, places], minlength=found.size)
        return np.asarray(found + more.reshape(found.shape))
