"""Gemma 3, text alone, and EmbeddingGemma: four norms a block, norms on queries and keys, windows in most blocks.

Its norms multiply by 1 + weight, its embeddings by the root of D, and blocks with a window have another rotary base:
all that is transformers' own code, which runs here, and changes no formula.
"""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, head_size, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _causal(config: ModelDict) -> bool:
    """Two keys make it see both sides: that of all decoders, and its own, with which its windows are halved too."""
    return not config.get("use_bidirectional_attention") and formulas.decoder_causal(config)


def _attention(config: ModelDict) -> int:
    return formulas.llama_attention_with_head_norms(config) + need(config, "hidden_size")


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """All norms compute in float32, and keep what they read and what they scale."""
    hidden, width = need(config, "hidden_size"), mlp_width(config)
    inner, keys = formulas.query_width(config), formulas.key_width(config)
    saved = 2 * hidden + inner + formulas.attended(config, longest) + 4 * width + longest
    norms = 4 * (8 * hidden + 4) + 8 * (inner + keys) + 4 * (inner + keys) // head_size(config)
    return size * saved + norms + 4 * need(config, "num_attention_heads")


_IDENTITY = "torch.nn.modules.linear.Identity"
_HEADS = {"num_key_value_heads": 1, "head_dim": 256}
_DENSE = [
    {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": _IDENTITY}
    for inputs, outputs in ((768, 3072), (3072, 768))
]
"""EmbeddingGemma's two layers behind the pooling, as RedHatAI/embeddinggemma-300m, a duplicate, has them."""
FAMILY = Family(
    **{**formulas.sandwich_parts(), "causal": _causal},
    model_type="gemma3_text",
    class_name="Gemma3Text",
    attention_parameters=_attention,
    mlp_parameters=formulas.sandwiched_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window"},
    decilm=None,  # it knows one norm a sub-layer
    space="gemma",
    tiny={
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
    },
    backbones=(
        Backbone(
            "embeddinggemma-300m",
            "google/embeddinggemma-300m",
            sizes(
                "gemma3_text", 262144, 768, 1152, 24, 3, **_HEADS, use_bidirectional_attention=True, effir_dense=_DENSE
            ),
            looked_up="https://huggingface.co/acradin/DK_embedding (trained from it)",
            retriever=True,
        ),
        Backbone(
            "gemma-3-270m",
            "google/gemma-3-270m",
            sizes("gemma3_text", 262144, 640, 2048, 18, 4, **_HEADS),
            looked_up="https://huggingface.co/Codingstark/gemma3-270m-leetcode (trained from its instruct model)",
        ),
        Backbone(
            "gemma-3-1b",
            "google/gemma-3-1b-pt",
            sizes("gemma3_text", 262144, 1152, 6912, 26, 4, **_HEADS),
            looked_up="https://huggingface.co/mlx-community/gemma-3-1b-pt-6bit (a copy for MLX)",
        ),
    ),
    short_names={"gemma": "gemma-3-270m", "embeddinggemma": "embeddinggemma-300m"},
)
