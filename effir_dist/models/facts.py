"""What a plan says of a model before anything is trained: sizes, by formula."""

from __future__ import annotations

from typing import Any

from effir_dist.models.families.backbones import ModelDict, family, mlp_width
from effir_dist.models.pruning import PruningPlan, count_parameters, mlp_widths

BYTES_A_NUMBER = 4
"""Of a vector in an exact index: float32, as scoring searches it."""


def plan_facts(model_config: ModelDict, head: dict[str, Any], dimension: int = 0) -> dict[str, Any]:
    """The part of a record that follows from what was suggested (`study.Suggestion.to_dict`) and the model alone.

    dimension: the run's `model.dimension`, for trials that did not vary it.
    """
    plan = PruningPlan.from_dict(head["plan"])
    hidden, rest = int(model_config["hidden_size"]), family(model_config).other_parameters(model_config)
    kept = min(int(head["suggested"].get("model.dimension", dimension)) or hidden, hidden)
    full, left = count_parameters(model_config), count_parameters(model_config, plan)
    staying = [width for width in mlp_widths(model_config, plan) if width]
    return {
        "dropped_mlp": list(plan.dropped_mlp),
        "dropped_attention": list(plan.dropped_attention),
        "mlp_widths": mlp_widths(model_config, plan),
        "width_ratio": round(sum(staying) / (len(staying) * mlp_width(model_config)), 4) if staying else 1.0,
        "parameters": left,
        "parameters_fraction": left / full,
        "full_parameters": full,
        "block_parameters": left - rest,
        "full_block_parameters": full - rest,
        "dimension": kept,
        "index_bytes": BYTES_A_NUMBER * kept,
        "full_index_bytes": BYTES_A_NUMBER * hidden,
    }
