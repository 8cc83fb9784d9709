"""Qwen 3: a decoder with norms on queries and keys, and heads of a size of their own."""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, head_size, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """A plain decoder's, and the norms of queries and keys, which compute in float32 too."""
    hidden, width = need(config, "hidden_size"), mlp_width(config)
    inner, keys = formulas.query_width(config), formulas.key_width(config)
    norms = 8 * hidden + 4 * need(config, "num_attention_heads") + 8
    head_norms = 4 * (inner + keys + (inner + keys) // head_size(config))
    saved = 4 * hidden + 2 * inner + formulas.attended(config, longest) + keys + 4 * width + longest
    return size * saved + norms + head_norms


_COUNTED = "https://github.com/keras-team/keras-hub/pull/2455 (its numbers of parameters)"
_EMBEDDING = tuple(
    Backbone(
        f"qwen3-embedding-{size}",
        f"Qwen/Qwen3-Embedding-{size.upper()}",
        sizes("qwen3", vocab, hidden, width, blocks, heads, num_key_value_heads=8, head_dim=128),
        looked_up=_COUNTED,
        retriever=True,
    )
    for size, vocab, hidden, width, blocks, heads in (
        ("0.6b", 151669, 1024, 3072, 28, 16),
        ("4b", 151665, 2560, 9728, 36, 32),
        ("8b", 151665, 4096, 12288, 36, 32),
    )
)
FAMILY = Family(
    **formulas.decoder_parts(),
    model_type="qwen3",
    class_name="Qwen3",
    attention_parameters=formulas.llama_attention_with_head_norms,
    mlp_parameters=formulas.gated_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window"},
    decilm=None,  # it knows no norms on queries and keys
    space="qwen",
    tiny={"num_key_value_heads": 2, "head_dim": 16},
    backbones=(
        Backbone(
            "qwen3-0.6b",
            "Qwen/Qwen3-0.6B-Base",
            sizes("qwen3", 151936, 1024, 3072, 28, 16, num_key_value_heads=8, head_dim=128),
            looked_up="https://huggingface.co/brygotti/MNLP_M2_mcqa_model (trained from it)",
        ),
        *_EMBEDDING,
    ),
    short_names={"qwen": "qwen3-0.6b"},
)
