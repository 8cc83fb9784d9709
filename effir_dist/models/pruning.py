"""Pruning plans: a tuple of operations, what they leave of a model, and applying them to one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effir_dist.core.errors import InputError
from effir_dist.core.values import Json
from effir_dist.models import operations as known_operations
from effir_dist.models.families.base import ModelDict
from effir_dist.models.operations.base import Operation, Sizes
from effir_dist.models.operations.drop import Drop, keeps_norms
from effir_dist.models.operations.narrow import Narrow, block_groups, kept_by_rank, narrowed, rounded, width_share
from effir_dist.models.operations.truncate import Truncate, truncated

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = [
    "PruningPlan",
    "apply_plan",
    "block_groups",
    "count_parameters",
    "kept_by_rank",
    "kept_neurons",
    "make_plan",
    "mlp_widths",
    "moving_share",
    "rounded",
    "width_share",
]


@dataclass(frozen=True, init=False)
class PruningPlan:
    """What pruning does to a model. Hashable; equal plans give equal models."""

    operations: tuple[Operation, ...]
    """One of a kind, by `Operation.order`; none that changes nothing."""

    def __init__(
        self,
        dropped_mlp: Iterable[int] = (),
        dropped_attention: Iterable[int] = (),
        widths: Iterable[tuple[int, int]] = (),
        ranking: str = "",
        operations: Iterable[Operation] = (),
        keep_norms: bool = False,
    ) -> None:
        """Blocks that lose their MLP or attention; (block, neurons kept) of narrowed MLPs, and which ranking chose the
        neurons; any other operations; and whether norms stay behind dropped sub-layers (`Drop.keep_norms`), which a
        plan by itself cannot know: `make_plan` does."""
        drop = Drop(tuple(dropped_mlp), tuple(dropped_attention), keep_norms)
        narrow = Narrow(tuple(widths), ranking)
        object.__setattr__(self, "operations", tuple(_in_order([drop, narrow, *operations])))

    def with_operations(self, more: Iterable[Operation]) -> PruningPlan:
        """This plan and more."""
        added = [operation for operation in more if not operation.empty]
        return PruningPlan(operations=[*self.operations, *added]) if added else self

    @property
    def dropped_mlp(self) -> tuple[int, ...]:
        """The blocks without an MLP."""
        return self._drop.mlp

    @property
    def dropped_attention(self) -> tuple[int, ...]:
        """The blocks without an attention."""
        return self._drop.attention

    @property
    def keep_norms(self) -> bool:
        """Whether norms stay behind dropped sub-layers."""
        return self._drop.keep_norms

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """(block, neurons kept) for each narrowed MLP."""
        return self._narrow.widths

    @property
    def ranking(self) -> str:
        """Which ranking chose the neurons; empty where no MLP is narrowed."""
        return self._narrow.ranking

    @property
    def dimension(self) -> int:
        """Numbers kept of an embedding; 0 where all are."""
        return next((o.dimension for o in self.operations if isinstance(o, Truncate)), 0)

    @property
    def needs_neurons(self) -> bool:
        """Whether the importance of neurons is needed to apply it to weights."""
        return any(operation.needs_neurons for operation in self.operations)

    @property
    def _drop(self) -> Drop:
        return next((o for o in self.operations if isinstance(o, Drop)), Drop())

    @property
    def _narrow(self) -> Narrow:
        return next((o for o in self.operations if isinstance(o, Narrow)), Narrow(()))

    def to_dict(self) -> Json:
        """Plain data for JSON."""
        return {"operations": [known_operations.to_json(operation) for operation in self.operations]}

    @staticmethod
    def from_dict(tree: Json) -> PruningPlan:
        """The inverse of `to_dict`; also reads how plans were written before there were operations.

        Raises InputError where the mapping is no plan.
        """
        try:
            if "dropped_mlp" in tree:
                return _from_old_form(tree)
            return PruningPlan(operations=[known_operations.from_json(each) for each in tree["operations"]])
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a pruning plan ({error!r}): {json.dumps(tree)[:200]}") from None

    def key(self) -> str:
        """Content hash, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, config: ModelDict) -> None:
        """Raises InputError where the plan does not fit a model of this config."""
        sizes = Sizes.of(config)
        for operation in self.operations:
            operation.check(sizes)
            sizes = operation.left(sizes)

    def sizes(self, config: ModelDict) -> Sizes:
        """What the plan leaves of an unpruned model of this config."""
        sizes = Sizes.of(config)
        for operation in self.operations:
            sizes = operation.left(sizes)
        return sizes

    def describe(self, config: ModelDict) -> str:
        """What was pruned, short enough for a plot: '-3 MLP, width 70 %'."""
        sizes = self.sizes(config)
        return ", ".join(operation.describe(sizes) for operation in self.operations) or "unpruned"


