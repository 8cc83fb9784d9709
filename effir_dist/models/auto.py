"""`import effir_dist.auto`: transformers and sentence-transformers then load exported models without remote code."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from effir_dist.models import modeling_effir
from effir_dist.models.families.base import Family
from effir_dist.models.families.registry import for_each


def _teach(row: Family) -> None:
    """Tell transformers' Auto classes of a family's pruned models."""
    prefix = f"Effir{row.class_name}"
    config = getattr(modeling_effir, f"{prefix}Config")
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, getattr(modeling_effir, f"{prefix}Model"), exist_ok=True)
    if row.decoder:
        AutoModelForCausalLM.register(config, getattr(modeling_effir, f"{prefix}ForCausalLM"), exist_ok=True)


for_each(_teach)
