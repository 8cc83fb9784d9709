"""`import effir_dist.auto`: transformers and sentence-transformers then load exported models without remote code."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from effir_dist.models import modeling_effir
from effir_dist.models.families.backbones import FAMILIES

for _row in FAMILIES.values():
    _prefix = f"Effir{_row.class_name}"
    _config = getattr(modeling_effir, f"{_prefix}Config")
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, getattr(modeling_effir, f"{_prefix}Model"), exist_ok=True)
    if _row.append_eos:
        AutoModelForCausalLM.register(_config, getattr(modeling_effir, f"{_prefix}ForCausalLM"), exist_ok=True)
