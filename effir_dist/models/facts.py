"""What a plan says of a model before anything is trained: sizes, by formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effir_dist.models.families.backbones import ModelDict
from effir_dist.models.operations.base import Sizes
from effir_dist.models.pruning import PruningPlan, truncated_plan, width_share

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


def facts_of_plan(model_config: ModelDict, plan: PruningPlan) -> PlanFacts:
    """What a plan leaves of a model of this config."""
    left = plan.sizes(model_config)
    return PlanFacts(
        dropped_mlp=plan.dropped_mlp,
        dropped_attention=plan.dropped_attention,
        mlp_widths=left.widths,
        width_ratio=round(width_share(left), 4),
        dimension=left.dimension,
    )


def values_of_plan(model_config: ModelDict, plan: PruningPlan) -> dict[str, float]:
    """The measures that a plan tells (core/measures.py), and the unpruned model's."""
    full, left = Sizes.of(model_config), plan.sizes(model_config)
    parameters, full_parameters = left.parameters(), full.parameters()
    return {
        "parameters": parameters,
        "parameters_fraction": parameters / full_parameters,
        "full_parameters": full_parameters,
        "block_parameters": left.block_parameters(),
        "full_block_parameters": full.block_parameters(),
        "index_bytes": BYTES_A_NUMBER * left.dimension,
        "full_index_bytes": BYTES_A_NUMBER * full.dimension,
    }


def plan_facts(model_config: ModelDict, head: Mapping[str, Any], dimension: int = 0) -> dict[str, Any]:
    """The part of a record that follows from what was suggested (`study.Suggestion.to_dict`) and the model alone.

    dimension: the run's `model.dimension`, for trials that did not vary it and whose plan was written in the old form,
    without the dimension.
    """
    asked = int(head["suggested"].get("model.dimension", dimension))
    plan = truncated_plan(model_config, PruningPlan.from_dict(head["plan"]), asked)
    facts, values = facts_of_plan(model_config, plan), values_of_plan(model_config, plan)
    lists = {name: list(getattr(facts, name)) for name in ("dropped_mlp", "dropped_attention", "mlp_widths")}
    return {**lists, "width_ratio": facts.width_ratio, **values, "dimension": facts.dimension}
