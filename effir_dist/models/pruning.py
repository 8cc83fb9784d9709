"""Pruning plans: what goes, how many parameters stay, and the surgery: modules and rows are removed, nothing masked."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effir_dist.core.errors import InputError
from effir_dist.models.families.backbones import ModelDict, block_count, family, mlp_width

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


@dataclass(frozen=True)
class PruningPlan:
    """Which sub-layers are dropped and how wide the MLPs are that stay. Hashable; equal plans give equal models."""

    dropped_mlp: tuple[int, ...] = ()
    dropped_attention: tuple[int, ...] = ()
    widths: tuple[tuple[int, int], ...] = ()
    """(block, neurons kept) for each narrowed MLP; an MLP that is in neither list keeps its full width."""
    ranking: str = ""
    """Which ranking chose the neurons; empty where no MLP is narrowed."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "dropped_mlp": list(self.dropped_mlp),
            "dropped_attention": list(self.dropped_attention),
            "widths": {str(block): width for block, width in self.widths},
            "ranking": self.ranking,
        }

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> PruningPlan:
        """The inverse of `to_dict`. Raises InputError where the mapping is no plan."""
        try:
            return PruningPlan(
                tuple(sorted(int(b) for b in tree["dropped_mlp"])),
                tuple(sorted(int(b) for b in tree["dropped_attention"])),
                tuple(sorted((int(b), int(w)) for b, w in tree["widths"].items())),
                str(tree["ranking"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a pruning plan ({error!r}): {json.dumps(tree)[:200]}") from None

    def key(self) -> str:
        """Content hash, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, config: ModelDict) -> None:
        """Raises InputError where the plan does not fit a model of this config."""
        blocks, full = block_count(config), mlp_width(config)
        named = [*self.dropped_mlp, *self.dropped_attention, *(block for block, _ in self.widths)]
        outside = [block for block in named if not 0 <= block < blocks]
        if outside:
            raise InputError(f"the plan names block {outside[0]}, but the model has blocks 0 to {blocks - 1}")
        for block, width in self.widths:
            if not 0 < width <= full or block in self.dropped_mlp:
                raise InputError(f"the plan gives MLP {block} the width {width}; expected 1 to {full}, and not dropped")


def make_plan(
    config: ModelDict,
    dropped_mlp: Iterable[int] = (),
    dropped_attention: Iterable[int] = (),
    width_ratio: float | Sequence[float] = 1.0,
    neuron_scores: np.ndarray | None = None,
    ranking: str = "",
    multiple: int = 1,
) -> PruningPlan:
    """A plan that drops sub-layers, then keeps the best `width_ratio` of the neurons that are left.

    Neurons are ranked globally over all MLPs that stay (paper, section 3.2), so widths differ per block; an MLP
    left without neurons is dropped. Several ratios are for as many `block_groups`: neurons are then ranked within each.
    neuron_scores: [L, F], higher stays; needed where a ratio is below 1. Widths are multiples of `multiple`.
    """
    dropped = sorted(set(dropped_mlp))
    full = mlp_width(config)
    ratios = [width_ratio] if isinstance(width_ratio, int | float) else list(width_ratio)
    widths: dict[int, int] = {}
    for ratio, group in zip(ratios, block_groups(block_count(config), len(ratios)), strict=True):
        staying = [block for block in group if block not in dropped]
        if ratio < 1.0 and staying:
            if neuron_scores is None:
                raise ValueError("neuron_scores are needed to narrow MLPs")
            kept = rounded(kept_by_rank(neuron_scores[staying], ratio), multiple, full)
            widths |= {block: int(count) for block, count in zip(staying, kept, strict=True) if count < full}
    dropped = sorted({*dropped, *(block for block, width in widths.items() if width == 0)})
    narrowed = tuple(sorted((block, width) for block, width in widths.items() if width))
    plan = PruningPlan(tuple(dropped), tuple(sorted(set(dropped_attention))), narrowed, ranking if narrowed else "")
    plan.check(config)
    return plan


def block_groups(blocks: int, groups: int) -> list[range]:
    """The blocks in `groups` runs of consecutive ones, as equal as they can be, first blocks first."""
    edges = [round(blocks * i / groups) for i in range(groups + 1)]
    return [range(low, high) for low, high in itertools.pairwise(edges)]


def kept_by_rank(scores: np.ndarray, ratio: float) -> np.ndarray:
    """How many neurons of each row are among the best `ratio` of all rows. scores: [N, F] -> [N]; ties keep order."""
    import numpy as np

    keep = round(ratio * scores.size)
    if not keep:
        return np.zeros(len(scores), np.int64)
    # A selection, not a sort: a strategy asks this of hundreds of plans for each trial.
    least = np.partition(scores, scores.size - keep, axis=None)[scores.size - keep]
    kept = (scores > least).sum(axis=1)
    tied = np.flatnonzero(scores == least)[: keep - kept.sum()]
    return kept + np.bincount(tied // scores.shape[1], minlength=len(scores))


def rounded(widths: np.ndarray, multiple: int, full: int) -> np.ndarray:
    """Widths as multiples, at most `full`, their sum as near to the old one as multiples allow. [N] -> [N].

    Each is rounded down; those that lost most get one more, until the sum is reached.
    """
    import numpy as np

    units, lost = np.divmod(widths, multiple)
    missing = round(float(widths.sum()) / multiple) - int(units.sum())
    room = (units + 1) * multiple <= full
    for index in [i for i in np.argsort(-lost, kind="stable") if room[i]][: max(0, missing)]:
        units[index] += 1
    return units * multiple


def kept_neurons(plan: PruningPlan, neuron_scores: np.ndarray) -> dict[int, np.ndarray]:
    """Indices of the neurons that stay in each narrowed MLP, ascending. neuron_scores: [L, F]."""
    import numpy as np

    return {block: np.sort(np.argsort(-neuron_scores[block], kind="stable")[:width]) for block, width in plan.widths}


def count_parameters(config: ModelDict, plan: PruningPlan | None = None) -> int:
    """Parameters of the model without LM head, by formula from its config alone."""
    plan = plan or PruningPlan()
    row, blocks, full = family(config), block_count(config), mlp_width(config)
    widths = dict(plan.widths)
    total = row.other_parameters(config)
    total += sum(row.mlp_parameters(config, widths.get(b, full)) for b in range(blocks) if b not in plan.dropped_mlp)
    first_missing = 0 if 0 in plan.dropped_attention else row.first_attention_saves(config)
    return total + row.attention_parameters(config) * (blocks - len(plan.dropped_attention)) - first_missing


def moving_share(config: ModelDict, plan: PruningPlan) -> float:
    """Parameters that each token is multiplied with, as a share of the unpruned model's: all but the embeddings.

    What a step of training or a scored token costs, as a share of the unpruned model's.
    """
    every = tuple(range(block_count(config)))
    fixed = count_parameters(config, PruningPlan(every, every))
    return (count_parameters(config, plan) - fixed) / (count_parameters(config) - fixed)


def mlp_widths(config: ModelDict, plan: PruningPlan) -> list[int]:
    """[L] neurons kept in each block's MLP; 0 where it is dropped."""
    widths = dict(plan.widths)
    full = mlp_width(config)
    return [0 if b in plan.dropped_mlp else widths.get(b, full) for b in range(block_count(config))]


def apply_plan(
    model: nn.Module, config: ModelDict, plan: PruningPlan, kept: Mapping[int, np.ndarray] | None = None
) -> None:
    """Remove what the plan drops from `model`, in place.

    kept: indices of the neurons that stay, per narrowed block (`kept_neurons`). Without it the first ones stay: only
    the shapes are then right, for weights that are loaded next.
    """
    import torch

    from effir_dist.models.modeling_effir import drop, narrow

    plan.check(config)
    row = family(config)
    blocks: Any = model.get_submodule(row.blocks)
    for block, width in plan.widths:
        narrow(blocks[block], row, torch.as_tensor(kept[block]) if kept is not None else torch.arange(width))
    for block in sorted({*plan.dropped_mlp, *plan.dropped_attention}):
        drop(blocks[block], row, block in plan.dropped_attention, block in plan.dropped_mlp)
