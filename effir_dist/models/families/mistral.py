"""Mistral: a plain decoder without biases, perhaps with a sliding window."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict
from effir_dist.models.families.formulas import sizes


def _attention(config: ModelDict) -> int:
    return formulas.decoder_attention(config, qkv_bias=False, o_bias=False, qk_norm=False)


FAMILY = Family(
    **formulas.decoder_parts(),
    model_type="mistral",
    class_name="Mistral",
    attention_parameters=_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=formulas.decoder_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window"},
    decilm={},
    space="mistral",
    tiny={"num_key_value_heads": 2},
    backbones=(
        Backbone(
            "mistral-7b",
            "mistralai/Mistral-7B-v0.1",
            sizes("mistral", 32000, 4096, 14336, 32, 32, num_key_value_heads=8),
            looked_up="https://huggingface.co/dmayboroda/42_mistral_0.1 (trained from it)",
        ),
        Backbone(
            "e5-mistral-7b-instruct",
            "intfloat/e5-mistral-7b-instruct",
            sizes("mistral", 32000, 4096, 14336, 32, 32, num_key_value_heads=8),
            looked_up="https://huggingface.co/krilecy/e5-mistral-7b-instruct (a duplicate)",
            retriever=True,
        ),
    ),
    short_names={"mistral": "mistral-7b"},
)
