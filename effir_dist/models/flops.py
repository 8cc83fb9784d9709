"""Floating-point operations of encoding, from a model's config, its plan and the lengths of texts: what work is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effir_dist.models.families.base import ModelDict, block_count
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import PruningPlan, mlp_widths

if TYPE_CHECKING:
    import numpy as np


def count_flops(config: ModelDict, lengths: np.ndarray, plan: PruningPlan | None = None) -> float:
    """FLOPs of a forward pass over texts of `lengths` [N] tokens: matrices and attention, of real tokens alone.

    A multiplication and an addition are two. Where attention is causal half of the pairs of tokens count; a sliding
    window is not subtracted. Embeddings, norms, activations and softmax, a few per cent, are left out.
    """
    import numpy as np

    row, plan = family(config), plan or PruningPlan()
    lengths = np.asarray(lengths, np.float64)
    blocks = block_count(config) - len(plan.dropped_attention)
    weights = blocks * row.attention_parameters(config)
    weights += sum(row.mlp_parameters(config, width) for width in mlp_widths(config, plan) if width)
    pairs = (lengths * (lengths + 1) / 2 if row.causal(config) else lengths**2).sum()
    attention = 4 * blocks * row.query_width(config) * pairs
    return float(2 * weights * lengths.sum() + attention)
