"""Qwen 2 and 2.5: a plain decoder with a bias on queries, keys and values."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict
from effir_dist.models.families.formulas import sizes


def _attention(config: ModelDict) -> int:
    return formulas.decoder_attention(config, qkv_bias=True, o_bias=False, qk_norm=False)


FAMILY = Family(
    **formulas.decoder_parts(),
    model_type="qwen2",
    class_name="Qwen2",
    attention_parameters=_attention,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=formulas.decoder_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window"},
    decilm={"qkv_bias": True},
    space="qwen",
    tiny={"num_key_value_heads": 2},
    backbones=(
        Backbone(
            "qwen2.5-1.5b",
            "Qwen/Qwen2.5-1.5B",
            sizes("qwen2", 151936, 1536, 8960, 28, 12, num_key_value_heads=2),
            looked_up="https://huggingface.co/OrangeEye/qwen-25-1.5b-base-sft (trained from it)",
        ),
        Backbone(
            "qwen2.5-3b",
            "Qwen/Qwen2.5-3B",
            sizes("qwen2", 151936, 2048, 11008, 36, 16, num_key_value_heads=2),
            looked_up="https://huggingface.co/unsloth/Qwen2.5-3B (a copy)",
        ),
        Backbone(
            "qwen2.5-7b",
            "Qwen/Qwen2.5-7B",
            sizes("qwen2", 152064, 3584, 18944, 28, 28, num_key_value_heads=4),
            looked_up="https://huggingface.co/ksh1119/qwen2.5_7b_kor_cp_it (trained from it)",
        ),
    ),
)
