"""What a plan says of a model before anything is trained: sizes, by formula."""

from __future__ import annotations

from dataclasses import dataclass

from effir_dist.models.families.base import ModelDict
from effir_dist.models.operations.base import Sizes
from effir_dist.models.pruning import PruningPlan, width_share

BYTES_A_NUMBER = 4
"""Of a vector in an exact index: float32, as scoring searches it."""


@dataclass(frozen=True)
class PlanFacts:
    """What a plan leaves of the model, for tables and drawings."""

    dropped_mlp: tuple[int, ...] = ()
    dropped_attention: tuple[int, ...] = ()
    mlp_widths: tuple[int, ...] = ()
    """[L] neurons of each block's MLP; 0 where it is dropped."""
    width_ratio: float = 1.0
    """Neurons left, as a share of those of the MLPs that stay."""
    dimension: int = 0
    """Numbers of an embedding."""
    other_operations: tuple[str, ...] = ()
    """What was done besides, in words: operations that the fields above do not show."""


def plan_facts(model_config: ModelDict, plan: PruningPlan) -> PlanFacts:
    """What a plan leaves of a model of this config."""
    left = plan.sizes(model_config)
    return PlanFacts(
        dropped_mlp=plan.dropped_mlp,
        dropped_attention=plan.dropped_attention,
        mlp_widths=left.widths,
        width_ratio=round(width_share(left), 4),
        dimension=left.dimension,
        other_operations=tuple(each.describe(left) for each in plan.operations if not each.in_facts),
    )


def plan_values(model_config: ModelDict, plan: PruningPlan) -> dict[str, float]:
    """The measures that a plan tells (core/measures.py), and the unpruned model's."""
    full, left = Sizes.of(model_config), plan.sizes(model_config)
    parameters, full_parameters = left.parameters(), full.parameters()
    blocks, full_blocks = left.block_parameters(), full.block_parameters()
    return {
        "parameters": parameters,
        "parameters_fraction": parameters / full_parameters,
        "full_parameters": full_parameters,
        "block_parameters": blocks,
        "block_parameters_fraction": blocks / full_blocks,
        "full_block_parameters": full_blocks,
        "index_bytes": BYTES_A_NUMBER * left.dimension,
        "full_index_bytes": BYTES_A_NUMBER * full.dimension,
    }
