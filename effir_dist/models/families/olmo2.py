"""OLMo 2: a decoder that normalises what a sub-layer gives, not what it reads; queries and keys have norms as well."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _attention(config: ModelDict) -> int:
    """The norms of queries and keys are over all heads together."""
    bias = bool(config.get("attention_bias", False))
    plain = formulas.decoder_attention(config, qkv_bias=bias, o_bias=bias, qk_norm=False)
    return plain + formulas.query_width(config) + formulas.key_width(config)


def _mlp(config: ModelDict, width: int) -> int:
    return 3 * need(config, "hidden_size") * width + need(config, "hidden_size")


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """Four norms, two of them within the attention, keep what they get and what they scale in float32."""
    hidden, width = need(config, "hidden_size"), mlp_width(config)
    inner, keys = formulas.query_width(config), formulas.key_width(config)
    norms = 8 * (2 * hidden + inner + keys) + 16
    saved = 2 * hidden + inner + formulas.attended(config, longest) + 4 * width + longest
    return size * saved + norms + 4 * need(config, "num_attention_heads")


FAMILY = Family(
    **{
        **formulas.decoder_parts(),
        "norm_placement": "res_post",
        "attention": ("self_attn", "post_attention_layernorm"),
        "mlp": ("mlp", "post_feedforward_layernorm"),
    },
    model_type="olmo2",
    class_name="Olmo2",
    attention_parameters=_attention,
    mlp_parameters=_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={},
    decilm=None,  # its norms are elsewhere
    space="llama",
    tiny={"num_key_value_heads": 2},
    backbones=(
        Backbone(
            "olmo-2-7b",
            "allenai/OLMo-2-1124-7B",
            sizes("olmo2", 100352, 4096, 11008, 32, 32, num_key_value_heads=32),
            looked_up="https://huggingface.co/shanearora/i-am-a-good-open-base-model (a copy)",
        ),
    ),
)
