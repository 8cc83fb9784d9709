"""Gemma 2: four norms a block, windows in every other block, and scores that are capped.

No attention of torch's caps scores, so transformers' own runs (`eager`), on padded texts.
"""

from __future__ import annotations

from effir_dist.models.families import formulas
from effir_dist.models.families.base import Backbone, Family, ModelDict, mlp_width, need
from effir_dist.models.families.formulas import sizes


def _attention(config: ModelDict) -> int:
    return formulas.llama_attention(config) + need(config, "hidden_size")


def _saved_bytes(config: ModelDict, size: int, longest: int) -> int:
    """Eager attention keeps capped scores, probabilities in float32, and those rounded; four norms are in float32."""
    hidden, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    attention = formulas.query_width(config) + formulas.attended(config, longest) + 2 * heads * longest
    saved = 2 * hidden + attention + 4 * mlp_width(config)
    return size * saved + 4 * heads * longest + 4 * (8 * hidden + 4)


FAMILY = Family(
    **formulas.sandwich_parts(),
    model_type="gemma2",
    class_name="Gemma2",
    attention_parameters=_attention,
    mlp_parameters=formulas.sandwiched_mlp,
    other_parameters=formulas.decoder_rest,
    first_attention_saves=formulas.none,
    query_width=formulas.query_width,
    saved_bytes=_saved_bytes,
    linear_layers=formulas.decoder_linear_layers,
    attention_options={"sliding_window": "sliding_window", "softcap": "attn_logit_softcapping"},
    decilm=None,  # it knows one norm a sub-layer
    space="gemma",
    tiny={"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "attn_logit_softcapping": 2.0},
    backbones=(
        Backbone(
            "gemma-2-2b",
            "google/gemma-2-2b",
            sizes("gemma2", 256000, 2304, 9216, 26, 8, num_key_value_heads=4, head_dim=256),
            looked_up="https://huggingface.co/kemura/gemma-2b-sql-finetuned (trained from it)",
        ),
    ),
)
