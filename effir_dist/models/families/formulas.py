"""Formulas that several families share. A family names those that hold for it; none holds by default.

Letters: V vocabulary, D hidden size, F MLP width, H heads, K key-value heads, d head size.
"""

from __future__ import annotations

import re
from typing import Any

from effir_dist.core.errors import InputError
from effir_dist.models.families.base import ModelDict, head_size, mlp_width, need

EFFIR_QUERY_PROMPT = "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"


def none(_: ModelDict) -> int:
    """Nothing: no parameters, or positions from 0 on."""
    return 0


def never(_: ModelDict) -> bool:
    """An encoder: every token sees all others."""
    return False


def decoder_causal(config: ModelDict) -> bool:
    """Every token sees those before it, unless the config says `"is_causal": false`: transformers' key for decoders.

    Raises InputError where a config without that key speaks of another attention, by words which transformers' code of
    decoders does not read: it would be causal without a word.
    """
    said, hint = config.get("is_causal"), _hint_of_both_sides(config)
    if said is None and hint:
        raise InputError(
            f"config.json has {hint}: its attention may see both sides, and transformers' {config.get('model_type')} "
            'would be causal; write "is_causal": false for one that sees both sides, or true for one that does not'
        )
    return said is not False


def _hint_of_both_sides(config: ModelDict) -> str:
    """What in a config says that a decoder is not causal; empty where nothing does.

    Keys such as `use_bidirectional_attention`, and classes such as LLM2Vec's LlamaEncoderModel. What code of its own
    does (gte-Qwen2's) is found by running it: models/own_code.py.
    """
    keys = [key for key, value in config.items() if "bidirec" in key and value]
    classes = [name for name in config.get("architectures") or () if re.search("Encoder|Bi([A-Z]|direc)", name)]
    return ", ".join([*keys, *classes])


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


def llama_attention(config: ModelDict) -> int:
    """A decoder's attention, with a bias on all four projections where the config has `attention_bias`."""
    bias = bool(config.get("attention_bias", False))
    return decoder_attention(config, qkv_bias=bias, o_bias=bias, qk_norm=False)


def llama_attention_with_head_norms(config: ModelDict) -> int:
    """The same, with norms on queries and keys."""
    return llama_attention(config) + 2 * head_size(config)


def gated_mlp(config: ModelDict, width: int) -> int:
    """gate, up and down [F, D], optional biases, and the sub-layer's own norm."""
    hidden = need(config, "hidden_size")
    bias = bool(config.get("mlp_bias", False))
    return 3 * hidden * width + hidden + bias * (2 * width + hidden)


def sandwiched_mlp(config: ModelDict, width: int) -> int:
    """`gated_mlp` and a second norm behind it."""
    return gated_mlp(config, width) + need(config, "hidden_size")


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


def bert_attention(config: ModelDict) -> int:
    """Projections q, k, v, o with biases, and the norm behind them with its bias."""
    hidden = need(config, "hidden_size")
    return 4 * (hidden * hidden + hidden) + 2 * hidden


def bert_mlp(config: ModelDict, width: int) -> int:
    """Two matrices [F, D] with biases, and the norm behind them with its bias."""
    hidden = need(config, "hidden_size")
    return 2 * hidden * width + width + hidden + 2 * hidden


def bert_norm(config: ModelDict) -> int:
    """A norm's weight and bias."""
    return 2 * need(config, "hidden_size")


def bert_rest(config: ModelDict) -> int:
    """Embeddings of tokens, positions and token types, and their norm with its bias."""
    tables = need(config, "vocab_size") + need(config, "max_position_embeddings") + config.get("type_vocab_size", 2)
    return tables * need(config, "hidden_size") + 2 * need(config, "hidden_size")


def bert_saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """Attention and an MLP of two matrices, each with a norm behind it."""
    saved = 5 * need(config, "hidden_size") + attended(config, longest) + 2 * mlp_width(config) + longest
    return size * saved + 4 * need(config, "num_attention_heads")


def bert_linear_layers(config: ModelDict) -> list[tuple[int, int]]:
    """q, k, v, o, and the two matrices of the MLP."""
    hidden, width = need(config, "hidden_size"), mlp_width(config)
    return [*[(hidden, hidden)] * 4, (hidden, width), (width, hidden)]


def bert_config(config: ModelDict) -> ModelDict:
    """A config as it is written. Raises InputError for what transformers would not compute, or compute causally."""
    for key, known in (("position_embedding_type", "absolute"), ("is_decoder", False), ("add_cross_attention", False)):
        if config.get(key, known) != known:
            raise InputError(
                f"config.json says {key} {config[key]!r}; of {config['model_type']} only {known!r} is known: "
                "embeddings would be other than those that the model was trained for"
            )
    return config


def bert_parts() -> dict[str, Any]:
    """Where the parts of BERT and its like are, and how they are used as retrievers.

    Their positions, embeddings, attention options and what a backward pass keeps are each family's own to declare.
    """
    return {
        "blocks": "encoder.layer",
        "block_gives_tuple": False,
        "norm_placement": "post",
        "attention": ("attention",),
        "mlp": ("intermediate", "output"),
        "norms_behind": ("attention.output.LayerNorm", "output.LayerNorm"),
        "attention_out": "attention.output.dense",
        "mlp_in": ("intermediate.dense",),
        "mlp_out": "output.dense",
        "fused": 1,
        "decoder": False,
        "causal": never,
        "append_eos": False,
        "pooling": "mean",
        "query_prompt": "",
        "document_prompt": "",
        "max_length": 512,
        "attention_parameters": bert_attention,
        "mlp_parameters": bert_mlp,
        "norm_behind_parameters": bert_norm,
        "first_attention_saves": none,
        "query_width": query_width,
        "linear_layers": bert_linear_layers,
        "load_options": {"add_pooling_layer": False},
        "read_config": bert_config,
        "decilm": None,
        "space": "bert",
    }


def after_padding(config: ModelDict) -> int:
    """The first position of families that count on from the id of the padding token, as fairseq does."""
    return need({"pad_token_id": 1, **config}, "pad_token_id") + 1


def decoder_parts() -> dict[str, Any]:
    """Where the parts of a pre-norm decoder with a gated MLP are, and how it is used as a retriever.

    Formulas, attention options and what other tools make of it are not among them: each family declares its own.
    """
    return {
        "blocks": "layers",
        "block_gives_tuple": False,
        "norm_placement": "pre",
        "attention": ("self_attn", "input_layernorm"),
        "mlp": ("mlp", "post_attention_layernorm"),
        "attention_out": "self_attn.o_proj",
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
        "load_options": {},
        "first_position": none,
    }


def sandwich_parts() -> dict[str, Any]:
    """The same of a decoder with a second norm behind each sub-layer."""
    return decoder_parts() | {
        "norm_placement": "sandwich",
        "attention": ("self_attn", "input_layernorm", "post_attention_layernorm"),
        "mlp": ("mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
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
