"""What importance and saliency let expect of a plan: the numbers that a surrogate's mean is a line of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effir_dist.importance.ranking import Importance


class Damage:
    """Expected damage by what goes, of MLPs and of attentions; and how much of each is left."""

    def __init__(self, importance: Importance, saliency: np.ndarray | None, width: int) -> None:
        """saliency: [L, F] of the neurons, non-negative; None where it is not known. width: F."""
        kinds = {"mlp": importance.mlp, "attention": importance.attention}
        self.weights = [_weights(values, importance.drop_order(kind)) for kind, values in kinds.items()]
        """Of MLPs and of attentions: [2, L] by rank and by value, each with the sum 1."""
        self.lost = _lost(saliency, len(importance.mlp), width)
        """[L, F + 1] share of an MLP's saliency that goes where so many of its neurons stay."""

    def __call__(self, widths: np.ndarray, attention: np.ndarray) -> np.ndarray:
        """[P, 9] damage of MLPs, of attentions, and of both, by rank and by value; what is left of each, and of both.

        widths: [P, L] neurons that stay. attention: [P, L] whether it stays.
        """
        lost = self.lost[np.arange(widths.shape[1]), widths]
        mlp, attentions = (gone @ each.T for gone, each in zip((lost, ~attention), self.weights, strict=True))
        left = np.column_stack([widths.mean(axis=1) / (self.lost.shape[1] - 1), attention.mean(axis=1)])
        return np.column_stack([mlp, attentions, mlp + attentions, left, left.sum(axis=1)])


def _weights(values: Sequence[float], order: Sequence[int]) -> np.ndarray:
    rank = np.empty(len(order))
    rank[list(order)] = np.arange(1, len(order) + 1)
    value = np.maximum(np.nan_to_num(np.array(values, float)), 0)
    return np.stack([rank / rank.sum(), value / value.sum() if value.sum() > 0 else rank / rank.sum()])


def _lost(saliency: np.ndarray | None, blocks: int, width: int) -> np.ndarray:
    if saliency is None:
        return np.tile(np.linspace(1.0, 0.0, width + 1), (blocks, 1))
    falling = -np.sort(-np.maximum(saliency, 0).astype(float), axis=1)
    kept = np.cumsum(falling, axis=1) / np.maximum(falling.sum(axis=1, keepdims=True), 1e-30)
    return 1 - np.append(np.zeros((blocks, 1)), kept, axis=1)