def _in_order(operations: Iterable[Operation]) -> Iterator[Operation]:
    """One of a kind, by order; none that changes nothing."""
    merged: dict[str, Operation] = {}
    for operation in operations:
        if not operation.empty:
            known = merged.get(operation.kind)
            merged[operation.kind] = known.merged(operation) if known else operation
    yield from sorted(merged.values(), key=lambda operation: (operation.order, operation.kind))


def _from_old_form(tree: Json) -> PruningPlan:
    """Of runs and exports before format 2. Their dimension is not in the plan, but in the trial's settings."""
    return PruningPlan(
        [int(block) for block in tree["dropped_mlp"]],
        [int(block) for block in tree["dropped_attention"]],
        [(int(block), int(width)) for block, width in tree["widths"].items()],
        str(tree["ranking"]),
    )


def make_plan(
    config: ModelDict,
    dropped_mlp: Iterable[int] = (),
    dropped_attention: Iterable[int] = (),
    width_ratio: float | Sequence[float] = 1.0,
    neuron_scores: np.ndarray | None = None,
    ranking: str = "",
    multiple: int = 1,
    keep_norms: bool = True,
) -> PruningPlan:
    """A plan that drops sub-layers, then keeps the best `width_ratio` of the neurons that are left.

    Several ratios are for as many `block_groups`: neurons are ranked within each (`narrowed`). neuron_scores: [L, F],
    higher stays; needed where a ratio is below 1. Widths are multiples of `multiple`. keep_norms: whether norms behind
    the sums of dropped sub-layers stay, where a family has them there.
    """
    kept = keeps_norms(config, keep_norms)
    plan = PruningPlan(dropped_mlp, dropped_attention, keep_norms=kept)
    ratios = [width_ratio] if isinstance(width_ratio, int | float) else list(width_ratio)
    plan = plan.with_operations(narrowed(plan.sizes(config), ratios, neuron_scores, ranking, multiple, kept))
    plan.check(config)
    return plan


def truncated_plan(config: ModelDict, plan: PruningPlan, dimension: int) -> PruningPlan:
    """The plan of a trial whose setting `model.dimension` is this, where the plan itself does not say.

    Plans that were written before there were operations do not.
    """
    return plan if plan.dimension else plan.with_operations(truncated(dimension, Sizes.of(config)))


def kept_neurons(plan: PruningPlan, neuron_scores: np.ndarray) -> dict[int, np.ndarray]:
    """Indices of the neurons that stay in each narrowed MLP, ascending. neuron_scores: [L, F]."""
    return plan._narrow.kept(neuron_scores)


def count_parameters(config: ModelDict, plan: PruningPlan | None = None) -> int:
    """Parameters of the model without LM head, by formula from its config alone."""
    return (plan or PruningPlan()).sizes(config).parameters()


def moving_share(config: ModelDict, plan: PruningPlan) -> float:
    """Parameters that each token is multiplied with, as a share of the unpruned model's: all but the embeddings.

    What a step of training or a scored token costs, as a share of the unpruned model's.
    """
    return plan.sizes(config).block_parameters() / Sizes.of(config).block_parameters()


def mlp_widths(config: ModelDict, plan: PruningPlan) -> list[int]:
    """[L] neurons kept in each block's MLP; 0 where it is dropped."""
    return list(plan.sizes(config).widths)


def apply_plan(model: nn.Module, config: ModelDict, plan: PruningPlan, neuron_scores: np.ndarray | None = None) -> None:
    """Remove what the plan takes away from a transformers model, in place.

    neuron_scores: [L, F] of the plan's ranking. Without them only the shapes are right, for weights that are loaded
    next.
    """
    plan.check(config)
    for operation in plan.operations:
        operation.apply(model, config, neuron_scores)
