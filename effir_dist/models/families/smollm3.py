"""SmolLM 3: a decoder of which every fourth block has no rotary positions."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes

FAMILY = Family(
    **formulas.decoder_parts(),
    model_type="smollm3",
    class_name="SmolLM3",
    attention_parameters=formulas.llama_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=formulas.decoder_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window"},
    decilm=None,  # it turns queries and keys in every block
    space="llama",
    tiny={"num_key_value_heads": 2, "no_rope_layer_interval": 2, "pad_token_id": 0, "use_sliding_window": True},
    backbones=(
        Backbone(
            "smollm3-3b",
            "HuggingFaceTB/SmolLM3-3B",
            sizes("smollm3", 128256, 2048, 11008, 36, 16, num_key_value_heads=4),
            looked_up="https://github.com/huggingface/transformers (what SmolLM3Config has by itself)",
        ),
    ),
)
