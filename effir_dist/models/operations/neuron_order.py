"""How many of the best neurons each MLP has, among any MLPs of a model: asked of hundreds of plans for each trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

STEP = 256
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
