"""What a plan says of a model before anything is trained: what is left of its parts, and its sizes by formula."""

from __future__ import annotations

from dataclasses import dataclass

from effir_dist.models.families.backbones import ModelDict, family, mlp_width
from effir_dist.models.pruning import PruningPlan, count_parameters, mlp_widths

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


def plan_facts(model_config: ModelDict, plan: PruningPlan, dimension: int = 0) -> PlanFacts:
    """dimension: kept of an embedding; 0 keeps all."""
    hidden, widths = int(model_config["hidden_size"]), mlp_widths(model_config, plan)
    staying = [width for width in widths if width]
    return PlanFacts(
        dropped_mlp=plan.dropped_mlp,
        dropped_attention=plan.dropped_attention,
        mlp_widths=tuple(widths),
        width_ratio=round(sum(staying) / (len(staying) * mlp_width(model_config)), 4) if staying else 1.0,
        dimension=min(dimension or hidden, hidden),
    )


def plan_values(model_config: ModelDict, plan: PruningPlan, dimension: int = 0) -> dict[str, float]:
    """The measures that a plan tells (core/measures.py), and the unpruned model's. dimension: as for `plan_facts`."""
    hidden, rest = int(model_config["hidden_size"]), family(model_config).other_parameters(model_config)
    kept = min(dimension or hidden, hidden)
    full, left = count_parameters(model_config), count_parameters(model_config, plan)
    return {
        "parameters": left,
        "parameters_fraction": left / full,
        "full_parameters": full,
        "block_parameters": left - rest,
        "full_block_parameters": full - rest,
        "index_bytes": BYTES_A_NUMBER * kept,
        "full_index_bytes": BYTES_A_NUMBER * hidden,
    }
