"""Granite 3: a Llama that multiplies embeddings, attention scores, and what a sub-layer adds to the stream."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family
from effir_dist.models.families.formulas import sizes

FAMILY = Family(
    **{**formulas.decoder_parts(), "norm_placement": "scaled_pre"},
    model_type="granite",
    class_name="Granite",
    attention_parameters=formulas.llama_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=formulas.decoder_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={},
    decilm=None,  # it knows no multipliers
    space="llama",
    tiny={
        "num_key_value_heads": 2,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.6,
    },
    backbones=(
        Backbone(
            "granite-3.2-2b-instruct",
            "ibm-granite/granite-3.2-2b-instruct",
            sizes("granite", 49155, 2048, 8192, 40, 32, num_key_value_heads=8),
            looked_up="https://huggingface.co/unsloth/granite-3.2-2b-instruct (a copy)",
        ),
    ),
)
