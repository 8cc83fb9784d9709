"""Formulas that several families share. A family names those that hold for it; none holds by default.

Letters: V vocabulary, D hidden size, F MLP width, H heads, K key-value heads, d head size.
"""

from __future__ import annotations

from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.models.families.base import ModelDict, head_size, mlp_width, need

EFFIR_QUERY_PROMPT = "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"


def none(_: ModelDict) -> int:
    """No parameters."""
    return 0


def never(_: ModelDict) -> bool:
    """An encoder: every token sees all others."""
    return False


def decoder_causal(config: ModelDict) -> bool:
    """Every token sees those before it, unless the config says `"is_causal": false`: transformers' key for decoders.

    Raises InputError for `use_bidirectional_attention`, which transformers' code of plain decoders does not read.
    """
    causal = config.get("is_causal") is not False
    if causal and config.get("use_bidirectional_attention"):
        raise InputError(
            f"config.json says \"use_bidirectional_attention\", which transformers ignores for {config['model_type']}: "
            'its attention would be causal; write "is_causal": false for one that sees both sides, or remove the key'
        )
    return causal


def query_width(config: ModelDict) -> int:
    """H * d."""
    return need(config, "num_attention_heads") * head_size(config)


def key_width(config: ModelDict) -> int:
    """K * d."""
    return (config.get("num_key_value_heads") or need(config, "num_attention_heads")) * head_size(config)


def attended(config: ModelDict, longest: int) -> int:
    """Queries, keys and values that attention saves of a token; padded, keys and values are repeated for all heads."""
    inner = query_width(config)
    return inner + 2 * (inner if longest else key_width(config))


def decoder_attention(config: ModelDict, qkv_bias: bool, o_bias: bool, qk_norm: bool) -> int:
    """Projections q, k, v, o, optional biases and per-head norms, and the sub-layer's own norm."""
    hidden, inner, kv_inner = need(config, "hidden_size"), query_width(config), key_width(config)
    total = 2 * hidden * inner + 2 * hidden * kv_inner + hidden
    return total + qkv_bias * (inner + 2 * kv_inner) + o_bias * hidden + qk_norm * 2 * head_size(config)


def gated_mlp(config: ModelDict, width: int) -> int:
    """gate, up and down [F, D], optional biases, and the sub-layer's own norm."""
    hidden = need(config, "hidden_size")
    bias = bool(config.get("mlp_bias", False))
    return 3 * hidden * width + hidden + bias * (2 * width + hidden)


def decoder_rest(config: ModelDict) -> int:
    """Embeddings and the last norm."""
    return need(config, "vocab_size") * need(config, "hidden_size") + need(config, "hidden_size")


def decoder_linear_layers(config: ModelDict) -> list[tuple[int, int]]:
    """q, k, v, o, gate, up, down."""
    hidden, inner, keys, width = need(config, "hidden_size"), query_width(config), key_width(config), mlp_width(config)
    attention = [(hidden, inner), (hidden, keys), (hidden, keys), (inner, hidden)]
    return [*attention, (hidden, width), (hidden, width), (width, hidden)]


def decoder_saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """Rotary attention and a gated MLP behind norms that compute in float32."""
    hidden, inner, width = need(config, "hidden_size"), query_width(config), mlp_width(config)
    norms = 8 * hidden + 4 * need(config, "num_attention_heads") + 8
    return size * (4 * hidden + inner + attended(config, longest) + 4 * width + longest) + norms


def decoder_parts() -> dict[str, Any]:
    """Where the parts of a pre-norm decoder with a gated MLP are, and how it is used as a retriever.

    Formulas, attention options and what other tools make of it are not among them: each family declares its own.
    """
    return {
        "blocks": "layers",
        "norm_placement": "pre",
        "attention": ("self_attn", "input_layernorm"),
        "mlp": ("mlp", "post_attention_layernorm"),
        "mlp_in": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp_out": "mlp.down_proj",
        "fused": 1,
        "decoder": True,
        "causal": decoder_causal,
        "append_eos": True,
        "pooling": "last",
        "query_prompt": EFFIR_QUERY_PROMPT,
        "document_prompt": "",
        "max_length": 512,
        "checkpoint_prefix": "model.",
        "load_options": {},
    }


def sizes(model_type: str, vocab: int, hidden: int, width: int, blocks: int, heads: int, **more: Any) -> ModelDict:
    """The config of a named backbone, as far as formulas need it."""
    return {
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        **more,
    }
